package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

func TestTokenRequestByMethod(t *testing.T) {
	for method, want := range map[string][]string{
		"client_secret_basic": {"Authorization: Basic with id and (the client secret)"},
		"client_secret_post":  {"client_id = id", "client_secret = (the client secret)"},
		"client_secret_jwt":   {"client_id = id", "client_assertion = (signed, a new one each time)"},
		"private_key_jwt":     {"client_id = id", "client_assertion = (signed, a new one each time)"},
		"tls_client_auth":     {"client_id = id"},
		"none":                {"client_id = id"},
	} {
		connector := &Connector{Service: Service{AuthMethod: method, BaseURL: "https://api.example", TokenURL: "https://auth.example/token?key=query-secret"}}
		if err := connector.checkAlone("c"); err != nil {
			t.Fatal(err)
		}
		d := draft.New(connector.forDraft(), new(draft.Config))
		for i := range d.Fields {
			d.Fields[i].Value = "id"
		}
		preview, err := d.Preview()
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		for _, text := range append(want, "POST https://auth.example/token\n", "grant_type = client_credentials") {
			if !strings.Contains(preview, text) {
				t.Errorf("%s: %q is not in\n%s", method, text, preview)
			}
		}
		if strings.Contains(preview, "query-secret") || strings.Contains(preview, "scope") {
			t.Errorf("%s:\n%s", method, preview)
		}
	}
}

// forDrafts is what drafts are given here.
var forDrafts = draft.Configuration{Find: findForDraft, Check: checkForDraft}

// fullConnector is a draft with everything that the dialog asks.
func fullConnector() *draft.ConnectorDraft {
	d := draft.NewConnector(forDrafts, nil)
	d.Name, d.Label = "acme_crm", `Acme "CRM" {x}`
	d.BaseURL, d.TokenURL, d.AuthMethod = "https://{param.instance}.acme.example/api", "https://{param.instance}.acme.example/oauth2/token?v=1", "client_secret_post"
	d.Scopes = []draft.ScopeDraft{{Name: "contacts.read", Description: "Read # contacts", Required: true}, {}, {Name: "contacts.write"}}
	d.CustomizeScopes, d.AdditionalScopes, d.ScopesDelimiter, d.ScopesHelp = true, true, "comma", "https://help.example/scopes"
	d.Parameters = []draft.ParameterDraft{
		{Key: "instance", Type: "text", Label: "Your instance"},
		{Key: "pass", Type: "password"},
		{Type: "text"},
		{Key: "region", Type: "dropdown", Options: []draft.OptionDraft{{Value: "eu", Label: "Europe"}, {Value: "us"}, {}}, Default: "us"},
	}
	d.ConfigValues = []draft.ConfigValueDraft{
		{Key: "audience", Type: "text", Label: "Audience", Value: "https://{param.instance}.acme.example"},
		{
			Key: "shard", Type: "text", Hidden: true, Source: draft.SourceRequest, URL: "https://discovery.acme.example/{param.instance}", Method: "post",
			Headers: []draft.PairDraft{{Name: "X-Key", Value: "{param.pass}"}, {}}, Body: `{"instance": "{param.instance}"}`, Pointer: "/data/shard",
		},
		{Key: "plain", Type: "password", Source: draft.SourceRequest, URL: "https://discovery.acme.example/plain"},
		{Key: "upper", Type: "text", Source: draft.SourceTemplate, Template: "{{ upper .param.instance }}"},
		{Type: "text", Source: draft.SourceTemplate},
	}
	d.TokenRequestParams = []draft.PairDraft{{Name: "audience", Value: "{config.audience}"}, {}}
	d.APIHeaders = []draft.PairDraft{{Name: "X-Shard", Value: "{config.shard} {config.plain}"}}
	d.APIQuery = []draft.PairDraft{{Name: "tenant", Value: "{config.upper}"}}
	d.Ping = draft.PingDraft{Method: "get", Path: "/me?x=1", Statuses: " 200 204"}
	return d
}

