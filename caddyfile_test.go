package httphelper

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// What Caddyfiles adapt to.

var updateGoldens = flag.Bool("update", false, "write the JSON of adapted Caddyfiles into integration/testdata/adapt")

const goldenSeparator = "----------\n"

// adapt turns a Caddyfile into indented JSON, as `caddy adapt --pretty` does.
func adapt(caddyfile string) (string, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		return "", err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, adapted, "", "\t"); err != nil {
		return "", err
	}
	return pretty.String() + "\n", nil
}

// TestCaddyfile compares what the Caddyfiles in integration/testdata/adapt adapt to with the JSON below
// each of them. An integration test does the same with the program.
func TestCaddyfile(t *testing.T) {
	files, err := filepath.Glob("integration/testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding goldens: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, _ := strings.Cut(string(content), goldenSeparator)
			got, err := adapt(caddyfile)
			if err != nil {
				t.Fatalf("adapting: %v", err)
			}
			if *updateGoldens {
				if err := os.WriteFile(file, []byte(caddyfile+goldenSeparator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func checkAdaptError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatal("adapting succeeded, but should fail")
	}
	for _, part := range strings.Split(strings.TrimSpace(want), "\n") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is\n%v\nbut should contain\n%s", err, part)
		}
	}
}

// Errors while a Caddyfile is adapted.

// The Caddyfiles of these tests are made of a template and what is wrong.
const (
	globalTemplate    = "{\n\thttp_helper {\n%s\n\t}\n}\n"
	connectorTemplate = "connector acme {\n%s\n}"

	// usableConnector is a connector to which a test adds what is wrong.
	usableConnector = `connector acme {
	base_url https://api.example.com
	token_url https://auth.example.com/token
%s
}`

	// usableConnection is a connection to which a test adds what is wrong.
	usableConnection = `connection orders {
	base_url https://api.example.com
	token_url https://auth.example.com/token
	client_id app
	client_secret {env.SECRET}
%s
}`

	siteTemplate = "{\n\thttp_helper {\n" + `connection orders {
	base_url https://api.example.com
	token_url https://auth.example.com/token
	client_id app
	client_secret {env.SECRET}
}
connection local {
	base_url http://127.0.0.1:9000
	token_url https://auth.example.com/token
	client_id app
	client_secret {env.SECRET}
}
connection late {
	base_url https://{env.HOST}
	token_url https://auth.example.com/token
	client_id app
	client_secret {env.SECRET}
}` + "\n\t}\n}\n:8080 {\n%s\n}\n"

	inlineTemplate = `:8080 {
	http_helper https://api.example.com {
		token_url https://auth.example.com/token
		client_id app
		client_secret {env.SECRET}
%s
	}
}
`
)

func inGlobal(lines string) string     { return fmt.Sprintf(globalTemplate, lines) }
func inConnector(lines string) string  { return inGlobal(fmt.Sprintf(usableConnector, lines)) }
func inConnection(lines string) string { return inGlobal(fmt.Sprintf(usableConnection, lines)) }
func inSite(lines string) string       { return fmt.Sprintf(siteTemplate, lines) }
func inInline(lines string) string     { return fmt.Sprintf(inlineTemplate, lines) }

// withConnector adds a connection, with its credentials, to a connector that asks something.
func withConnector(lines string) string {
	return inGlobal(fmt.Sprintf(usableConnector, `	parameter instance text
	parameter region dropdown {
		option eu
		option us
	}
	scope read
	scope write`) + "\nconnection orders acme {\n\tclient_id app\n\tclient_secret {env.SECRET}\n" + lines + "\n}")
}

type adaptError struct {
	name      string
	caddyfile string
	want      []string
}

func checkAdaptErrors(t *testing.T, cases []adaptError) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := adapt(c.caddyfile)
			checkAdaptError(t, err, strings.Join(c.want, "\n"))
		})
	}
}

func TestErrorsInGlobalOption(t *testing.T) {
	checkAdaptErrors(t, []adaptError{
		{"argument", "{\n\thttp_helper x\n}\n", []string{"takes no argument"}},
		{"twice", "{\n\thttp_helper {\n\t}\n\thttp_helper {\n\t}\n}\n", []string{"more than once", "Caddyfile:4"}},
		{"unknown", inGlobal("conector x {\n}"), []string{"http_helper: unrecognized subdirective conector", "Caddyfile:3"}},
		{"connector without name", inGlobal("connector {\n\tlabel x\n}"), []string{"connector: takes a name"}},
		{"connector with two names", inGlobal("connector a b {\n\tlabel x\n}"), []string{"connector: takes a name"}},
		{"connector with bad name", inGlobal("connector -a {\n\tlabel x\n}"), []string{"connector: a name consists of"}},
		{"connector twice", inGlobal(fmt.Sprintf(usableConnector, "") + "\n" + fmt.Sprintf(usableConnector, "")), []string{"connector acme: is defined more than once"}},
		{"connection without name", inGlobal("connection {\n\twarm\n}"), []string{"connection: takes a name"}},
		{"connection with three names", inGlobal("connection a b c {\n\twarm\n}"), []string{"connection: takes a name and, if any, a connector"}},
		{"connection with bad name", inGlobal("connection a/b {\n\twarm\n}"), []string{"connection: a name consists of"}},
		{"connection twice", inGlobal(fmt.Sprintf(usableConnection, "") + "\n" + fmt.Sprintf(usableConnection, "")), []string{"connection orders: is defined more than once"}},
		{"no such connector", inGlobal("connection orders acme {\n\tclient_id x\n}"), []string{"connection orders: there is no connector acme", "Caddyfile:3"}},
		{
			"every connection is named", inGlobal("connection a acme {\n\tclient_id x\n}\nconnection b acme {\n\tclient_id x\n}"),
			[]string{"connection a: there is no connector acme, at Caddyfile:3", "connection b: there is no connector acme, at Caddyfile:6"},
		},
	})
}

