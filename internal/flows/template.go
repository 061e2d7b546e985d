package flows

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/Masterminds/sprig/v3"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// maxTemplateResult bounds the result of a template, like the response of a request.
const maxTemplateResult = 1 << 20

// Template is a helper flow that executes a Go template with the connection's parameter values. They
// are `.param.region`, or `index .param "api-region"` for a key with a hyphen. The functions are those
// of Go and sprig, as in Caddy's `templates`, without those that read the environment or use the
// network. Caddy's placeholders are not replaced. White space around the result is trimmed.
type Template struct {
	// A text with actions in double braces, such as `{{ .param.region | upper }}`. An error in it is reported
	// when the config is loaded. Required.
	Template string `json:"template,omitempty"`

	template *template.Template
}

// CaddyModule returns the Caddy module information.
func (Template) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http_helper.flows.template",
		New: func() caddy.Module { return new(Template) },
	}
}

// Provision parses the template.
func (f *Template) Provision(_ caddy.Context) error {
	if f.Template == "" {
		return errors.New("the template is empty")
	}
	functions := sprig.TxtFuncMap()
	for _, name := range []string{"env", "expandenv", "getHostByName"} {
		delete(functions, name)
	}
	var err error
	f.template, err = template.New("flow").Funcs(functions).Option("missingkey=error").Parse(f.Template)
	return err
}

// Check implements Flow. A template may always run.
func (*Template) Check(bool) error { return nil }

// Run executes the template and returns its result.
func (f *Template) Run(_ context.Context, in Input) (string, error) {
	var result limitedBuilder
	// The error is dropped: functions quote their arguments.
	if err := f.template.Execute(&result, map[string]any{"param": in.Params}); err != nil {
		return "", oauth.ConfigurationErrorf("its template fails with the parameters that it was given")
	}
	value, err := checkResult(strings.TrimSpace(result.String()))
	if err != nil {
		return "", oauth.ConfigurationErrorf("%v", err)
	}
	return value, nil
}

// limitedBuilder is a strings.Builder that fails when it gets too large.
type limitedBuilder struct{ strings.Builder }

// Write implements io.Writer.
func (b *limitedBuilder) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxTemplateResult {
		return 0, fmt.Errorf("more than %d bytes", maxTemplateResult)
	}
	return b.Builder.Write(p)
}

// Parameters returns the keys of the parameters that the template names.
func (f *Template) Parameters() []string {
	templates := f.template.Templates()
	roots := make([]parse.Node, len(templates))
	for i, t := range templates {
		roots[i] = t.Root
	}
	return parametersIn(roots...)
}

// parametersIn returns each key in `.param.key`, `$.param.key` and `index .param "key"`.
func parametersIn(nodes ...parse.Node) []string {
	var keys []string
	for _, n := range nodes {
		var below []parse.Node
		switch n := n.(type) {
		case *parse.FieldNode:
			if len(n.Ident) > 1 && n.Ident[0] == "param" {
				keys = append(keys, n.Ident[1])
			}
		case *parse.VariableNode:
			if len(n.Ident) > 2 && n.Ident[0] == "$" && n.Ident[1] == "param" {
				keys = append(keys, n.Ident[2])
			}
		case *parse.CommandNode:
			if len(n.Args) == 3 && n.Args[0].String() == "index" && strings.TrimPrefix(n.Args[1].String(), "$") == ".param" {
				if key, ok := n.Args[2].(*parse.StringNode); ok {
					keys = append(keys, key.Text)
				}
			}
			below = n.Args
		case *parse.PipeNode:
			if n != nil {
				for _, command := range n.Cmds {
					below = append(below, command)
				}
			}
		case *parse.ListNode:
			if n != nil {
				below = n.Nodes
			}
		case *parse.ActionNode:
			below = []parse.Node{n.Pipe}
		case *parse.TemplateNode:
			below = []parse.Node{n.Pipe}
		case *parse.IfNode:
			below = []parse.Node{n.Pipe, n.List, n.ElseList}
		case *parse.RangeNode:
			below = []parse.Node{n.Pipe, n.List, n.ElseList}
		case *parse.WithNode:
			below = []parse.Node{n.Pipe, n.List, n.ElseList}
		}
		keys = append(keys, parametersIn(below...)...)
	}
	return keys
}

// UnmarshalCaddyfile sets up the flow from Caddyfile tokens. Syntax:
//
//	template <text>
func (f *Template) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // skip the type
	args := d.RemainingArgs()
	if len(args) != 1 || d.NextBlock(0) {
		return d.Err("a template flow takes one text; put it in quotes")
	}
	f.Template = args[0]
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Template)(nil)
	_ caddyfile.Unmarshaler = (*Template)(nil)
	_ Flow                  = (*Template)(nil)
)
