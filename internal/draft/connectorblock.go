package draft

import (
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Block returns the connector as a block for the Caddyfile.
func (d *ConnectorDraft) Block() (string, error) {
	w := new(subdirective.Writer)
	w.Block(func() {
		w.Option("label", d.Label)
		w.Option("base_url", d.BaseURL)
		w.Option("token_url", d.TokenURL)
		w.Option("auth_method", d.AuthMethod)
		d.writeScopes(w)
		for _, p := range d.parameters() {
			p.write(w)
		}
		for _, v := range d.configValues() {
			v.write(w)
		}
		for _, p := range filled(d.TokenRequestParams) {
			w.Line("token_request_param", p.Name, p.Value)
		}
		writePairs(w, "api_header", d.APIHeaders)
		writePairs(w, "api_query", d.APIQuery)
		if d.Ping != (PingDraft{}) {
			w.Line(d.Ping.words()...)
		}
	}, "connector", d.Name)
	return w.Result()
}

func (d *ConnectorDraft) writeScopes(w *subdirective.Writer) {
	for _, s := range filled(d.Scopes) {
		words := []string{"scope", s.Name}
		if s.Required {
			words = append(words, "required")
		}
		if s.Description == "" {
			w.Line(words...)
			continue
		}
		w.Block(func() { w.Line("description", s.Description) }, words...)
	}
	w.Flag("customize_scopes", d.CustomizeScopes)
	w.Flag("additional_scopes", d.AdditionalScopes)
	w.Option("scopes_delimiter", d.ScopesDelimiter)
	w.Option("scopes_help", d.ScopesHelp)
}

func (p ParameterDraft) write(w *subdirective.Writer) {
	words := []string{"parameter", p.Key, p.Type}
	if p.Label == "" && len(p.Options) == 0 {
		w.Line(words...)
		return
	}
	w.Block(func() {
		w.Option("label", p.Label)
		for _, o := range p.Options {
			if o.Label == "" {
				w.Line("option", o.Value)
			} else {
				w.Line("option", o.Value, o.Label)
			}
		}
		w.Option("default", p.Default)
	}, words...)
}

// write writes the config value, and its flow.
func (v ConfigValueDraft) write(w *subdirective.Writer) {
	w.Block(func() {
		w.Option("label", v.Label)
		if v.flow() {
			w.Line("flow", v.Key)
		} else {
			w.Line("value", v.Value)
		}
		w.Flag("hidden", v.Hidden)
	}, "config_value", v.Key, v.Type)
	switch v.Source {
	case SourceRequest:
		v.writeRequest(w)
	case SourceTemplate:
		w.Line("flow", v.Key, SourceTemplate, v.Template)
	}
}

func (v ConfigValueDraft) writeRequest(w *subdirective.Writer) {
	words := []string{"flow", v.Key, SourceRequest}
	if v.Method != "" {
		words = append(words, strings.ToUpper(v.Method))
	}
	words = append(words, v.URL)
	if v.Body+v.Pointer == "" && len(filled(v.Headers)) == 0 {
		w.Line(words...)
		return
	}
	w.Block(func() {
		writePairs(w, "header", v.Headers)
		w.Option("body", v.Body)
		w.Option("pointer", v.Pointer)
	}, words...)
}

func writePairs(w *subdirective.Writer, option string, pairs []PairDraft) {
	for _, p := range filled(pairs) {
		w.Line(option, p.Name, p.Value)
	}
}

// words returns the ping as it is written.
func (p PingDraft) words() []string {
	words := []string{"ping"}
	if p.Method != "" {
		words = append(words, strings.ToUpper(p.Method))
	}
	return append(append(words, p.Path), strings.Fields(p.Statuses)...)
}