func TestErrorsInConnector(t *testing.T) {
	checkAdaptErrors(t, []adaptError{
		{"empty", inGlobal("connector acme"), []string{"connector acme: base_url is missing", "connector acme: token_url is missing"}},
		{"unknown", inConnector("bas_url x"), []string{"connector acme: unrecognized subdirective bas_url", "Caddyfile:6"}},
		{"twice", inConnector("label a\nlabel b"), []string{"connector acme: label: is given more than once", "Caddyfile:7"}},
		{"block", inConnector("label a {\n\tx\n}"), []string{"connector acme: label: takes no block"}},
		{"of a connection", inConnector("client_id x"), []string{"connector acme: client_id: belongs to a connection"}},
		{"no argument", inConnector("label"), []string{"connector acme: label: takes exactly one argument"}},
		{"unset variable", inConnector("label {$HTTP_HELPER_UNSET}"), []string{"connector acme: label: takes exactly one argument, but there is none; {$NAME} leaves none when NAME is not set"}},
		{"two arguments", inConnector("label a b"), []string{"connector acme: label: takes exactly one argument; put a value with spaces in quotation marks"}},
		{"empty argument", inConnector(`label ""`), []string{"connector acme: label: must not be empty"}},
		{"flag with argument", inConnector("require_granted_scopes yes"), []string{"connector acme: require_granted_scopes: takes no argument"}},

		{"base_url scheme", inGlobal(fmt.Sprintf(connectorTemplate, "base_url ftp://a.example.com")), []string{"connector acme: base_url: not an http or https URL"}},
		{"base_url query", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a.example.com?x=1")), []string{"connector acme: base_url: the URL must not have a query"}},
		{"base_url fragment", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a.example.com#x")), []string{"connector acme: base_url:", "fragment"}},
		{"base_url userinfo", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a:b@a.example.com")), []string{"connector acme: base_url:", "user"}},
		{"base_url http", inGlobal(fmt.Sprintf(connectorTemplate, "base_url http://a.example.com\ntoken_url https://b.example.com")), []string{"connector acme: base_url is http", "allow_insecure"}},
		{"token_url http", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a.example.com\ntoken_url http://b.example.com")), []string{"connector acme: token_url is http", "allow_insecure"}},
		{"token_url userinfo", inGlobal(fmt.Sprintf(connectorTemplate, "token_url https://a:b@a.example.com")), []string{"connector acme: token_url:", "user"}},
		{"token_url fragment", inGlobal(fmt.Sprintf(connectorTemplate, "token_url https://a.example.com/#x")), []string{"connector acme: token_url:", "fragment"}},
		{"issuer http", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a.example.com\nissuer http://b.example.com")), []string{"connector acme: issuer is http", "allow_insecure token_url"}},
		{"issuer query", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a.example.com\nissuer https://b.example.com/?x=1")), []string{"connector acme: issuer:", "query"}},
		{"issuer empty query", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://a.example.com\nissuer https://b.example.com/?")), []string{"connector acme: issuer:", "query"}},
		{"token_url and issuer", inConnector("issuer https://auth.example.com"), []string{"connector acme: token_url and issuer exclude each other"}},
		{"placeholder in scheme", inGlobal(fmt.Sprintf(connectorTemplate, "parameter x text\nbase_url {param.x}://a.example.com")), []string{"connector acme: base_url:", "scheme"}},
		{"unknown placeholder", inGlobal(fmt.Sprintf(connectorTemplate, "base_url https://{system.hostname}")), []string{"connector acme: base_url:", "{param.*}, {config.*} are understood"}},
		{"reads a variable", inConnector("api_header X-A {env.OTHER}\ntoken_request_param a {file./etc/passwd}\nresource https://x/{env.A}\nconfig_value a text {\n\tvalue {env.A}\n}"), []string{
			"connector acme: api_header: {env.*} and {file.*} are not for a connector, only {param.*} and {config.*}: ask for a key with a parameter of type password; connections hold the secrets, at Caddyfile:6",
			"token_request_param: {env.*} and {file.*} are not", "resource: {env.*} and {file.*} are not", "config_value a: value: {env.*} and {file.*} are not",
		}},
		{"a URL reads a variable", inGlobal("connector acme {\n\tbase_url https://{env.HOST}\n\tissuer https://{file./x}\n}"), []string{"connector acme: base_url: {env.*} and {file.*} are not", "connector acme: issuer: {env.*} and {file.*} are not"}},
		{"token_transport reads a variable", inConnector("token_transport {\n\tnetwork_proxy url http://{env.PROXY}\n}"), []string{"connector acme: token_transport: {env.*} and {file.*} are not for a connector", "at Caddyfile:6"}},
		{"flow reads a variable", inConnector("config_value a text {\n\tflow f\n}\nflow f request https://x.example {\n\theader X-A {env.A}\n}"), []string{"connector acme: flow f: {env.*} and {file.*} are not for a connector", "at Caddyfile:9"}},
		{"placeholder without parameter", inConnector("api_header X-A {param.missing}"), []string{"connector acme: api_header X-A: there is no parameter missing"}},
		{"placeholder without config value", inConnector("token_request_param audience {config.missing}"), []string{"connector acme: token_request_param audience: there is no config_value missing"}},

		{"auth_method", inConnector("auth_method basic"), []string{"connector acme: auth_method:", "client_secret_basic,"}},
		{"basic_encoding", inConnector("basic_encoding url"), []string{"connector acme: basic_encoding: must be one of form, raw"}},
		{"basic_encoding without basic", inConnector("basic_encoding raw\nauth_method client_secret_post"), []string{"connector acme: basic_encoding is for auth_method client_secret_basic"}},
		{"scopes_help", inConnector("scopes_help nowhere"), []string{"connector acme: scopes_help must be a URL"}},
		{"token_request_param without value", inConnector("token_request_param audience"), []string{"connector acme: token_request_param: takes a name and one value at least"}},
		{"token_request_param reserved", inConnector("token_request_param scope a"), []string{"connector acme: token_request_param: scope cannot be set here"}},
		{"token_request_param twice", inConnector("token_request_param a 1\ntoken_request_param a 2"), []string{"connector acme: token_request_param: a is given twice"}},
		{"token_request_header name", inConnector(`token_request_header "X A" 1`), []string{"connector acme: token_request_header: the first argument is not the name of a header field"}},
		{"token_request_header value", inConnector("token_request_header X-A"), []string{"connector acme: token_request_header: takes exactly two arguments"}},
		{"token_request_header Authorization", inConnector("token_request_header authorization x"), []string{"connector acme: token_request_header: auth_method client_secret_basic uses Authorization itself"}},
		{"token_request_header Authorization twice", inConnector("auth_method client_secret_post\ntoken_request_header authorization x\ntoken_request_header Authorization y"), []string{"connector acme: token_request_header: Authorization is given twice"}},
		{"assertion_typ without an assertion", inConnector("assertion_typ JWT"), []string{"connector acme: assertion_typ: nothing is signed with auth_method client_secret_basic"}},
		{"empty assertion_typ", inConnector("auth_method private_key_jwt\nassertion_typ \"\""), []string{"connector acme: assertion_typ: must not be empty"}},
		{"client_assertion_type with a secret", inConnector("auth_method client_secret_jwt\nclient_assertion_type urn:x"), []string{"connector acme: client_assertion_type is for auth_method private_key_jwt, not client_secret_jwt"}},
		{"client_assertion_type", inConnector("auth_method private_key_jwt\nclient_assertion_type jwt-spiffe"), []string{"connector acme: client_assertion_type must be a URI"}},
		{"send_client_id", inConnector("send_client_id true"), []string{"connector acme: send_client_id: takes no argument"}},
		{"token_request_header DPoP", inConnector("token_request_header DPoP x"), []string{"connector acme: token_request_header: Dpop cannot be set here"}},
		{"token_request_header Host", inConnector("token_request_header Host x"), []string{"connector acme: token_request_header: Host cannot be set here"}},
		{"token_request_header Content-Type", inConnector("token_request_header content-type x"), []string{"connector acme: token_request_header: Content-Type cannot be set here"}},
		{"token_request_header hop", inConnector("token_request_header Connection x"), []string{"connector acme: token_request_header: Connection cannot be set here"}},
		{"token_request_header twice", inConnector("token_request_header X-A 1\ntoken_request_header x-a 2"), []string{"connector acme: token_request_header: X-A is given twice"}},
		{"token_request_format", inConnector("token_request_format xml"), []string{"connector acme: token_request_format: must be one of form, json, query"}},
		{"token_request_scope_separator", inConnector(`token_request_scope_separator ""`), []string{"connector acme: token_request_scope_separator: must not be empty"}},
		{"grant_type", inConnector(`grant_type ""`), []string{"connector acme: grant_type: must not be empty"}},
		{"no token_types", inConnector("token_types"), []string{"connector acme: token_types: takes one argument at least"}},
		{"empty token_types", inConnector(`token_types BearerToken ""`), []string{"connector acme: token_types: must not be empty"}},
		{"token_pointer", inConnector("token_pointer token"), []string{"connector acme: token_pointer: a JSON pointer begins with a slash"}},
		{"expires_in_pointer", inConnector("expires_in_pointer /a~2"), []string{"connector acme: expires_in_pointer: in a JSON pointer"}},
		{"token_transport argument", inConnector("token_transport http"), []string{"connector acme: token_transport: takes no argument"}},
		{"token_transport option twice", inConnector("token_transport {\n\tdial_timeout 1s\n\tdial_timeout 2s\n}"), []string{"connector acme: token_transport: dial_timeout: is given more than once, at Caddyfile:8"}},
		{"flow twice", inConnector("flow f template a\nflow f template b"), []string{"connector acme: flow f: is defined more than once, at Caddyfile:7"}},
		{"header of a flow twice", inConnector("flow f request https://x.example {\n\theader X-A 1\n\theader x-a 2\n}"), []string{"connector acme: flow f: header: a name is given twice, at Caddyfile:8"}},
		{"token_transport option", inConnector("token_transport {\n\tnothing\n}"), []string{"connector acme: token_transport: unrecognized subdirective nothing"}},
		{"api_header Authorization", inConnector("api_header authorization x"), []string{"connector acme: api_header: Authorization cannot be set here"}},
		{"api_header Host", inConnector("api_header host x"), []string{"connector acme: api_header: Host cannot be set here"}},
		{"api_header hop", inConnector("api_header te x"), []string{"connector acme: api_header: Te cannot be set here"}},
		{"api_header twice", inConnector("api_header x-a 1\napi_header X-A 2"), []string{"connector acme: api_header: X-A is given twice"}},
		{"api_query without value", inConnector("api_query a"), []string{"connector acme: api_query: takes exactly two arguments"}},
		{"api_query without name", inConnector(`api_query "" a`), []string{"connector acme: api_query: the name is missing"}},
		{"api_query twice", inConnector("api_query a 1\napi_query a 2"), []string{"connector acme: api_query: a is given twice"}},
		{"allow_insecure", inConnector("allow_insecure api"), []string{"connector acme: allow_insecure: must be one of token_url, base_url"}},
		{"allow_insecure twice", inConnector("allow_insecure token_url token_url"), []string{"connector acme: allow_insecure: token_url is given more than once"}},
		{"ping without path", inConnector("ping GET"), []string{"connector acme: ping:", "path"}},
		{"ping with bad path", inConnector("ping GET me"), []string{"connector acme: ping:", "slash"}},
		{"ping with dots", inConnector("ping /../me"), []string{"connector acme: ping:"}},
		{"ping with small method", inConnector("ping get /me"), []string{"connector acme: ping:", "capital letters"}},
		{"allow: lower case", inConnector("allow get /a"), []string{"connector acme: allow: a method is written in capital letters, such as GET, and a path begins with a slash (did you mean GET?), at Caddyfile:6"}},
		{"allow: TRACE", inConnector("allow GET TRACE"), []string{"connector acme: allow: method 2: TRACE and CONNECT are never forwarded"}},
		{"allow: method after a path", inConnector("allow GET /a POST"), []string{"connector acme: allow: a method comes after a path: methods come first", "at Caddyfile:6"}},
		{"allow: no slash", inConnector("allow contacts/*"), []string{"connector acme: allow: a method is written in capital letters, such as GET, and a path begins with a slash"}},
		{"allow: star", inConnector("allow /a\nallow /a /b/*/c"), []string{"connector acme: allow: path 2: a * is possible only at the end of a path", "at Caddyfile:7"}},
		{"allow: query", inConnector("allow /a?b"), []string{"connector acme: allow: a path has no ? and no #"}},
		{"allow: placeholder", inConnector("parameter a text\nallow /{param.a}/*"), []string{"connector acme: allow: a path has no braces, because placeholders are not replaced in it"}},
		{"allow: backslash", inConnector(`allow "/a\b"`), []string{"connector acme: allow: the path has a backslash"}},
		{"allow: dot segment", inConnector("allow /a/%2e%2e/b"), []string{"connector acme: allow: the path has a dot segment"}},
		{"allow: escape", inConnector("allow /a%2"), []string{"connector acme: allow: a path has a % without two hexadecimal digits after it"}},
		{"allow: block", inConnector("allow {\n\tGET\n}"), []string{"connector acme: allow: takes no block"}},
		{"allow: typo", inConnector("alow GET"), []string{"connector acme: unrecognized subdirective alow (did you mean allow?)"}},
		{"allow without the ping", inConnector("ping /me\nallow GET /a /b\nallow POST /me"), []string{"connector acme: ping: its method and path are not in allow beside it", "at Caddyfile:6"}},
		{"allow without the ping's method", inConnector("allow GET /me\nping HEAD /me?a=b 204"), []string{"connector acme: ping: its method and path are not in allow beside it", "at Caddyfile:7"}},
		{"allow with an override", inConnector("api_header X_HTTP_Method_Override PUT\nallow GET"), []string{"connector acme: api_header X_http_method_override: some servers take a request with it for another, so that allow would mean nothing", "at Caddyfile:6"}},
		{"rejected_statuses without", inConnector("rejected_statuses"), []string{"connector acme: rejected_statuses"}},
		{"rejected_statuses with a word", inConnector("rejected_statuses 401 denied"), []string{"connector acme: rejected_statuses: a status must be a number"}},
		{"rejected_statuses 404", inConnector("rejected_statuses 404"), []string{"connector acme: rejected_statuses: 404 is not a status"}},
		{"rejected_statuses 429", inConnector("rejected_statuses 401 429"), []string{"connector acme: rejected_statuses: 429 is not a status"}},
		{"rejected_statuses 399", inConnector("rejected_statuses 399"), []string{"connector acme: rejected_statuses: 399 is not a status"}},
		{"rejected_statuses 500", inConnector("rejected_statuses 500"), []string{"connector acme: rejected_statuses: 500 is not a status"}},
		{"rejected_statuses twice the same", inConnector("rejected_statuses 403 403"), []string{"connector acme: rejected_statuses: 403 is given more than once"}},
		{"ping with bad status", inConnector("ping /me ok"), []string{"connector acme: ping: a status must be a number"}},
		{"ping with impossible status", inConnector("ping /me 99"), []string{"connector acme: ping: 99 is not a status"}},
		{"resource", inConnector("resource /api"), []string{"connector acme: resource: an absolute URI"}},
		{"resource with a space", inConnector(`resource "https://api.example.com/a b"`), []string{"connector acme: resource: an absolute URI"}},
		{"resource with a letter of no URI", inConnector("resource https://api.example.com/ä"), []string{"connector acme: resource: an absolute URI"}},
		{"resource with a bad escape", inConnector("resource https://api.example.com/%zz"), []string{"connector acme: resource: an absolute URI"}},
		{"resource with a fragment", inConnector("resource https://api.example.com/#"), []string{"connector acme: resource: an absolute URI"}},
		{"no resource", inConnector("resource"), []string{"connector acme: resource: takes one argument at least"}},
		{"revocation_url http", inConnector("revocation_url http://auth.example.com"), []string{"connector acme: revocation_url is http", "allow_insecure token_url"}},
		{"revocation_url", inConnector("revocation_url auth.example.com"), []string{"connector acme: revocation_url: not an http or https URL"}},

		{"scope grammar", inConnector(`scope "a b"`), []string{"connector acme: scope:", "RFC 6749"}},
		{"scope argument", inConnector("scope a optional"), []string{"connector acme: scope: takes a name and, if it is always to be requested, the word required"}},
		{"scope twice", inConnector("scope a\nscope a"), []string{"connector acme: scope a is defined twice"}},
		{"scope required", inConnector("scope a required"), []string{"connector acme: scope a: required needs customize_scopes"}},
		{"scope option", inConnector("scope a {\n\tdesc x\n}"), []string{"connector acme: scope a: unrecognized subdirective desc"}},
		{"additional_scopes", inConnector("additional_scopes"), []string{"connector acme: additional_scopes needs customize_scopes"}},
		{"additional_scopes argument", inConnector("customize_scopes\nadditional_scopes a"), []string{"connector acme: additional_scopes: takes no argument"}},
		{"scopes_delimiter", inConnector("scopes_delimiter tab"), []string{"connector acme: scopes_delimiter: must be one of space, comma"}},
		{"parameter without type", inConnector("parameter a"), []string{"connector acme: parameter: takes a key and a type"}},
		{"parameter key", inConnector("parameter 1a text"), []string{"connector acme: parameter: a key consists of"}},
		{"parameter type", inConnector("parameter a number"), []string{"connector acme: parameter a: the type must be one of text, password, dropdown"}},
		{"parameter twice", inConnector("parameter a text\nparameter a text"), []string{"connector acme: parameter a: the key is defined twice"}},
		{"parameter option", inConnector("parameter a text {\n\thidden\n}"), []string{"connector acme: parameter a: unrecognized subdirective hidden"}},
		{"option in text", inConnector("parameter a text {\n\toption x\n}"), []string{"connector acme: parameter a: option and default are for dropdowns only"}},
		{"default in text", inConnector("parameter a password {\n\tdefault x\n}"), []string{"connector acme: parameter a: option and default are for dropdowns only"}},
		{"dropdown without option", inConnector("parameter a dropdown"), []string{"connector acme: parameter a: a dropdown needs one option at least"}},
		{"option twice", inConnector("parameter a dropdown {\n\toption x\n\toption x y\n}"), []string{"connector acme: parameter a: option x is given twice"}},
		{"option with three arguments", inConnector("parameter a dropdown {\n\toption x y z\n}"), []string{"connector acme: parameter a: option: takes a value and, if any, a label"}},
		{"empty option", inConnector("parameter a dropdown {\n\toption \"\"\n}"), []string{"connector acme: parameter a: option: must not be empty"}},
		{"default not an option", inConnector("parameter a dropdown {\n\toption x\n\tdefault y\n}"), []string{"connector acme: parameter a: the default y is none of its options"}},
		{"config_value without type", inConnector("config_value a"), []string{"connector acme: config_value: takes a key and a type"}},
		{"config_value key", inConnector("config_value _a text"), []string{"connector acme: config_value: a key consists of"}},
		{"config_value type", inConnector("config_value a dropdown {\n\tvalue x\n}"), []string{"connector acme: config_value a: the type must be one of text, password"}},
		{"config_value twice", inConnector("config_value a text {\n\tvalue x\n}\nconfig_value a text {\n\tvalue x\n}"), []string{"connector acme: config_value a: the key is defined twice"}},
		{"config_value without value", inConnector("config_value a text"), []string{"connector acme: config_value a: exactly one of value and flow"}},
		{"config_value with value and flow", inConnector("config_value a text {\n\tvalue x\n\tflow y\n}"), []string{"connector acme: config_value a: exactly one of value and flow"}},
		{"config_value without flow", inConnector("config_value a text {\n\tflow y\n}"), []string{"connector acme: config_value a: there is no flow y"}},
		{"config_value of another", inConnector("config_value a text {\n\tvalue {config.b}\n}"), []string{"connector acme: config_value a: value:", "{param.*} are understood"}},
		{"config_value parameter", inConnector("config_value a text {\n\tvalue {param.b}\n}"), []string{"connector acme: config_value a: there is no parameter b"}},
		{"flow without type", inConnector("flow a"), []string{"connector acme: flow: takes a name and a type"}},
		{"flow timeout", inConnector("flow a request https://x.example {\n\ttimeout 25h\n}"), []string{"connector acme: flow a: timeout must be at most 24h, at Caddyfile:7"}},
		{"flow type", inConnector("flow a script x"), []string{"connector acme: flow a: there are no flows of this type"}},
	})
}

func TestErrorsInConnection(t *testing.T) {
	checkAdaptErrors(t, []adaptError{
		{"empty", inGlobal("connection orders"), []string{"connection orders: base_url is missing", "connection orders: client_id is missing", "connection orders: auth_method client_secret_basic needs client_secret or client_secret_file"}},
		{"unknown", inConnection("clientid x"), []string{"connection orders: unrecognized subdirective clientid"}},
		{"twice", inConnection("warm\nwarm"), []string{"connection orders: warm: is given more than once"}},
		{"of the connector", withConnector("base_url https://api.example.com"), []string{"connection orders: base_url: belongs to connector acme"}},
		{"scope of the connector", withConnector("scope x"), []string{"connection orders: scope: belongs to connector acme"}},
		{"parameter without connector", inConnection("parameter a b"), []string{"connection orders: parameter: needs a connector"}},
		{"additional_scopes without connector", inConnection("additional_scopes a"), []string{"connection orders: additional_scopes: needs a connector"}},
		{"customize_scopes without connector", inConnection("customize_scopes"), []string{"connection orders: customize_scopes: needs a connector"}},
		{"flow without connector", inConnection("flow a template b"), []string{"connection orders: flow: needs a connector"}},
		{"param placeholder without connector", inConnection("api_header X-A {param.a}"), []string{"connection orders: api_header:", "{env.*}, {file.*} are understood here"}},
		{"client_secret and file", inConnection("client_secret_file /x"), []string{"connection orders: client_secret and client_secret_file exclude each other"}},
		{"client_key for a secret", inConnection("client_key_file /x"), []string{"connection orders: client_key_file is not for auth_method client_secret_basic"}},
		{"client_key_certificate for a secret", inConnection("client_key_certificate /x"), []string{"connection orders: client_key_certificate needs client_key_file or client_key"}},
		{"client_key_certificate for an assertion", inConnection("auth_method private_key_jwt\nclient_assertion_file /a\nclient_key_certificate /x"), []string{"connection orders: client_key_certificate needs client_key_file or client_key"}},
		{"signing options for a secret", inConnection("key_id a\nsigning_alg RS256"), []string{"connection orders: key_id, signing_alg:"}},
		{"short assertion_lifetime", inConnection("assertion_lifetime 900ms"), []string{"connection orders: assertion_lifetime must be a second at least"}},
		{"assertion_lifetime", inConnection("assertion_lifetime soon"), []string{"connection orders: assertion_lifetime: must be a duration above zero"}},
		{"client_certificate", inConnection("client_certificate /cert"), []string{"connection orders: client_certificate: takes exactly two arguments"}},
		{"empty client_certificate", inConnection(`client_certificate /cert ""`), []string{"connection orders: client_certificate: must not be empty"}},
		{"dpop", inConnection("dpop a b"), []string{"connection orders: dpop: takes exactly one argument"}},
		{"scope grammar", inConnection(`scopes "a b"`), []string{"connection orders: scopes:", "without spaces, quotation marks and backslashes (RFC 6749"}},
		{"scope twice", inConnection("scopes a a"), []string{"connection orders: scopes: a is named twice"}},
		{"refresh_before", inConnection("refresh_before 0"), []string{"connection orders: refresh_before: must be a duration above zero"}},
		{"default_lifetime", inConnection("default_lifetime -1s"), []string{"connection orders: default_lifetime: must be a duration above zero"}},
		{"token_timeout too long", inConnection("token_timeout 61m"), []string{"connection orders: token_timeout must be at most 1h, at Caddyfile:8"}},
		{"token_timeout overflows", inConnection("token_timeout 2562047h"), []string{"connection orders: token_timeout must be at most 1h, at Caddyfile:8"}},
		{"others too long", inConnection("refresh_before 2d\ndefault_lifetime 24h1s\nassertion_lifetime 25h"), []string{"refresh_before must be at most 24h, at Caddyfile:8", "default_lifetime must be at most 24h, at Caddyfile:9", "assertion_lifetime must be at most 24h, at Caddyfile:10"}},
		{"token_timeout", inConnection("token_timeout"), []string{"connection orders: token_timeout: takes exactly one argument"}},
		{"request placeholder", inConnection("key_id {http.request.host}"), []string{"connection orders: key_id: values of a request are not understood here"}},

		{"parameter missing", withConnector("parameter region eu"), []string{"connection orders: parameter instance is missing"}},
		{"dropdown missing", withConnector("parameter instance a"), []string{"connection orders: parameter region is missing"}},
		{"parameter unknown", withConnector("parameter a b"), []string{"connection orders: parameter a: the connector acme has no such parameter"}},
		{"parameter twice", withConnector("parameter instance a\nparameter_file instance /x"), []string{"connection orders: parameter_file instance: is given more than once"}},
		{"parameter without value", withConnector("parameter instance"), []string{"connection orders: parameter: takes exactly two arguments"}},
		{"parameter empty", withConnector(`parameter instance ""`), []string{"connection orders: parameter instance: must not be empty"}},
		{"parameter key", withConnector("parameter a.b c"), []string{"connection orders: parameter: a key consists of"}},
		{"scopes without customize_scopes", withConnector("parameter instance a\nparameter region eu\nscopes read"), []string{"connection orders: scopes: the connector has no customize_scopes"}},
		{"additional_scopes not allowed", withConnector("parameter instance a\nparameter region eu\nadditional_scopes a"), []string{"connection orders: additional_scopes: the connector does not allow"}},
	})
}

func TestErrorsInDirective(t *testing.T) {
	checkAdaptErrors(t, []adaptError{
		{"no argument", inSite("http_helper {\n\twarm\n}"), []string{"takes exactly one argument"}},
		{"upstream as an argument", inSite("http_helper orders 10.0.0.1:443"), []string{"takes exactly one argument", "subdirective to"}},
		{"bad name", inSite("http_helper or/ders"), []string{"http_helper: a name consists of", "begins with a letter or digit; a base URL begins with https://, at Caddyfile:24"}},
		{"base URL without scheme", inSite("http_helper api.example.com"), []string{"http_helper: there is no connection api.example.com in the global option http_helper; a base URL begins with https://, at Caddyfile:24"}},
		{"no such connection", inSite("http_helper missing"), []string{"http_helper: there is no connection missing in the global option"}},
		{"unknown", inSite("http_helper orders {\n\tflush_intervall 1s\n}"), []string{"connection orders: unrecognized subdirective flush_intervall"}},
		{"unknown inline", inInline("clientid x"), []string{"connection api.example.com: unrecognized subdirective clientid"}},
		{"client_id with a name", inSite("http_helper orders {\n\tclient_id x\n}"), []string{"connection orders: client_id: belongs to the connection in the global option"}},
		{"token_url with a name", inSite("http_helper orders {\n\ttoken_url https://x.example.com\n}"), []string{"connection orders: token_url: belongs to the connection"}},
		{"scope with a name", inSite("http_helper orders {\n\tscope x\n}"), []string{"connection orders: scope: belongs to the connection"}},
		{"name with a name", inSite("http_helper orders {\n\tname x\n}"), []string{"connection orders: name: is only for connections that a base URL defines"}},
		{"connections with a name", inSite("http_helper orders {\n\tconnections orders\n}"), []string{"connection orders: connections: is only for a placeholder"}},
		{"connections inline", inInline("connections orders"), []string{"connection api.example.com: connections: is only for a placeholder"}},
		{"base_url inline", inInline("base_url https://x.example.com"), []string{"connection api.example.com: base_url: is the argument"}},
		{"connector's options inline", inInline("parameter a b"), []string{"connection api.example.com: parameter: needs a connector"}},
		{"scope inline", inInline("scope a"), []string{"connection api.example.com: scope: needs a connector"}},
		{"additional_scopes inline", inInline("additional_scopes a"), []string{"connection api.example.com: additional_scopes: needs a connector"}},
		{"own option twice", inInline("replay_buffer 0\nreplay_buffer 1"), []string{"connection api.example.com: replay_buffer: is given more than once"}},
		{
			"required option misspelled inline", ":8080 {\n\thttp_helper https://api.example.com {\n\t\ttoken_ur https://auth.example.com\n\t}\n}\n",
			[]string{"connection api.example.com: unrecognized subdirective token_ur (did you mean token_url?), at Caddyfile:3", "connection api.example.com: client_id is missing, at Caddyfile:2"},
		},
		{"incomplete inline", ":8080 {\n\thttp_helper https://api.example.com\n}\n", []string{"connection api.example.com: token_url is missing", "connection api.example.com: client_id is missing", "Caddyfile:2"}},
		{"base URL with query", ":8080 {\n\thttp_helper https://api.example.com?a=b\n}\n", []string{"connection api.example.com: base_url: the URL must not have a query"}},
		{"base URL with userinfo", ":8080 {\n\thttp_helper https://a:b@api.example.com\n}\n", []string{"connection api.example.com: base_url:", "user"}},
		{"base URL with request placeholder", ":8080 {\n\thttp_helper https://{host}/ {\n\t}\n}\n", []string{"base_url: values of a request are not understood here"}},
		{"base URL http", ":8080 {\n\thttp_helper http://api.example.com {\n\t\ttoken_url https://auth.example.com\n\t}\n}\n", []string{"connection api.example.com: base_url is http"}},
		{"bad name inline", inInline("name a/b"), []string{"name: a name consists of"}},
		{"empty name inline", inInline("name"), []string{"name: takes exactly one argument"}},
		{"name twice inline", inInline("name a\nname b"), []string{"connection a: name: is given more than once"}},
		{
			"name taken", strings.Replace(inSite(""), ":8080 {", ":8080 {\n\thttp_helper https://api.example.com {\n\t\tname orders\n\t}\n", 1),
			[]string{"http_helper: name: there is a connection orders already"},
		},
		{"placeholder without connections", inSite("http_helper {header.X-Connection}"), []string{"needs connections"}},
		{"placeholder with empty connections", inSite("http_helper {header.X-Connection} {\n\tconnections\n}"), []string{"connections: takes one argument at least"}},
		{"placeholder with unknown connection", inSite("http_helper {header.X-Connection} {\n\tconnections orders missing\n}"), []string{"connections: there is no connection missing"}},
		{"placeholder with repeated connection", inSite("http_helper {header.X-Connection} {\n\tconnections orders orders\n}"), []string{"connections: orders is named more than once"}},
		{"placeholder with client_id", inSite("http_helper {header.X-Connection} {\n\tconnections orders\n\tclient_id x\n}"), []string{"client_id: belongs to the connection"}},
		{"shorthand clash", inInline("client_key {file.key}"), []string{"connection api.example.com: client_key: values of a request", "client_secret_file"}},

		{"access_token_header without field", inInline("access_token_header"), []string{"connection api.example.com: access_token_header: takes a header field"}},
		{"access_token_header field", inInline("access_token_header X:Y"), []string{"connection api.example.com: access_token_header:", "not a header field name"}},
		{"access_token_header Host", inInline("access_token_header host"), []string{"connection api.example.com: access_token_header: Host cannot carry a token"}},
		{"access_token_header of the connector", inInline("api_header X-Key a\naccess_token_header x-key"), []string{"connection api.example.com: api_header X-Key is where the token goes"}},
		{"app_authorization", inInline("app_authorization drop"), []string{"connection api.example.com: app_authorization: must be one of replace, keep, reject"}},
		{"on_unauthorized", inInline("on_unauthorized never"), []string{"connection api.example.com: on_unauthorized: must be one of retry, pass"}},
		{"on_rate_limit", inInline("on_rate_limit retri"), []string{"connection api.example.com: on_rate_limit: must be one of pass, retry (did you mean retry?)"}},
		{"on_rate_limit without a value", inInline("on_rate_limit"), []string{"connection api.example.com: on_rate_limit: takes pass, or retry and, if any, the longest wait"}},
		{"on_rate_limit pass with a wait", inInline("on_rate_limit pass 10s"), []string{"connection api.example.com: on_rate_limit: pass waits for nothing: only retry takes a wait"}},
		{"on_rate_limit with a bad wait", inInline("on_rate_limit retry soon"), []string{"connection api.example.com: on_rate_limit: the wait must be a duration above zero, such as 10s"}},
		{"on_rate_limit with no wait", inInline("on_rate_limit retry 0s"), []string{"connection api.example.com: on_rate_limit: the wait must be a duration above zero"}},
		{"on_rate_limit with a long wait", inInline("on_rate_limit retry 301s"), []string{"connection api.example.com: on_rate_limit: the wait must be at most 5m"}},
		{"on_rate_limit twice", inInline("on_rate_limit retry\non_rate_limit pass"), []string{"connection api.example.com: on_rate_limit: is given more than once"}},
		{"replay_buffer", inInline("replay_buffer much"), []string{"connection api.example.com: replay_buffer: must be a size"}},
		{"replay_buffer negative", inInline("replay_buffer -1"), []string{"connection api.example.com: replay_buffer: must be a size"}},
		{"allow in a connection", inConnection("allow GET /a/../b"), []string{"connection orders: allow: the path has a dot segment"}},
		{"allow in place", inInline("allow /a GET"), []string{"connection api.example.com: allow: a method comes after a path"}},
		{"allow in place without the ping", inInline("ping /me\nallow GET /a"), []string{"connection api.example.com: ping: its method and path are not in allow beside it"}},
		{"allow in a site", inSite("http_helper orders {\n\tallow GET\n}"), []string{"connection orders: allow: belongs to the connection in the global option"}},
		{
			"allow against the connector's api_header", inGlobal(fmt.Sprintf(usableConnector, "api_header X-Original-URL /a") + "\nconnection orders acme {\n\tclient_id app\n\tclient_secret {env.SECRET}\n\tallow GET\n}"),
			[]string{"connection orders: api_header X-Original-Url: some servers take a request with it for another"},
		},
		{"allow_clients", inInline("allow_clients everybody"), []string{"connection api.example.com: allow_clients: must be IP addresses, CIDR ranges or private_ranges"}},
		{"allow_clients empty", inInline("allow_clients"), []string{"connection api.example.com: allow_clients: takes one argument at least"}},

		{"allow_clients with a zone", inInline("allow_clients fd77::2%eth0"), []string{"connection api.example.com: allow_clients: an address with a zone (%eth0) is not possible"}},
		{"allow_hosts empty", inInline("allow_hosts"), []string{"connection api.example.com: allow_hosts: takes one argument at least"}},
		{"allow_hosts with a scheme", inInline("allow_hosts https://tools.example"), []string{"connection api.example.com: allow_hosts: takes names of hosts, without scheme, port, path or wildcard", "Caddyfile:6"}},
		{"allow_hosts with a port", inInline("allow_hosts tools tools:8080"), []string{"connection api.example.com: allow_hosts: takes names of hosts, without scheme, port, path or wildcard"}},
		{"allow_hosts with a wildcard", inInline("allow_hosts *.example"), []string{"connection api.example.com: allow_hosts: takes names of hosts, without scheme, port, path or wildcard"}},
		{"allow_hosts with a path", inInline("allow_hosts tools.example/"), []string{"connection api.example.com: allow_hosts: takes names of hosts, without scheme, port, path or wildcard"}},
		{"allow_hosts with a placeholder", inInline("allow_hosts {env.SECRET}"), []string{"connection api.example.com: allow_hosts: takes names of hosts, without scheme, port, path or wildcard"}},
		{"allow_hosts with an international name", inInline("allow_hosts müller.example"), []string{"connection api.example.com: allow_hosts: takes names of hosts", "an international name in its xn-- form"}},
		{"allow_hosts with an address", inInline("allow_hosts 127.0.0.1"), []string{"connection api.example.com: allow_hosts: takes names: requests to IP addresses are permitted without it"}},
		{"allow_hosts with an address in brackets", inInline("allow_hosts [::1]"), []string{"connection api.example.com: allow_hosts: takes names: requests to IP addresses are permitted without it"}},
		{"allow_hosts with any and a name", inInline("allow_hosts tools *"), []string{"connection api.example.com: allow_hosts: * permits any name: leave the others out"}},
		{"allow_hosts twice", inInline("allow_hosts a\nallow_hosts b"), []string{"connection api.example.com: allow_hosts: is given more than once"}},
		{"caller_token_file empty", inInline("caller_token_file"), []string{"connection api.example.com: caller_token_file: takes exactly one argument"}},
		{"caller_token_file by request", inInline("caller_token_file {http.request.uri}"), []string{"connection api.example.com: caller_token_file: "}},
		{"header_up Host", inInline("header_up Host {upstream_hostport}"), []string{"connection api.example.com: header_up: has no effect on Host, which is the host of base_url", "Caddyfile:6"}},
		{"header_up Authorization", inInline("header_up authorization x"), []string{"connection api.example.com: header_up: has no effect on Authorization, where the token goes"}},
		{"header_up -Authorization", inInline("header_up -Authorization"), []string{"header_up: has no effect on Authorization, where the token goes"}},
		{"header_up of the token's field", inInline("access_token_header X-Token\nheader_up X_Token x"), []string{"header_up: has no effect on X-Token, where the token goes"}},
		{"header_up Authorization beside another field", inInline("access_token_header X-Token\nheader_up Authorization x"), []string{"header_up: has no effect on Authorization, which the API gets only with app_authorization keep; api_header sets"}},
		{"header_up of credentials", inInline("header_up Proxy-Authorization x\nheader_up +DPoP x"), []string{"header_up: has no effect on Proxy-Authorization, which never reaches the API", "header_up: has no effect on Dpop"}},
		{"header_up of an api_header", inInline("api_header X-Key 1\nheader_up x-key 2"), []string{"header_up: has no effect on X-Key, which api_header sets"}},
		{"header_up of the body's length", inInline("header_up Content-Length 2"), []string{"header_up: has no effect on Content-Length, which follows from the body"}},

		{"rewrite", inSite("http_helper orders {\n\trewrite /x\n}"), []string{"connection orders: rewrite: is not possible here", "Caddyfile:25"}},
		{"transport fastcgi", inSite("http_helper orders {\n\ttransport fastcgi\n}"), []string{"connection orders: transport: only transport http is possible"}},
		{"transport http_helper", inSite("http_helper orders {\n\ttransport http_helper\n}"), []string{"connection orders: transport: only transport http is possible"}},
		{"transport without name", inSite("http_helper orders {\n\ttransport\n}"), []string{"connection orders: transport: only transport http is possible"}},
		{"tls_except_ports", inSite("http_helper orders {\n\ttransport http {\n\t\ttls_except_ports 8443\n\t}\n}"), []string{"connection orders: transport: tls_except_ports is not possible"}},
		{"tls_insecure_skip_verify", inSite("http_helper orders {\n\ttransport http {\n\t\ttls_insecure_skip_verify\n\t}\n}"), []string{"connection orders: tls_insecure_skip_verify needs allow_insecure base_url"}},
		{"TLS with http", inSite("http_helper local {\n\ttransport http {\n\t\ttls\n\t}\n}"), []string{"connection local: transport: base_url is http"}},
		{"https address with http", inSite("http_helper local {\n\tto https://127.0.0.1:9000\n}"), []string{"connection local: to: base_url is http"}},
		{"http address with https", inSite("http_helper orders {\n\tto http://10.0.0.1:9000\n}"), []string{"connection orders: to: base_url is https"}},
		{"h2c address with https", inSite("http_helper orders {\n\tto h2c://10.0.0.1:9000\n}"), []string{"connection orders: to: base_url is https"}},
		{"address without port", inSite("http_helper orders {\n\tto 10.0.0.1\n}"), []string{"connection orders: to: an address needs a port"}},
		{"health checks of a placeholder", inSite("http_helper {header.X-Connection} {\n\tconnections orders local\n\thealth_uri /up\n}"), []string{"active health checks need one connection"}},
		{"health checks of a late base URL", inSite("http_helper late {\n\thealth_uri /up\n}"), []string{"connection late: active health checks need one connection, with a base_url without placeholders"}},
		{"proxy option with bad argument", inSite("http_helper orders {\n\tlb_retries many\n}"), []string{"connection orders: bad lb_retries number"}},
	})
}

// TestErrorsNameTheLineOfTheOption and what was probably meant, all of them at once.
func TestErrorsNameTheLineOfTheOption(t *testing.T) {
	t.Setenv("HTTP_HELPER_TEST_SET", "x")
	twoConnectors := fmt.Sprintf(usableConnector, "customize_scopes\nscope contacts.read\nparameter instance text {\n\tlable x\n}") + "\nconnector globex {\nbase_url https://a.example\nissuer https://b.example\n}\n"
	for _, c := range []struct {
		name, caddyfile string
		want            []string // the whole error, but for what Caddy puts before it
	}{
		{"subdirective", inConnection("clientid x\ntoken_timeot 5s"), []string{
			"connection orders: unrecognized subdirective clientid (did you mean client_id?), at Caddyfile:8",
			"connection orders: unrecognized subdirective token_timeot (did you mean token_timeout?), at Caddyfile:9",
			"connection orders: client_secret: {env.SECRET} is not set or empty, at Caddyfile:7",
		}},
		{"subdirective of the global option", inGlobal("conection x {\n}"), []string{"http_helper: unrecognized subdirective conection (did you mean connection?), at Caddyfile:3"}},
		{"subdirective of a parameter, and connectors", inGlobal(twoConnectors + "connection a acmee {\nclient_id x\n}\nconnection b globx {\nclient_id x\n}"), []string{
			"connector acme: parameter instance: unrecognized subdirective lable (did you mean label?), at Caddyfile:9",
			"connection a: there is no connector acmee (did you mean acme?); there are acme, globex, at Caddyfile:16",
			"connection b: there is no connector globx (did you mean globex?); there are acme, globex, at Caddyfile:19",
		}},
		{"parameter and scope", inGlobal(fmt.Sprintf(usableConnector, "customize_scopes\nscope contacts.read\nparameter instance text") + "\nconnection a acme {\nclient_id x\nclient_secret {env.HTTP_HELPER_TEST_SET}\nparameter instnce x\nscopes contacts.raed\n}"), []string{
			"connection a: parameter instnce: the connector acme has no such parameter (did you mean instance?), at Caddyfile:13",
			"connection a: parameter instance is missing: the connector acme asks for it, at Caddyfile:10",
			"connection a: scopes: the connector has no scope contacts.raed (did you mean contacts.read?), at Caddyfile:14",
		}},
		{"values", inInline("auth_method client_secret_bsic\nbasic_encoding from\napp_authorization kep\non_unauthorized rety\ntoken_request_format jsn\nrefresh_before soon"), []string{
			"connection api.example.com: auth_method: must be one of client_secret_basic, client_secret_jwt, client_secret_post, none, private_key_jwt, tls_client_auth (did you mean client_secret_basic?), at Caddyfile:6",
			"connection api.example.com: basic_encoding: must be one of form, raw (did you mean form?), at Caddyfile:7",
			"connection api.example.com: app_authorization: must be one of replace, keep, reject (did you mean keep?), at Caddyfile:8",
			"connection api.example.com: on_unauthorized: must be one of retry, pass (did you mean retry?), at Caddyfile:9",
			"connection api.example.com: token_request_format: must be one of form, json, query (did you mean json?), at Caddyfile:10",
			"connection api.example.com: refresh_before: must be a duration above zero, such as 30s or 5m, at Caddyfile:11",
			"connection api.example.com: client_secret: {env.SECRET} is not set or empty, at Caddyfile:5",
		}},
		{"later checks", inConnection("token_request_param a 1\napi_header X-A 1\ntoken_request_param scope a\napi_header X-B 1\napi_header Host 1\nassertion_lifetime 10ms\nallow_insecure\nping /a/../b\nscopes a a"), []string{
			"connection orders: token_request_param: scope cannot be set here; it has an option of its own, at Caddyfile:10",
			"connection orders: api_header: Host cannot be set here, at Caddyfile:12",
			"connection orders: ping: the path has a dot segment, at Caddyfile:15",
			"connection orders: assertion_lifetime: nothing is signed here with auth_method client_secret_basic, at Caddyfile:13",
			"connection orders: assertion_lifetime must be a second at least, the resolution of the times in an assertion, at Caddyfile:13",
			"connection orders: scopes: a is named twice, at Caddyfile:16",
			"connection orders: client_secret: {env.SECRET} is not set or empty, at Caddyfile:7",
		}},
		{"options of reverse_proxy", inSite("http_helper orders {\nheaderup X-A 1\nlb_retries many\nconections orders\nreplay_bufer 1\n}"), []string{
			"connection orders: unrecognized subdirective headerup (did you mean header_up?), at Caddyfile:25",
			"connection orders: bad lb_retries number 'many': strconv.Atoi: parsing \"many\": invalid syntax, at Caddyfile:26",
			"connection orders: unrecognized subdirective conections, at Caddyfile:27",
			"connection orders: unrecognized subdirective replay_bufer (did you mean replay_buffer?), at Caddyfile:28",
			"connection orders: client_secret: {env.SECRET} is not set or empty, at Caddyfile:24",
		}},
		{"transport", inSite("http_helper orders {\ntransport http {\n\tdial_timeout 1s\n\ttls_except_ports 1\n}\n}"), []string{
			"connection orders: transport: tls_except_ports is not possible, since base_url decides on TLS, at Caddyfile:27",
			"connection orders: client_secret: {env.SECRET} is not set or empty, at Caddyfile:24",
		}},
		{"options of reverse_proxy and of transports twice", inSite("http_helper orders {\nheader_up X-A 1\nheader_up X-B 1\nflush_interval 1s\nflush_interval -1\nlb_policy first\nlb_policy first\ntransport http {\n\tdial_timeout 1s\n\tdial_timeout 2s\n}\ntransport http\n}"), []string{
			"connection orders: transport: dial_timeout: is given more than once, at Caddyfile:33",
			"connection orders: flush_interval: is given more than once, at Caddyfile:28",
			"connection orders: transport: is given more than once, at Caddyfile:35",
			"connection orders: load balancing selection policy already specified, at Caddyfile:30",
			"connection orders: client_secret: {env.SECRET} is not set or empty, at Caddyfile:24",
		}},
		{"connection", inSite("http_helper order"), []string{
			"http_helper: there is no connection order in the global option http_helper (did you mean orders?); there are late, local, orders; a base URL begins with https://, at Caddyfile:24",
		}},
		{"name", inInline("name a\nname b"), []string{
			"connection a: name: is given more than once, at Caddyfile:7",
			"connection a: client_secret: {env.SECRET} is not set or empty, at Caddyfile:5",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := adapt(c.caddyfile)
			if err == nil {
				t.Fatal("no error")
			}
			if got, want := strings.TrimPrefix(err.Error(), "parsing caddyfile tokens for 'http_helper': "), strings.Join(c.want, "\n"); got != want {
				t.Errorf("the error is\n%s\nbut should be\n%s", got, want)
			}
		})
	}
}

func TestErrorsInTransport(t *testing.T) {
	transport := func(lines string) string {
		return inSite("reverse_proxy https://api.example.com {\n\ttransport http_helper " + lines + "\n}")
	}
	checkAdaptErrors(t, []adaptError{
		{"argument", transport("orders"), []string{"transport: http_helper: takes no argument"}},
		{"connection", transport("{\n\tconnection\n}"), []string{"transport http_helper: connection: takes exactly one argument"}},
		{"bad connection", transport("{\n\tconnection a/b\n}"), []string{"transport http_helper: connection: a name consists of"}},
		{"own option twice", transport("{\n\tconnection a\n\tconnection b\n}"), []string{"transport http_helper: connection: is given more than once"}},
		{"http option twice", transport("{\n\tdial_timeout 1s\n\tdial_timeout 2s\n}"), []string{"transport http_helper: dial_timeout: is given more than once, at Caddyfile:27"}},
		{"unknown", transport("{\n\tnothing\n}"), []string{"unrecognized subdirective nothing"}},
		{"upstream source", inSite("reverse_proxy {\n\tdynamic http_helper x\n}"), []string{"dynamic: http_helper: takes no argument"}},
		{"upstream source block", inSite("reverse_proxy {\n\tdynamic http_helper {\n\t\tx\n\t}\n}"), []string{"dynamic: http_helper: has no options"}},
	})
}

// Errors while a config is loaded.

// validate does what `caddy validate` does with a Caddyfile.
func validate(t *testing.T, caddyfile string) error {
	t.Helper()
	adapted, err := adapt(caddyfile)
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(adapted), cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(cfg)
}

// TestCaddyfileLoads loads what Caddyfiles come to. A site with several addresses, and a named route
// that several sites invoke, come to copies of the same routes: the connection that is defined there
// is still one connection.
func TestCaddyfileLoads(t *testing.T) {
	t.Setenv("SECRET", "x")
	t.Setenv("HOST", "api.example.com")
	const inline = `http_helper https://api.example.com {
		token_url https://auth.example.com/token
		client_id app
		client_secret {env.SECRET}
	}
`
	for name, caddyfile := range map[string]string{
		"inline":            inInline(""),
		"named":             inSite("http_helper orders"),
		"late base URL":     inSite("http_helper late"),
		"http":              inSite("http_helper local"),
		"placeholder":       inSite("http_helper {header.X-Connection} {\n\tconnections orders local late\n}"),
		"health checks":     inSite("http_helper orders {\n\thealth_uri /up\n}"),
		"upstreams":         inSite("http_helper orders {\n\tto 10.0.0.1:443 10.0.0.2:443\n}"),
		"transport by hand": inSite("reverse_proxy https://api.example.com {\n\ttransport http_helper {\n\t\tconnection orders\n\t}\n}"),
		"two servers":       "http://a.example:8080, http://b.example:8081 {\n\t" + inline + "}\nhttp://c.example:8081 {\n\trespond hi\n}\n",
		"named route":       "&(api) {\n\t" + inline + "}\n:8080 {\n\tinvoke api\n}\n:8081 {\n\tinvoke api\n}\n",
		"snippet":           "(api) {\n\t" + inline + "}\n:8080 {\n\timport api\n}\n:8081 {\n\timport api\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := validate(t, caddyfile); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNullIsAnError and no panic, after which the connections before it would be held for ever.
func TestNullIsAnError(t *testing.T) {
	t.Setenv("SECRET", "x")
	const whole = `{"token_url": "https://auth.example/token", "base_url": "https://api.example", "client_id": "x", "client_secret": "{env.SECRET}"}`
	config := `{"apps": {"http_helper": {
		"connectors": {"empty": null},
		"connections": {"a-whole": ` + whole + `, "b-empty": null, "c-dependent": {"connector": "empty", "client_id": "x"}}}}}`
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(config), cfg); err != nil {
		t.Fatal(err)
	}
	err := caddy.Validate(cfg)
	want := "connector empty: it is null\nconnection b-empty: it is null"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	registry := prometheus.NewRegistry()
	_ = telemetry.Register(registry, tokenExpiries, storageDegraded)
	families, err := registry.Gather()
	if err != nil || strings.Contains(fmt.Sprint(families), "a-whole") {
		t.Errorf("a connection of no config has metrics: %v, %v", families, err)
	}
}

// TestUnusableCredentialsNameTheOption: the one that was used, when the config is loaded.
func TestUnusableCredentialsNameTheOption(t *testing.T) {
	dir := t.TempDir()
	keystest.WriteFile(t, filepath.Join(dir, "short"), "hunter2")
	keystest.WriteFile(t, filepath.Join(dir, "weak"), string(keystest.PEM(t, "weak")))
	keystest.WriteFile(t, filepath.Join(dir, "key"), string(keystest.PEM(t, "ec256")))
	keystest.WriteFile(t, filepath.Join(dir, "lines"), "hunter2\n\n")
	keystest.WriteFile(t, filepath.Join(dir, "crt"), string(keystest.CertificateFor(t, "ec384")))
	for options, want := range map[string]string{
		"client_secret_basic\nclient_secret_file $DIR/lines":                             "client_secret_file: the value contains a control character, such as a line break at its end",
		"client_secret_post\nclient_secret {file.$DIR/lines}":                            "client_secret: the value of {file." + dir + "/lines} contains a control character, such as a line break at its end",
		"private_key_jwt\nclient_key_file $DIR/key\nclient_key_certificate $DIR/crt":     "client_key_certificate: the certificate does not belong to the client's private key",
		"private_key_jwt\nclient_key {file.$DIR/key}\nclient_key_certificate $DIR/short": "client_key_certificate: not a PEM certificate",
		"private_key_jwt\nclient_key_file $DIR/key\nclient_key_certificate $DIR/none":    "client_key_certificate: reading file",
		"client_secret_jwt\nclient_secret_file $DIR/short":                               "client_secret_file: HS256 needs",
		"client_secret_jwt\nclient_secret {file.$DIR/short}":                             "client_secret: HS256 needs",
		"private_key_jwt\nclient_key_file $DIR/short":                                    "client_key_file: neither",
		"private_key_jwt\nclient_key_file $DIR/weak":                                     "client_key_file: an RSA key",
		"private_key_jwt\nclient_key {file.$DIR/weak}":                                   "client_key: an RSA key",
		"private_key_jwt\nclient_key_file $DIR/key\nsigning_alg ES512":                   "client_key_file: its algorithm",
		"private_key_jwt\nclient_assertion_file $DIR/key":                                "client_assertion_file: not an assertion",
	} {
		err := validate(t, inGlobal(strings.ReplaceAll("connection orders {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\nauth_method "+options+"\n}", "$DIR", dir)))
		if err == nil || !strings.Contains(err.Error(), "connection orders: "+want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", options, err)
		}
	}
}

// TestCertificateNeedsTLS: over http nothing would be proved.
func TestCertificateNeedsTLS(t *testing.T) {
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, strings.Replace(oauthtest.PlainMetadata, "{", `{"token_endpoint_auth_methods_supported":["tls_client_auth"],`, 1))
	caddyfile := func(endpoint string) string {
		return "SITE {\n\thttp_helper http://127.0.0.1:1 {\n" + endpoint + "\nauth_method tls_client_auth\nclient_id app\nclient_certificate " + certFile + " " + keyFile + "\n}\n}\n"
	}
	err := tryCaddyfile(onPort(caddyfile("token_url http://127.0.0.1:1/token"), "http://"+freeAddress(t)))
	if err == nil || !strings.Contains(err.Error(), "no client certificate is shown") {
		t.Errorf("error %v", err)
	}
	site := runSidecar(t, caddyfile("issuer "+issuer.URL))
	resp, _ := call(t, http.MethodGet, site, nil)
	if status := resp.Header.Get("Proxy-Status"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(status, "no client certificate is shown") {
		t.Errorf("status %d, %q", resp.StatusCode, status)
	}
	if got := len(issuer.All()); got != 1 {
		t.Errorf("%d requests, want only that for the metadata", got)
	}
}

// Errors quote no secret.

// secretMark is used as a secret. It is no name, key, scope or duration.
const secretMark = "s€cr=t;§"

// secretLines are lines with a secret: where it belongs and where it has gone astray.
var secretLines = []string{
	"client_secret %s",
	"client_secret %s oops",
	"scopes %s",
	"additional_scopes %s",
	"client_id_label %s oops",
	"auth_method %s",
	"basic_encoding %s",
	"app_authorization %s",
	"client_secret oops %s",
	"client_secret oops {\n\t%s\n}",
	"client_secret %s {\n\toops\n}",
	"client_secret {%s}",
	"client_secret pa{oops}%s",
	"client_secret {http.%s}",
	"client_secret\n%s",
	"client_secret \"oops\n%s oops\" oops",
	"client_secret `oops\n%s` oops",
	"client_secret=%s",
	"client_secert %s",
	"%s",
	"client_key %s oops",
	"client_key -----BEGIN PRIVATE KEY-----\n%s",
	"client_secret_file %s %s",
	"client_certificate %s",
	"client_assertion_file %s %s",
	"token_url https://auth.example.com/%%zz?key=%s",
	"token_url https://app:%s@auth.example.com",
	"token_url https://auth.example.com/#%s",
	"token_url ://%s",
	"base_url https://app:%s@api.example.com",
	"token_request_param %s",
	"token_request_param assertion %s {oops}",
	"token_request_header \"X-Key: %s\" oops",
	"token_request_header X-Key %s oops",
	"api_header \"X-Key: %s\" oops",
	"api_header X-Key %s oops",
	"api_query %s",
	"access_token_header %s oops oops",
	"parameter pin %s oops",
	"parameter %s pin",
	"parameter pin {%s.oops}",
	"config_value key password %s",
	"config_value key password {\n\tvalue %s oops\n}",
	"config_value key password {\n\t%s\n}",
	"refresh_before %s",
	"replay_buffer %s",
	"on_rate_limit %s",
	"on_rate_limit retry %s",
	"allow_clients %s",
	"allow %s",
	"allow GET %s /a %s",
	"allow /%s /%s /a/*/%s",
	"allow_hosts %s:",
	"caller_token_file %s %s",
	"name %s",
	"connections %s",
	"dpop %s %s",
	"ping %s",
	"resource %s",
}

// TestErrorsQuoteNoSecret puts each line everywhere, whether it belongs there or not.
func TestErrorsQuoteNoSecret(t *testing.T) {
	for _, line := range secretLines {
		line = strings.ReplaceAll(strings.ReplaceAll(line, "%s", secretMark), "%%", "%")
		for where, caddyfile := range everywhere(line) {
			if _, err := adapt(caddyfile); err != nil && strings.Contains(err.Error(), secretMark) {
				t.Errorf("%s: %q leads to an error with the secret: %v", where, line, err)
			}
		}
	}
}

// TestErrorsQuoteNothingThatMayBeASecret: what stands where a path, a scope or a name belongs, and looks like
// none.
func TestErrorsQuoteNothingThatMayBeASecret(t *testing.T) {
	const secret = "Tr0ub4dor3x9"
	withScopes := strings.Replace(withConnector("parameter instance a\nparameter region eu\n%s"), "\tscope read", "customize_scopes\n\tscope read", 1)
	for _, caddyfile := range []string{
		inGlobal("connection orders {\nbase_url https://api.example.com\ntoken_url https://auth.example.com/token\nclient_id app\nclient_secret_file " + secret + "\n}"),
		inGlobal("connection orders {\nbase_url https://api.example.com\ntoken_url https://auth.example.com/token\nclient_id app\nclient_secret {file./" + secret + "}\n}"),
		inGlobal("connection orders {\nbase_url https://api.example.com\ntoken_url https://auth.example.com/token\nclient_id app\nauth_method private_key_jwt\nclient_key_file " + secret + "\n}"),
		inConnection("client_certificate " + secret + " /key"),
		inConnection("dpop " + secret),
		inConnection(`scopes "` + secret + ` x"`),
		fmt.Sprintf(withScopes, "scopes "+secret),
		inConnector("parameter a dropdown {\noption x\ndefault " + secret + "\n}"),
		inConnector("scope \"" + secret + " x\""),
		inInline("access_token_header " + secret + ":"),
		inGlobal("connection orders " + secret + " {\nclient_id app\n}"),
		inSite("http_helper " + secret),
		inSite("http_helper {header.X} {\nconnections " + secret + "\n}"),
		inConnector("config_value a text {\nflow " + secret + "\n}"),
		inConnection("scopes " + secret + " " + secret),
		inConnector("scope " + secret + "\nscope " + secret),
		inConnector("parameter a dropdown {\noption " + secret + "\noption " + secret + "\n}"),
		inConnection("api_query " + secret + " x\napi_query " + secret + " y"),
		inConnection("token_request_param " + secret + " x\ntoken_request_param " + secret + " y"),
		withConnector("parameter " + secret + " instance"),
		withConnector("parameter_file " + secret + " instance\nparameter " + secret + " instance"),
		inGlobal("connection orders " + secret + " {\nbase_url https://api.example.com\n}"),
	} {
		t.Setenv("SECRET", "x")
		err := func() error {
			if _, err := adapt(caddyfile); err != nil {
				return err
			}
			return validate(t, caddyfile)
		}()
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s\nleads to an error with the secret: %v", caddyfile, err)
		}
	}
}

// everywhere puts lines into each block that we parse.
func everywhere(lines string) map[string]string {
	return map[string]string{
		"global option":     inGlobal(lines),
		"connector":         inConnector(lines),
		"connection":        inConnection(lines),
		"with a connector":  withConnector(lines),
		"inline":            inInline(lines),
		"named":             inSite("http_helper orders {\n" + lines + "\n}"),
		"placeholder":       inSite("http_helper {header.X} {\nconnections orders\n" + lines + "\n}"),
		"transport":         inSite("reverse_proxy https://api.example.com {\ntransport http_helper {\n" + lines + "\n}\n}"),
		"arguments":         inSite("http_helper orders " + lines),
		"connector's name":  inGlobal("connector " + lines),
		"connection's name": inGlobal("connection orders acme " + lines),
	}
}

func FuzzCaddyfile(f *testing.F) {
	for _, line := range secretLines {
		before, after, _ := strings.Cut(line, "%s")
		f.Add(before, after)
	}
	for _, line := range []string{"scope a required {", "flow a request GET https://x {", "token_transport {", "}\n}", "to {", "handle_response {", "transport http {", "\"", "{}", "scopes"} {
		f.Add(line, "")
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, "import") || strings.Contains(before+after, "<<") {
			return // Caddy's own: it reads files, and quotes what ends a heredoc
		}
		for where, caddyfile := range everywhere(before + secretMark + after) {
			_, err := adapt(caddyfile)
			if err == nil || !isSecretLine(before, after) || !strings.Contains(err.Error(), secretMark) {
				continue
			}
			t.Errorf("%s: %q, %q lead to an error with the secret: %v", where, before, after, err)
		}
	})
}

// isSecretLine reports whether the line is nothing but the arguments of an option with a secret.
func isSecretLine(before, after string) bool {
	if strings.ContainsAny(before+after, "\n\r\\\"`{}") {
		return false
	}
	option, _, _ := strings.Cut(before, " ")
	return option == "client_secret" || option == "client_key" || option == "client_secret_file"
}

// The documentation names what there is, and all of it.

// TestMetricsNamedInDeploy looks for every metric that the dashboard, the alert rules and the
// documentation name, with its labels and their values.
func TestMetricsNamedInDeploy(t *testing.T) {
	real := realMetrics()
	name := regexp.MustCompile(`caddy_http_helper_[a-z_]+`)
	value := regexp.MustCompile(`(result|outcome)!?="([a-z_]+)"`)
	values := []string{"ok", string(oauth.ClassConfiguration), string(oauth.ClassOutage), "sent", "kept", "no_token", "refused", "replayed", "passed"}
	found := 0
	for _, file := range filesBelow(t, "deploy", "docs") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range name.FindAllString(string(text), -1) {
			found++
			if !slices.Contains(real, metric) {
				t.Errorf("%s names %s, which is not there", file, metric)
			}
		}
		for _, match := range value.FindAllStringSubmatch(strings.ReplaceAll(string(text), `\"`, `"`), -1) {
			if !slices.Contains(values, match[2]) {
				t.Errorf("%s names %s, which is not there", file, match[0])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d metrics are named", found)
	}
}

// describingRegistry collects the descriptions of what is registered.
type describingRegistry struct{ descriptions []*prometheus.Desc }

func (r *describingRegistry) Register(c prometheus.Collector) error {
	described := make(chan *prometheus.Desc, 10)
	c.Describe(described)
	close(described)
	for d := range described {
		r.descriptions = append(r.descriptions, d)
	}
	return nil
}

func (*describingRegistry) MustRegister(...prometheus.Collector) {}

func (*describingRegistry) Unregister(prometheus.Collector) bool { return false }

// realMetrics are the names of the series that there are.
func realMetrics() []string {
	registry := new(describingRegistry)
	_ = telemetry.Register(registry, tokenExpiries, storageDegraded)
	fqName := regexp.MustCompile(`fqName: "([^"]*)"`)
	var names []string
	for _, description := range registry.descriptions {
		name := fqName.FindStringSubmatch(description.String())[1]
		names = append(names, name)
		if strings.HasSuffix(name, "_seconds") {
			names = append(names, name+"_bucket", name+"_sum", name+"_count")
		}
	}
	return names
}

func filesBelow(t *testing.T, roots ...string) []string {
	t.Helper()
	var files []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestOptionsAreDocumented looks for every option in the documentation.
func TestOptionsAreDocumented(t *testing.T) {
	connectors := documentation(t, "docs/connectors-and-connections.md")
	for _, names := range [][]string{
		slices.Sorted(maps.Keys(serviceOptions())), slices.Sorted(maps.Keys(connectorOptions)), slices.Sorted(maps.Keys(connectionOptions)), slices.Sorted(maps.Keys(formOptions)),
		slices.Sorted(maps.Keys(shareOptions)),
		{"share_tokens"},
	} {
		wantDocumented(t, connectors, names)
	}
	wantDocumented(t, documentation(t, "docs/http_helper.md"), append(slices.Sorted(maps.Keys(policyOptions)), "name", "connections"))
	wantDocumented(t, connectors, oauth.MethodNames())
}

func documentation(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wantDocumented looks for names that begin a line of code.
func wantDocumented(t *testing.T, text string, names []string) {
	t.Helper()
	for _, name := range names {
		if !regexp.MustCompile("(?m)(`|^\\s*)" + name + "[ `]").MatchString(text) {
			t.Errorf("%s is not documented", name)
		}
	}
}

// TestAdminExamplesInDocs decodes the documented responses, which must have every field of their type; one
// of them is a part.
func TestAdminExamplesInDocs(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^```json\n(.*?)^```$").FindAllStringSubmatch(documentation(t, "docs/operations.md")+documentation(t, "docs/admin-api.md"), -1)
	views := []any{new(healthView), new(adminapi.Connection), new(adminapi.Connection), new([]adminapi.Event), new(adminapi.Ping), new(adminapi.Ping), new(adminapi.Connector)}
	if len(blocks) != len(views) {
		t.Fatalf("%d examples", len(blocks))
	}
	for i, block := range blocks {
		decoder := json.NewDecoder(strings.NewReader(block[1]))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(views[i]); err != nil {
			t.Errorf("%v in %s", err, block[1])
		}
		const part = 2
		if i == part {
			continue
		}
		again, err := json.Marshal(views[i])
		if err != nil {
			t.Fatal(err)
		}
		var documented, real any
		if err := errors.Join(json.Unmarshal([]byte(block[1]), &documented), json.Unmarshal(again, &real)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(documented, real) {
			t.Errorf("documented %v, real %v", documented, real)
		}
	}
}

// TestLogMessagesInDocs looks for the messages that the documentation explains in the sources, and
// the other way round.
func TestLogMessagesInDocs(t *testing.T) {
	_, section, _ := strings.Cut(documentation(t, "docs/operations.md"), "\n## Log messages\n")
	section, _, _ = strings.Cut(section, "\n## ")
	messages := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1)
	if len(messages) < 8 {
		t.Fatalf("only %d messages", len(messages))
	}
	for _, message := range messages {
		wantQuoted(t, message[1])
	}
	logged := regexp.MustCompile(`\.(?:Debug|Info|Warn|Error)\((?:"([^"]+)"|([a-z]+))`).FindAllStringSubmatch(sources(t), -1)
	if len(logged) < 8 {
		t.Fatalf("only %d messages are logged", len(logged))
	}
	for _, message := range logged {
		if text := strings.TrimRight(message[1], " ;"); !strings.Contains(section, text) {
			t.Errorf("%q is logged and not documented", text)
		}
	}
}

// TestSymptomsInDocs looks for the messages that the page for troubles quotes in the sources.
func TestSymptomsInDocs(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| ([^|]*`[^|]*) \\|").FindAllStringSubmatch(documentation(t, "docs/troubleshooting.md"), -1)
	quotes := 0
	for _, row := range rows {
		for _, quote := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			quotes++
			wantQuoted(t, quote[1])
		}
	}
	if quotes < 20 {
		t.Fatalf("only %d quotes", quotes)
	}
}

// fromElsewhere are quotes of what is not in our sources.
var fromElsewhere = []string{
	"Proxy-Status", "curl", "localhost", "address already in use",
	"Client sent an HTTP request to an HTTPS server", "unrecognized directive: http_helper", "unrecognized directive: token_url", "unrecognized global option: http_helper",
	"starting caddy administration endpoint: …", "no such file or directory", "permission denied",
	"HTTP/2 skipped because it requires TLS", "admin endpoint on open interface; host checking disabled",
}

// putTogether are messages that are made of pieces, which `…` divides here.
var putTogether = map[string]string{
	"there is no connection …; a base URL begins with https://":                     "there is no …a base URL begins with https://",
	"has no token at /access_token":                                                 "has no token at …/access_token",
	"cannot be reached: no such host":                                               "cannot be reached: …no such host",
	"cannot be reached: timed out":                                                  "cannot be reached: …timed out",
	"refused the request (status 401): check token_url, the client's credentials …": "refused the request (status …): …check token_url, the client's credentials",
	"refused the request (status 404): check token_url":                             "refused the request (status …): …check token_url",
	"refused the request (status …): …; it worked before with the same credentials": "refused the request (status …): …; it worked before with the same credentials",
	"another token_type (…) than Bearer":                                            "another token_type…than Bearer",
	"another token_type (…) than DPoP":                                              "another token_type…than DPoP",
	"responded with status 429":                                                     "responded with status ",
	"base_url is http and its host is not loopback":                                 "base_url…is http and its host is not loopback",
}

// wantQuoted looks for a message in the sources, piece by piece where something is left out.
func wantQuoted(t *testing.T, message string) {
	t.Helper()
	if slices.Contains(fromElsewhere, message) {
		return
	}
	for text := range strings.SplitSeq(cmp.Or(putTogether[message], message), "…") {
		if text = strings.TrimSpace(text); !strings.Contains(sources(t), text) {
			t.Errorf("%q is said nowhere", text)
		}
	}
}

// sources are those of the plugin, without its tests.
func sources(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range append(files, filesBelow(t, "internal")...) {
		if strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") {
			all.WriteString(documentation(t, file))
		}
	}
	return all.String()
}
