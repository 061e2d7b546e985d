package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestAdapt compares what each form of the directive adapts to with testdata/adapt: a Caddyfile, a
// line of dashes, and the JSON. TestCaddyfile of the root package does the same
// without a process, and writes the JSON with -update.
func TestAdapt(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			source, want, _ := strings.Cut(readFile(t, file), "----------\n")
			got, err := harness.AdaptFile(t, source, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(decoded(t, got), decoded(t, want)) {
				t.Errorf("got:\n%s\nwant:\n%s", indented(t, got), want)
			}
		})
	}
}

func decoded(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("reading JSON: %v", err)
	}
	return value
}

func indented(t *testing.T, text string) string {
	t.Helper()
	pretty, err := json.MarshalIndent(decoded(t, text), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return string(pretty) + "\n"
}

// TestConfigErrors loads wrong configurations into a running sidecar. Each error names what is
// wrong, and the sidecar keeps its configuration.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.wantOK(t)
	empty := w.File(t, "empty", "\n")
	connector := func(lines, connectionLines string) harness.Config {
		return w.named(options{service: lines, connection: connectionLines})
	}
	inline := func(service, connection, directive string) harness.Config {
		return w.inline(options{service: service, connection: connection, directive: directive})
	}
	bare := func(block string) harness.Config {
		return harness.Config{Site: "http_helper " + w.api.URL + " {\n" + block + "\n}"}
	}
	const required = "token_url http://127.0.0.1:1/\nclient_id app\nclient_secret {env.SECRET}\n"
	for name, c := range map[string]struct {
		config harness.Config
		want   []string // in the message
	}{
		"no client id":                  {bare("token_url http://127.0.0.1:1/\nclient_secret {env.SECRET}"), []string{"client_id"}},
		"no secret":                     {bare("token_url http://127.0.0.1:1/\nclient_id app"), []string{"client_secret"}},
		"no token URL":                  {bare("client_id app\nclient_secret {env.SECRET}"), []string{"token_url"}},
		"unset variable":                {bare("token_url http://127.0.0.1:1/\nclient_id {env.NOT_SET}\nclient_secret {env.SECRET}"), []string{"client_id", "NOT_SET"}},
		"missing file":                  {bare("token_url http://127.0.0.1:1/\nclient_id app\nclient_secret_file /does/not/exist"), []string{"client_secret_file", "/does/not/exist"}},
		"empty file":                    {bare("token_url http://127.0.0.1:1/\nclient_id app\nclient_secret_file " + empty), []string{"client_secret_file", "empty"}},
		"two secrets":                   {bare(required + "client_secret_file " + empty), []string{"client_secret", "client_secret_file"}},
		"cleartext token URL":           {bare(strings.Replace(required, "http://127.0.0.1:1/", "http://auth.example.com/", 1)), []string{"token_url", "allow_insecure"}},
		"cleartext base URL":            {harness.Config{Site: "http_helper http://api.example.com {\n" + required + "\n}"}, []string{"base_url", "allow_insecure"}},
		"base URL with query":           {harness.Config{Site: "http_helper https://api.example.com/?a=b {\n" + required + "\n}"}, []string{"query"}},
		"userinfo in token URL":         {bare("token_url https://u:p@auth.example.com/\nclient_id app\nclient_secret {env.SECRET}"), []string{"token_url"}},
		"fragment in token URL":         {bare("token_url https://auth.example.com/#x\nclient_id app\nclient_secret {env.SECRET}"), []string{"token_url", "fragment"}},
		"API's CA is not there":         {harness.Config{Site: "http_helper https://api.example.com {\n" + required + "transport http {\ntls_trust_pool file /does/not/exist\n}\n}"}, []string{"connection api.example.com", "/does/not/exist"}},
		"token's CA is not there":       {inline("token_transport {\ntls_trust_pool file /does/not/exist\n}", "", ""), []string{"connection 127.0.0.1: token_transport", "/does/not/exist"}},
		"forward proxy not set":         {inline("token_transport {\nnetwork_proxy url {env.NOT_SET}\n}", "", ""), []string{"connection 127.0.0.1", "token_transport", "network_proxy url", "NOT_SET"}},
		"forward proxy is no URL":       {inline("", "", "transport http {\nnetwork_proxy url proxy.example:3128\n}"), []string{"connection 127.0.0.1", "network_proxy url: it is not like http://"}},
		"unknown method":                {inline("auth_method magic", "", ""), []string{"auth_method"}},
		"unknown encoding":              {inline("basic_encoding rot13", "", ""), []string{"basic_encoding"}},
		"unknown format":                {inline("token_request_format xml", "", ""), []string{"token_request_format"}},
		"unknown delimiter":             {connector("scopes_delimiter dot", ""), []string{"scopes_delimiter"}},
		"unknown option":                {inline("colour red", "", ""), []string{"colour"}},
		"repeated option":               {inline("grant_type a\ngrant_type b", "", ""), []string{"grant_type"}},
		"repeated scope":                {connector("scope a\nscope a", ""), []string{"scope", "a"}},
		"scope outside the RFC":         {connector("scope \"a b\"", ""), []string{"scope"}},
		"required needs choice":         {connector("scope a required", ""), []string{"required", "customize_scopes"}},
		"additional needs choice":       {connector("scope a\nadditional_scopes", ""), []string{"additional_scopes", "customize_scopes"}},
		"choice not allowed":            {connector("scope a", "scopes a"), []string{"scopes", "customize_scopes", "billing"}},
		"unknown scope":                 {connector("scope a\ncustomize_scopes", "scopes b"), []string{"b", "billing"}},
		"additional not allowed":        {connector("scope a\ncustomize_scopes\nscopes_help https://ask.example/here", "additional_scopes x"), []string{"additional_scopes", "https://ask.example/here", "billing"}},
		"too long additional":           {connector("scope a\ncustomize_scopes\nadditional_scopes", "additional_scopes \""+strings.Repeat("é", 501)+"\""), []string{"500", "billing"}},
		"space inside with comma":       {connector("scope a\ncustomize_scopes\nadditional_scopes\nscopes_delimiter comma", "additional_scopes \"a b,c\""), []string{"additional_scopes", "billing"}},
		"parameter unanswered":          {connector("parameter tenant text", ""), []string{"tenant", "billing"}},
		"parameter empty":               {connector("parameter tenant text", "parameter tenant \"\""), []string{"tenant"}},
		"parameter unknown":             {connector("", "parameter tenant x"), []string{"tenant", "billing"}},
		"dropdown without options":      {connector("parameter region dropdown", "parameter region eu"), []string{"region", "option"}},
		"parameter value not an option": {connector("parameter region dropdown {\noption eu\noption au\n}", "parameter region us"), []string{"billing: parameter region: the value is none of its options; there are eu, au"}},
		"default not an option":         {connector("parameter region dropdown {\noption eu\ndefault us\n}", "parameter region eu"), []string{"region", "default"}},
		"repeated key":                  {connector("parameter k text\nparameter k text", "parameter k x"), []string{"parameter k"}},
		"repeated value":                {connector("config_value k text {\nvalue v\n}\nconfig_value k text {\nvalue v\n}", ""), []string{"config_value k"}},
		"bad key":                       {connector("parameter 1k text", "parameter 1k x"), []string{"parameter", "key"}},
		"unknown placeholder":           {connector("token_request_param a {param.nope}", ""), []string{"nope"}},
		"reserved token parameter":      {inline("token_request_param scope x", "", ""), []string{"token_request_param", "scope"}},
		"reserved token header":         {inline("token_request_header Authorization x", "", ""), []string{"token_request_header", "Authorization"}},
		"reserved API header":           {inline("api_header Host x", "", ""), []string{"api_header", "Host"}},
		"repeated API header":           {inline("api_header X-A x\napi_header x-a y", "", ""), []string{"api_header"}},
		"API header is the token's": {
			inline("api_header X-Token x", "", "access_token_header X-Token"), []string{"api_header", "X-Token"},
		},
		"scope inline":                {inline("scope a", "", ""), []string{"scope", "connector"}},
		"rewrite":                     {inline("", "", "rewrite /x"), []string{"rewrite"}},
		"another transport":           {inline("", "", "transport fastcgi"), []string{"transport"}},
		"upstream as argument":        {harness.Config{Site: "http_helper " + w.api.URL + " 127.0.0.1:1 {\n" + required + "}"}, []string{"http_helper"}},
		"bad replay buffer":           {inline("", "", "replay_buffer lots"), []string{"replay_buffer"}},
		"bad on_unauthorized":         {inline("", "", "on_unauthorized explode"), []string{"on_unauthorized"}},
		"bad app_authorization":       {inline("", "", "app_authorization maybe"), []string{"app_authorization"}},
		"bad allow_clients":           {inline("", "", "allow_clients here"), []string{"allow_clients"}},
		"bad duration":                {inline("", "token_timeout soon", ""), []string{"token_timeout"}},
		"negative duration":           {inline("", "refresh_before -5s", ""), []string{"refresh_before"}},
		"unknown connection":          {harness.Config{Site: "http_helper nobody"}, []string{"nobody"}},
		"unknown connector":           {harness.Config{Options: "http_helper {\nconnection a b {\nclient_id x\nclient_secret {env.SECRET}\n}\n}", Site: "http_helper a"}, []string{"b", "a"}},
		"bad connection name":         {harness.Config{Options: "http_helper {\nconnection _a {\n" + required + "base_url http://127.0.0.1:1\n}\n}", Site: "respond ok"}, []string{"connection", "name"}},
		"placeholder without a list":  {harness.Config{Site: "http_helper {http.request.header.X}"}, []string{"connections"}},
		"list without a placeholder":  {inline("", "", "connections a b"), []string{"connections"}},
		"credentials for a name":      {harness.Config{Options: w.named(options{}).Options, Site: "http_helper billing {\nclient_id x\n}"}, []string{"client_id"}},
		"ping without a path":         {inline("ping GET", "", ""), []string{"ping"}},
		"resource without scheme":     {inline("resource api", "", ""), []string{"resource"}},
		"skip verify must be allowed": {harness.Config{Site: "http_helper https://api.example.com {\n" + required + "transport http {\ntls_insecure_skip_verify\n}\n}"}, []string{"tls_insecure_skip_verify", "allow_insecure"}},
		"same at the token endpoint":  {bare(strings.Replace(required, "http://127.0.0.1:1", "https://auth.example.com", 1) + "token_transport {\ntls_insecure_skip_verify\n}"), []string{"tls_insecure_skip_verify", "allow_insecure"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.Reload(c.config)
			if err == nil {
				t.Fatal("the configuration was loaded")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error quotes the secret: %v", err)
			}
		})
	}
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 1)
}

