package integration

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// inBlock is a sidecar in one block with a further line, the tenth.
func inBlock(line string) string {
	return "{\n\tadmin off\n}\n:8080 {\n\tbind 127.0.0.1\n\thttp_helper https://api.example.com {\n\t\ttoken_url https://auth.example.com/token\n\t\tclient_id app\n\t\tclient_secret_file /proc/self/comm\n\t\t" + line + "\n\t}\n}\n"
}

// inParts is a connector, a connection and a directive with a further line each: the ninth, the fifteenth and
// the twenty-second.
func inParts(connector, connection, directive string) string {
	return fmt.Sprintf(`{
	http_helper {
		connector acme {
			base_url https://{param.instance}.acme.example
			token_url https://auth.acme.example/token
			customize_scopes
			scope contacts.read
			parameter instance text
			%s
		}
		connection billing acme {
			client_id app
			client_secret_file /proc/self/comm
			parameter instance emea
			%s
		}
	}
}
:8080 {
	bind 127.0.0.1
	http_helper billing {
		%s
	}
}
`, connector, connection, directive)
}

var pathOfCaddyfile = regexp.MustCompile(` at \S*/Caddyfile:`)

// TestMistakesOfNewUsers says of each what is wrong, where, and what to do.
func TestMistakesOfNewUsers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ caddyfile, want string }{
		"scope without a connector":   {inBlock("scope orders.read"), "connection api.example.com: scope: needs a connector; scopes lists the scopes themselves, at Caddyfile:10"},
		"hyphen":                      {inBlock("auth-method none"), "connection api.example.com: unrecognized subdirective (did you mean auth_method?), at Caddyfile:10"},
		"colon":                       {inBlock("grant_type: client_credentials"), "connection api.example.com: unrecognized subdirective (did you mean grant_type?), at Caddyfile:10"},
		"capital letters":             {inBlock("Scopes a"), "connection api.example.com: unrecognized subdirective (did you mean scopes?), at Caddyfile:10"},
		"twice":                       {inBlock("token_url https://b.example"), "connection api.example.com: token_url: is given more than once, at Caddyfile:10"},
		"no unit":                     {inBlock("token_timeout 5"), "connection api.example.com: token_timeout: must be a duration above zero, such as 30s or 5m, at Caddyfile:10"},
		"colon after a header's name": {inBlock("api_header X-Key: abc"), "connection api.example.com: api_header: the first argument is not the name of a header field, which has no colon and no space, at Caddyfile:10"},
		"header in one argument":      {inBlock(`api_header "X-Key: abc"`), "connection api.example.com: api_header: takes exactly two arguments, but there are fewer; {$NAME} leaves none when NAME is not set, at Caddyfile:10"},
		"token in a header":           {inBlock("api_header Authorization x"), "connection api.example.com: api_header: Authorization cannot be set here, at Caddyfile:10"},
		"ping without a number":       {inBlock("ping /me OK"), "connection api.example.com: ping: a status must be a number from 200 to 599, at Caddyfile:10"},
		"ping without a slash":        {inBlock("ping me"), "connection api.example.com: ping: takes a method in capital letters, if any, a path that begins with a slash, and the expected statuses, if any, at Caddyfile:10"},
		"range":                       {inBlock("allow_clients 10.0.0.0/33"), "connection api.example.com: allow_clients: must be IP addresses, CIDR ranges or private_ranges, at Caddyfile:10"},
		"method":                      {inBlock("auth_method client_secret_bsic"), "auth_method: must be one of client_secret_basic, client_secret_jwt, client_secret_post, none, private_key_jwt, tls_client_auth (did you mean client_secret_basic?), at Caddyfile:10"},
		"secret for a key's method":   {inBlock("auth_method private_key_jwt"), "connection api.example.com: client_secret_file is not for auth_method private_key_jwt, at Caddyfile:9\nconnection api.example.com: auth_method private_key_jwt needs client_key_file, client_key or client_assertion_file, at Caddyfile:10"},
		"certificates not checked":    {inBlock("transport http {\n\t\t\ttls_insecure_skip_verify\n\t\t}"), "connection api.example.com: tls_insecure_skip_verify needs allow_insecure base_url, at Caddyfile:11"},
		"port":                        {inBlock("to api.internal"), "connection api.example.com: to: an address needs a port, such as 443, at Caddyfile:10"},
		"size in two words":           {inBlock("replay_buffer 64 KiB"), "connection api.example.com: replay_buffer: takes exactly one argument; put a value with spaces in quotation marks, at Caddyfile:10"},
		"Host":                        {inBlock("header_up Host {upstream_hostport}"), "connection api.example.com: header_up: has no effect on Host, which is the host of base_url; to is for another address to dial, at Caddyfile:10"},
		"parameter without connector": {inBlock("parameter instance x"), "connection api.example.com: parameter: needs a connector, at Caddyfile:10"},
		"token URL without a scheme":  {strings.Replace(inBlock(""), "https://auth", "auth", 1), "connection api.example.com: token_url: not an http or https URL: write it in full, beginning with https://, at Caddyfile:7"},
		"base URL without a scheme":   {strings.Replace(inBlock(""), "https://api", "api", 1), "http_helper: there is no connection api.example.com in the global option http_helper; a base URL begins with https://, at Caddyfile:6"},
		"variable that is not set":    {strings.Replace(inBlock(""), "client_id app", "client_id {$HTTP_HELPER_UNSET}", 1), "connection api.example.com: client_id: takes exactly one argument, but there is none; {$NAME} leaves none when NAME is not set, at Caddyfile:8"},
		"everything at once":          {strings.Replace(inBlock("on_unauthorized rety"), "client_id app", "client_id {env.HTTP_HELPER_UNSET}", 1), "connection api.example.com: on_unauthorized: must be one of retry, pass (did you mean retry?), at Caddyfile:10\nconnection api.example.com: client_id: {env.HTTP_HELPER_UNSET} is not set or empty, at Caddyfile:8"},
		"scope that is not there":     {inParts("", "scopes contacts.raed", ""), "connection billing: scopes: the connector has no scope contacts.raed (did you mean contacts.read?), at Caddyfile:15"},
		"service in a connection":     {inParts("", "base_url https://x", ""), "connection billing: base_url: belongs to connector acme, not to its connections, at Caddyfile:15"},
		"credentials in a directive":  {inParts("", "", "client_id x"), "connection billing: client_id: belongs to the connection in the global option; only with a base URL it stands here, at Caddyfile:22"},
		"credentials in a connector":  {inParts("client_secret x", "", ""), "connector acme: client_secret: belongs to a connection, not to a connector, at Caddyfile:9"},
		"variable in a connector":     {inParts("api_header X-Key {env.KEY}", "", ""), "connector acme: api_header: {env.*} and {file.*} are not for a connector, only {param.*} and {config.*}: ask for a key with a parameter of type password; connections hold the secrets, at Caddyfile:9"},
		"config value that is not":    {inParts("api_header X-Key {config.key}", "", ""), "connector acme: api_header X-Key: there is no config_value key, at Caddyfile:9"},
		"config value without value":  {inParts("config_value aud text", "", ""), "connector acme: config_value aud: exactly one of value and flow is needed, at Caddyfile:9"},
		"option of a scope":           {inParts("scope a {\n\t\t\t\tdescrption x\n\t\t\t}", "", ""), "connector acme: scope a: unrecognized subdirective descrption (did you mean description?), at Caddyfile:10"},
		"options of a dropdown":       {inParts("parameter region dropdown {\n\t\t\t\toption eu us\n\t\t\t\tdefault us\n\t\t\t}", "", ""), "connector acme: parameter region: the default us is none of its options, at Caddyfile:9"},
		"option of a transport":       {inBlock("tls_trust_pool file ca.pem"), "connection api.example.com: tls_trust_pool: belongs to transport http for the API, to token_transport for the token endpoint, at Caddyfile:10"},
		"bad option of a transport":   {inParts("", "", "dial_timeout soon"), "connection billing: dial_timeout: belongs to transport http for the API, to token_transport for the token endpoint, at Caddyfile:22"},
		"option of reverse_proxy":     {inParts("", "", "flush_intervall -1"), "connection billing: unrecognized subdirective flush_intervall (did you mean flush_interval?), at Caddyfile:22"},
		"name of a connection":        {strings.Replace(inParts("", "", ""), "http_helper billing", "http_helper biling", 1), "http_helper: there is no connection biling in the global option http_helper (did you mean billing?); a base URL begins with https://, at Caddyfile:21"},
		"name of a connector":         {strings.Replace(inParts("", "", ""), "billing acme", "billing acmee", 1), "connection billing: there is no connector acmee (did you mean acme?), at Caddyfile:11"},
		"word of the service":         {inBlock("audience https://a.example"), "connection api.example.com: unrecognized subdirective audience (did you mean token_request_param audience <value>?), at Caddyfile:10"},
		"word of OAuth":               {inBlock("token_endpoint_auth_method none"), "connection api.example.com: unrecognized subdirective token_endpoint_auth_method (did you mean auth_method?), at Caddyfile:10"},
		"one word for another":        {strings.Replace(inBlock(""), "client_secret_file", "secret", 1), "connection api.example.com: unrecognized subdirective secret (did you mean client_secret_file?), at Caddyfile:9\""},
		"word of a service elsewhere": {inParts("", "audience https://a.example", ""), "connection billing: unrecognized subdirective audience, at Caddyfile:15"},
		"no brace":                    {strings.Replace(inBlock(""), "example.com {", "example.com", 1), "connection api.example.com: http_helper: has no block: its line must end with a space and {, at Caddyfile:6\nconnection api.example.com: token_url is missing, at Caddyfile:6"},
		"no space before a brace":     {strings.Replace(inBlock(""), "example.com {", "example.com{", 1), "connection api.example.com: http_helper: has no block: its line must end with a space and {, at Caddyfile:6"},
		"no brace of a connection":    {strings.Replace(inParts("", "", ""), "billing acme {", "billing acme", 1), "http_helper: connection billing: has no block: its line must end with a space and {, at Caddyfile:11"},
		"no closing brace":            {strings.Replace(inParts("", "", ""), "\t\t}\n\t\tconnection", "\t\tconnection", 1), "connector acme: connection: belongs to the global option http_helper; is a closing brace missing above?, at Caddyfile:10"},
		"word of other clients":       {strings.Replace(inBlock(""), "token_url", "access_token_url", 1), "connection api.example.com: unrecognized subdirective access_token_url (did you mean token_url?), at Caddyfile:7"},
		"one argument of two":         {inBlock("api_header X-Key"), "connection api.example.com: api_header: takes exactly two arguments, but there are fewer; {$NAME} leaves none when NAME is not set, at Caddyfile:10"},
		"space in a URL":              {strings.Replace(inBlock(""), "https://auth.example.com/token", `"https://auth example.com/token"`, 1), "connection api.example.com: token_url: not a valid URL: its host has a character that is not possible there, at Caddyfile:7"},
		"placeholder without an end":  {inBlock("token_request_param a {env.HOME"), "connection api.example.com: token_request_param: a placeholder lacks its closing brace"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := harness.AdaptFile(t, c.caddyfile, nil)
			if err == nil {
				t.Fatal("there is no error")
			}
			got := strings.NewReplacer(`\n`, "\n", `\"`, `"`).Replace(err.Error())
			if got = pathOfCaddyfile.ReplaceAllString(got, " at Caddyfile:"); !strings.Contains(got, c.want) {
				t.Errorf("the error is\n%s\nand should have\n%s", got, c.want)
			}
		})
	}
}

