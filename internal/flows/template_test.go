package flows

import (
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

func TestFlowTemplate(t *testing.T) {
	for template, want := range map[string]string{
		`{{.param.region}}`:                                         "eu",
		`  {{ .param.region | upper }}-1` + "\n":                    "EU-1",
		`{{index .param "api-key"}}`:                                `a"<b>`,
		`{{if eq .param.region "eu"}}frankfurt{{else}}ohio{{end}}`:  "frankfurt",
		`{{get (dict "eu" "de" "us" "com") .param.region}}`:         "de",
		`{{define "x"}}{{.}}!{{end}}{{template "x" .param.region}}`: "eu!",
		`{{range $k, $v := .param}}{{$k}}={{$v}};{{end}}`:           `api-key=a"<b>;region=eu;`,
		`{{ .param.region }}.{env.HOME}.{param.region}`:             "eu.{env.HOME}.{param.region}",
		`{{with .param.region}}{{.}}{{$.param.region}}{{end}}`:      "eueu",
		`constant`: "constant",
	} {
		f := &Template{Template: template}
		if err := f.Provision(caddy.Context{}); err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		if got, err := runFlow(t.Context(), f, "region", "eu", "api-key", `a"<b>`); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", template, got, err, want)
		}
	}
}

func TestFlowTemplateFailures(t *testing.T) {
	for template, want := range map[string]string{
		`{{.param.missing}}`:                  "its template fails",
		`{{.missing}}`:                        "its template fails",
		`{{fail .param.region}}`:              "its template fails",
		`{{mustToDate "2006" .param.region}}`: "its template fails",
		`{{if false}}x{{end}}`:                "the result is empty",
		`{{" \n "}}`:                          "the result is empty",
		`a{{"\n"}}b`:                          "control character",
		`{{repeat 1048577 "x"}}`:              "its template fails",
		`{{define "a"}}{{end}}`:               "the result is empty",
		`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`: "its template fails",
	} {
		f := &Template{Template: template}
		if err := f.Provision(caddy.Context{}); err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		_, err := runFlow(t.Context(), f, "region", "hunter2")
		wantTokenError(t, err, oauth.ClassConfiguration, 502, want)
	}
}

func TestFlowTemplateProvision(t *testing.T) {
	for template, want := range map[string]string{
		"":                           "the template is empty",
		"{{":                         "unclosed action",
		"{{.param.x":                 "unclosed action",
		`{{env "HOME"}}`:             `function "env" not defined`,
		`{{expandenv "$HOME"}}`:      `function "expandenv" not defined`,
		`{{getHostByName "h"}}`:      `function "getHostByName" not defined`,
		`{{readFile "/etc/passwd"}}`: "not defined",
	} {
		wantError(t, (&Template{Template: template}).Provision(caddy.Context{}), want)
	}
}

func TestFlowTemplateParameters(t *testing.T) {
	f := &Template{Template: `{{.param.a}}{{$.param.b | upper}}{{index .param "c-c"}}{{index $.param "d"}}` +
		`{{if .param.e}}{{.param.f}}{{else}}{{.param.g}}{{end}}{{range .x}}{{$.param.h}}{{else}}{{.param.i}}{{end}}{{with .param.j}}{{.}}{{end}}` +
		`{{define "x"}}{{.param.k}}{{end}}{{template "x" .param.l}}{{printf "%s" (lower .param.m)}}{{$v := .param.n}}{{.other}}{{index .x "y"}}{{template "x"}}`}
	if err := f.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	got := f.Parameters()
	slices.Sort(got)
	if want := []string{"a", "b", "c-c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFlowTemplateCaddyfile(t *testing.T) {
	var f Template
	if err := f.UnmarshalCaddyfile(caddyfile.NewTestDispenser("template \"{{.param.a}} b\"")); err != nil || f.Template != "{{.param.a}} b" {
		t.Error(f.Template, err)
	}
	for _, input := range []string{"template", "template hunter2 b", "template a {\n hunter2\n}"} {
		err := new(Template).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		wantError(t, err, "a template flow takes one text")
	}
}