func TestNothingIsContactedWhileLoading(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.named(options{connection: "warm"})
	if _, err := w.Adapt(t, config); err != nil {
		t.Fatal(err)
	}
	equal(t, "token requests", w.tokens.Count(), 0)
	equal(t, "API requests", w.api.Count(), 0)
}

func TestPlaceholdersStayPlaceholdersInTheAdaptedConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	adapted, err := w.Adapt(t, w.inline(options{}))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(adapted, secret) || !strings.Contains(adapted, "{env.SECRET}") {
		t.Errorf("adapted: %s", adapted)
	}
}

func TestWarningsAtLoad(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options
		want string
	}{
		"literal secret": {options{secretLine: "client_secret literal-secret"}, "client_secret"},
		"allow_insecure": {options{service: "allow_insecure"}, "allow_insecure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, c.options)
			warned := false
			for line := range strings.Lines(w.Logs()) {
				warned = warned || strings.Contains(line, `"level":"warn"`) && strings.Contains(line, c.want)
			}
			if !warned {
				t.Errorf("no warning about %s", c.want)
			}
			if strings.Contains(w.Logs(), "literal-secret") {
				t.Error("the log quotes the secret")
			}
		})
	}
}

func TestChangedConnectorThatNoLongerFitsNamesEveryConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := func(connector string) harness.Config {
		text := "http_helper {\nconnector service {\nbase_url $API\ntoken_url $TOKENS\nscope a\ncustomize_scopes\n" + connector + "\n}\n"
		for i := range 3 {
			text += fmt.Sprintf("connection c%d service {\nclient_id app%[1]d\nclient_secret {env.SECRET}\nscopes a\n}\n", i)
		}
		return w.expand(options{}, harness.Config{Options: text + "}", Site: "http_helper c0"})
	}
	w.Run(t, config(""))
	w.wantOK(t)
	err := w.Reload(config("parameter tenant text"))
	if err == nil {
		t.Fatal("the configuration was loaded")
	}
	for _, name := range []string{"c0", "c1", "c2", "tenant"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 1)
}