// TestSitesThatLetRequestsFallThrough are warned about.
func TestSitesThatLetRequestsFallThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	block := "http_helper $API {\ntoken_url $TOKENS\n" + options{}.credentials() + "}"
	w.Run(t, w.expand(options{more: fmt.Sprintf("http://localhost:%s {\n%s\n}", harness.Port(t), block)}, harness.Config{Site: "handle_path /a {\n" + block + "\n}"}))
	eventually(t, "warnings", func() bool {
		logs := w.Logs()
		return strings.Contains(logs, "only requests to /a get to http_helper, all others get an empty response with status 200; a path without * matches nothing below it") &&
			strings.Contains(logs, "only requests addressed to localhost get to http_helper")
	})
	wantStatus(t, w.Get(t, "/b"), http.StatusOK) // which is why
}

// TestSecondSidecarOnAPort is warned about, and a reload is not.
func TestSecondSidecarOnAPort(t *testing.T) {
	t.Parallel()
	const warning = "another process listens there already"
	w := startInline(t, options{})
	config := w.inline(options{directive: "replay_buffer 1KiB"})
	if err := w.Reload(config); err != nil {
		t.Fatal(err)
	}
	second := newWorld(t, nil)
	second.Run(t, second.expand(options{more: "http://" + w.Addr + " {\nrespond second\n}"}, second.inline(options{})))
	eventually(t, "a warning", func() bool { return strings.Contains(second.Logs(), warning) })
	if strings.Contains(w.Logs(), warning) {
		t.Error("the first one warns too")
	}
}