// The block of a connector's draft means what its JSON says, and both load.
func TestConnectorDraft(t *testing.T) {
	empty := draft.NewConnector(forDrafts, nil)
	empty.Name, empty.BaseURL, empty.TokenURL = "small", "https://api.example", "https://auth.example/token"
	for _, d := range []*draft.ConnectorDraft{fullConnector(), empty} {
		form, problems := d.Form(t.Context())
		if len(problems) > 0 {
			t.Errorf("%s: %v", d.Name, problems)
		}
		if form.Name != d.Name || len(form.Fields) < 2 || form.Fields[0].Key != "client_id" {
			t.Errorf("%s: the form is %+v", d.Name, form)
		}
		block, err := d.Block()
		if err != nil {
			t.Fatal(err)
		}
		adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\n\thttp_helper {\n"+indented(block)+"\t}\n}\n"), nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%v %v\n%s", err, warnings, block)
		}
		var config struct {
			Apps struct {
				HTTPHelper struct {
					Connectors map[string]any `json:"connectors"`
				} `json:"http_helper"`
			} `json:"apps"`
		}
		var direct any
		if json.Unmarshal(adapted, &config) != nil || json.Unmarshal(d.JSON(), &direct) != nil {
			t.Fatal("no JSON")
		}
		if got := config.Apps.HTTPHelper.Connectors[d.Name]; !reflect.DeepEqual(got, direct) {
			t.Errorf("the block\n%s\nmeans %v,\nnot %v", block, got, direct)
		}
	}
}

// indented returns a block as it is in the global option.
func indented(block string) string {
	var b strings.Builder
	for line := range strings.Lines(block) {
		b.WriteString("\t\t" + line)
	}
	return b.String()
}

// Each mistake is at its field.
func TestConnectorDraftProblems(t *testing.T) {
	for field, mistake := range map[string]func(*draft.ConnectorDraft){
		"name":                     func(d *draft.ConnectorDraft) { d.Name = "../x" },
		"label":                    func(d *draft.ConnectorDraft) { d.Label = "a\nb" },
		"base_url":                 func(d *draft.ConnectorDraft) { d.BaseURL = "" },
		"token_url":                func(d *draft.ConnectorDraft) { d.TokenURL = "http://auth.example/token" },
		"auth_method":              func(d *draft.ConnectorDraft) { d.AuthMethod = "basic" },
		"scopes.0.required":        func(d *draft.ConnectorDraft) { d.CustomizeScopes, d.AdditionalScopes = false, false },
		"additional_scopes":        func(d *draft.ConnectorDraft) { d.CustomizeScopes, d.Scopes[0].Required = false, false },
		"scopes.2.name":            func(d *draft.ConnectorDraft) { d.Scopes[2].Name = "contacts read" },
		"scopes.1.name":            func(d *draft.ConnectorDraft) { d.Scopes[1].Description = "Without a name" },
		"scopes.0.description":     func(d *draft.ConnectorDraft) { d.Scopes[0].Description = "{$X}" },
		"scopes_delimiter":         func(d *draft.ConnectorDraft) { d.ScopesDelimiter = ";" },
		"scopes_help":              func(d *draft.ConnectorDraft) { d.ScopesHelp = "ask Bob" },
		"parameters.3.key":         func(d *draft.ConnectorDraft) { d.Parameters[3].Key = "instance" },
		"parameters.1.key":         func(d *draft.ConnectorDraft) { d.Parameters[1].Key = "1: pass"; d.ConfigValues[1].Headers = nil },
		"parameters.2.key":         func(d *draft.ConnectorDraft) { d.Parameters[2].Label = "Without a key" },
		"parameters.0.type":        func(d *draft.ConnectorDraft) { d.Parameters[0].Type = "number" },
		"parameters.3.options":     func(d *draft.ConnectorDraft) { d.Parameters[3].Options, d.Parameters[3].Default = nil, "" },
		"parameters.3.default":     func(d *draft.ConnectorDraft) { d.Parameters[3].Default = "asia" },
		"config_values.0.type":     func(d *draft.ConnectorDraft) { d.ConfigValues[0].Type = "dropdown" },
		"config_values.0.value":    func(d *draft.ConnectorDraft) { d.ConfigValues[0].Value = "{env.HOME}" },
		"config_values.0.key":      func(d *draft.ConnectorDraft) { d.ConfigValues[0].Key = "pass"; d.TokenRequestParams = nil },
		"config_values.1.url":      func(d *draft.ConnectorDraft) { d.ConfigValues[1].URL = "http://discovery.example/" },
		"config_values.1.method":   func(d *draft.ConnectorDraft) { d.ConfigValues[1].Method = "TRACE" },
		"config_values.1.pointer":  func(d *draft.ConnectorDraft) { d.ConfigValues[1].Pointer = "data" },
		"config_values.1.headers":  func(d *draft.ConnectorDraft) { d.ConfigValues[1].Headers[0].Name = "X Key" },
		"config_values.1.body":     func(d *draft.ConnectorDraft) { d.ConfigValues[1].Body = "{param.instance" },
		"config_values.3.template": func(d *draft.ConnectorDraft) { d.ConfigValues[3].Template = "{{ .param.instance" },
		"config_values.2.url": func(d *draft.ConnectorDraft) { // what is of another source does not count
			d.ConfigValues[2].URL, d.ConfigValues[2].Value, d.ConfigValues[2].Template = "https://x\n", "\n", "\n"
		},
		"token_request_params.0.value": func(d *draft.ConnectorDraft) {
			d.TokenRequestParams[0].Value = "{config.audiense}"
		},
		"token_request_params.1.name": func(d *draft.ConnectorDraft) { d.TokenRequestParams[1] = draft.PairDraft{Name: "scope", Value: "x"} },
		"api_headers.0.name":          func(d *draft.ConnectorDraft) { d.APIHeaders[0].Name = "X Shard" },
		"api_query.0.name":            func(d *draft.ConnectorDraft) { d.APIQuery[0].Name = "" },
		"ping.method":                 func(d *draft.ConnectorDraft) { d.Ping.Method = "TRACE" },
		"ping.path":                   func(d *draft.ConnectorDraft) { d.Ping.Path = "me" },
		"ping.statuses":               func(d *draft.ConnectorDraft) { d.Ping.Statuses = "ok" },
	} {
		d := fullConnector()
		mistake(d)
		form, problems := d.Form(t.Context())
		if len(problems) == 0 || slices.ContainsFunc(problems, func(p draft.Problem) bool { return p.Field != field }) {
			t.Errorf("%s: %q", field, problems)
		}
		for _, p := range problems {
			if strings.Contains(p.Message, "module") {
				t.Errorf("%s: %q is in Caddy's words", field, p.Message)
			}
		}
		if len(form.Fields) < 4 { // without a method there is no secret
			t.Errorf("%s: no form", field)
		}
	}
}

// TestPlaceOfOddMistakes: names with colons and parameters that do not exist, wherever they stand.
func TestPlaceOfOddMistakes(t *testing.T) {
	for name, test := range map[string]struct {
		mistake func(*draft.ConnectorDraft)
		field   string
	}{
		"scope with a colon": {func(d *draft.ConnectorDraft) {
			d.CustomizeScopes, d.AdditionalScopes = false, false
			d.Scopes[0].Name = "contacts:read"
		}, "scopes.0.required"},
		"scopes that begin alike": {func(d *draft.ConnectorDraft) {
			d.CustomizeScopes, d.AdditionalScopes, d.Scopes[0].Required = false, false, false
			d.Scopes[0].Name, d.Scopes[1].Name, d.Scopes[1].Required = "read", "read:all", true
		}, "scopes.1.required"},
		"scope that is there twice": {func(d *draft.ConnectorDraft) {
			d.Scopes[0].Name, d.Scopes[2].Name = "https://a.example/.default", "https://a.example/.default"
		}, "scopes.2.name"},
		"parameter in a header": {func(d *draft.ConnectorDraft) {
			d.ConfigValues[1].Headers[0].Value = "{param.instanc}"
		}, "config_values.1.headers"},
		"key with a space": {func(d *draft.ConnectorDraft) {
			d.Parameters[2].Key = "a b"
		}, "parameters.2.key"},
		"parameter in a body": {func(d *draft.ConnectorDraft) {
			d.ConfigValues[1].Body = "{param.url}"
		}, "config_values.1.body"},
	} {
		d := fullConnector()
		test.mistake(d)
		_, problems := d.Form(t.Context())
		if len(problems) == 0 || slices.ContainsFunc(problems, func(p draft.Problem) bool { return p.Field != test.field }) {
			t.Errorf("%s: %q, want it at %s", name, problems, test.field)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Message, "parameter ") {
				t.Errorf("%s: %q names the field that it is beside", name, p.Message)
			}
		}
	}
}

// Drafts are tried one after the other, also when they are tried at the same time, and who gives up does not
// wait.
func TestDraftsTriedAtOnce(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	builder := draft.NewConnector(forDrafts, nil)
	builder.Name, builder.BaseURL, builder.TokenURL, builder.Ping.Path = "c", a.URL, e.URL+"/token", "/me"
	config := &draft.Config{Connectors: map[string]json.RawMessage{"c": builder.JSON()}}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	connector, err := findForDraft(ctx, config, "c")
	if err != nil {
		t.Fatal(err)
	}
	d := draft.New(connector, config)
	d.Fields[0].Value, d.Fields[1].Value = "id", "secret"
	begun, finish := make(chan struct{}), make(chan struct{})
	e.respond(func(w http.ResponseWriter, n int64) {
		if n == 1 {
			close(begun)
			<-finish
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"a-token","expires_in":3600}`))
	})
	results := make(chan error, 2)
	try := func() {
		trial, err := d.Try(t.Context())
		if err == nil && (!trial.Working() || trial.Ping == nil || trial.Connection.Name != "c") {
			err = fmt.Errorf("%+v", trial)
		}
		results <- err
	}
	go try()
	<-begun
	givenUp, giveUp := context.WithCancel(t.Context())
	giveUp()
	if _, err := d.Try(givenUp); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go try()
	close(finish)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	d.Fields[0].Value, d.Name = "{env.NOT_SET_ANYWHERE}", "mine"
	if _, err := d.Try(t.Context()); err == nil || err.Error() != "client_id: {env.NOT_SET_ANYWHERE} is not set or empty" {
		t.Errorf("%v; it should say what is wrong, and not where Caddy has found it", err)
	}
}

// TestDraftShowsNothingItReads: what somebody types may name variables and files. A preview does not read them, and
// what is said about a trial has nothing that was read, wherever servers repeat it.
func TestDraftShowsNothingItReads(t *testing.T) {
	const inVariable, inFile = "s3cret-of-a-variable", "s3cret-of-a-file"
	t.Setenv("HTTP_HELPER_TEST_TYPED", inVariable)
	file := filepath.Join(t.TempDir(), "typed")
	if err := os.WriteFile(file, []byte(inFile+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newIdP(t)
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "not for ", r.URL.Path, " with ", r.Header.Get("X-Echo"))
	})
	builder := draft.NewConnector(forDrafts, nil)
	builder.Name, builder.BaseURL, builder.TokenURL, builder.Ping.Path = "c", a.URL+"/{param.a}", e.URL+"/token/{param.a}", "/me"
	builder.Scopes, builder.CustomizeScopes, builder.AdditionalScopes = []draft.ScopeDraft{{Name: "read"}}, true, true
	builder.Parameters = []draft.ParameterDraft{{Key: "a", Type: "text"}, {Key: "b", Type: "text"}}
	builder.ConfigValues = []draft.ConfigValueDraft{
		{Key: "static", Type: "text", Value: "urn:{param.b}"},
		{Key: "computed", Type: "text", Source: draft.SourceTemplate, Template: "{{ upper .param.b }}"},
	}
	builder.TokenRequestParams = []draft.PairDraft{{Name: "account", Value: "{param.b}"}, {Name: "static", Value: "{config.static}"}, {Name: "computed", Value: "{config.computed}"}}
	builder.APIHeaders = []draft.PairDraft{{Name: "X-Echo", Value: "{param.b}"}}
	config := &draft.Config{Connectors: map[string]json.RawMessage{"c": builder.JSON()}}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	connector, err := findForDraft(ctx, config, "c")
	if err != nil {
		t.Fatal(err)
	}
	d := draft.New(connector, config)
	for i, value := range []string{"{env.HTTP_HELPER_TEST_TYPED}", "secret", "{env.HTTP_HELPER_TEST_TYPED}", "{file." + file + "}"} {
		d.Fields[i].Value = value
	}
	d.Customize, d.AdditionalScopes = true, "{file."+file+"}"
	shown := func(what string, value any) {
		t.Helper()
		text := fmt.Sprintf("%+v", value)
		if encoded, err := json.Marshal(value); err == nil {
			text += string(encoded)
		}
		if text = strings.ToLower(text); strings.Contains(text, "s3cret") {
			t.Errorf("%s shows what was read: %s", what, text)
		}
	}

	preview, err := d.Preview()
	if err != nil {
		t.Fatal(err)
	}
	shown("the preview", preview)
	for _, want := range []string{"/token/{env.HTTP_HELPER_TEST_TYPED}\n", "account = {file." + file + "}\n", "static = {config.static}\n", "computed = {config.computed}\n", "scope = {file." + file + "}\n"} {
		if !strings.Contains(preview, want) {
			t.Errorf("%q is not in\n%s", want, preview)
		}
	}
	shown("the problems", d.Problems())

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"a-token","expires_in":3600,"scope":"read %s.more"}`, inVariable)
	})
	trial, err := d.Try(t.Context())
	if err != nil || trial.Ping == nil || trial.Working() || len(trial.Connection.Scopes.Missing) != 1 || len(trial.Connection.Scopes.Granted) != 2 {
		t.Fatalf("%+v %v", trial, err)
	}
	shown("a trial", trial)
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_target","error_description":"unknown account %s"}`, inFile)
	})
	_, err = d.Try(t.Context())
	if failure, ok := errors.AsType[*oauth.Error](err); !ok || !strings.Contains(failure.Error(), "invalid_target") {
		t.Fatal(err)
	}
	shown("a failed trial", err.Error())
	d.Fields[2].Value = "{file." + file + "}/.." // which cannot be loaded
	_, err = d.Try(t.Context())
	if err == nil {
		t.Fatal("it could be tried")
	}
	shown("an impossible trial", err.Error())
}
