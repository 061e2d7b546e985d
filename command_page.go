package httphelper

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"

	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// page is what a command prints for people: tables and sentences.
type page struct {
	*tabwriter.Writer
	now   time.Time
	flags string // that commands which are named here need, to ask the same Caddy
}

func newPage(w io.Writer, now time.Time, flags string) *page {
	return &page{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), now: now, flags: flags}
}

func (p *page) end() { _ = p.Flush() }

// row is a row of a table.
func (p *page) row(cells ...string) {
	fmt.Fprintln(p, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

// sentence is a line that belongs to no table.
func (p *page) sentence(format string, args ...any) {
	p.end()
	fmt.Fprintf(p, format+"\n", args...)
	p.end()
}

// connections is the table of all connections, and what is wrong with some.
func (p *page) connections(conns []connectionView) {
	if len(conns) == 0 {
		p.sentence("There are no connections.")
		return
	}
	p.row("NAME", "CONNECTOR", "STATE", "TOKEN")
	for _, c := range conns {
		p.row(c.Name, orDash(c.Connector), string(c.State), p.tokenLeft(c.Token))
	}
	p.problems(conns...)
}

// ago is how far away a time is, in the past or in the future.
func (p *page) ago(t time.Time) string {
	if t.Sub(p.now) >= time.Second {
		return "in " + strings.TrimSpace(humanize.RelTime(t, p.now, "", ""))
	}
	return humanize.RelTime(t, p.now, "ago", "")
}

// stateMeaning explains a state.
var stateMeaning = map[token.State]string{
	token.StateIdle:    "it has no token, and none was needed lately",
	token.StateReady:   "it has a token",
	token.StateFailing: "it has a token, but cannot get a new one",
	token.StateDown:    "it has no token, and cannot get one",
}

func (p *page) tokenLeft(t *tokenView) string {
	if t == nil {
		return "none"
	}
	return "expires " + p.ago(t.Expires)
}

// connection is all about one connection.
func (p *page) connection(c connectionView) {
	p.row("Name", c.Name)
	p.row("State", string(c.State)+": "+stateMeaning[c.State])
	p.row("Connector", orDash(c.Connector))
	p.row("API", c.BaseURL)
	p.row("Token endpoint", orDash(c.TokenURL))
	p.row("Authentication", c.AuthMethod)
	p.row("Scopes asked for", words(c.Scopes.Requested))
	if t := c.Token; t != nil {
		p.row("Scopes granted", words(c.Scopes.Granted))
		p.row("Token obtained", p.moment(t.Obtained))
		p.row("Token replaced from", p.moment(t.Refresh))
		p.row("Token expires", p.moment(t.Expires))
	}
	p.row("Token requests", fmt.Sprintf("%d, of which %d failed", c.Counts.TokenRequests, c.Counts.TokenFailures))
	p.row("Tokens rejected", fmt.Sprintf("%d, by the API", c.Counts.Rejected))
	c.TokenURL = nil // it stands above
	p.problems(c)
}

func (p *page) moment(t time.Time) string {
	return t.Format(time.RFC3339) + " (" + p.ago(t) + ")"
}

func (p *page) refreshed(c connectionView) {
	p.sentence("%s has a new token, which %s.", c.Name, p.tokenLeft(c.Token))
	p.problems(c)
}

// ping is what a ping has found out.
func (p *page) ping(name string, result pingView) {
	if result.Working {
		p.sentence("%s works: %s.", name, result.Response.Message)
		return
	}
	p.sentence("%s does not work: %s.", name, result.Response.Message)
	if body := result.Response.Body; body != nil && strings.TrimSpace(*body) != "" {
		p.sentence("The API's answer:\n%s", harmless(strings.TrimSpace(*body)))
	}
}

// harmless keeps what a server says from steering the terminal.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// connectors is the table of all connectors.
func (p *page) connectors(forms []formView) {
	if len(forms) == 0 {
		p.sentence("There are no connectors.")
		return
	}
	p.row("NAME", "LABEL", "CONNECTIONS")
	for _, f := range forms {
		p.row(f.Name, f.Label, words(f.Connections))
	}
	p.sentence("\nTo write a connection, run: caddy http-helper new <connector>%s", p.flags)
}

// form is what a connector asks of a new connection.
func (p *page) form(f formView) {
	p.row("Name", f.Name)
	p.row("Label", f.Label)
	p.row("API", f.BaseURL)
	p.row("Token endpoint", orDash(f.TokenURL))
	p.row("Authentication", f.AuthMethod)
	p.row("Connections", words(f.Connections))
	p.sentence("\nIt asks for:")
	for _, field := range f.Fields {
		p.row("  "+field.Label, field.Type, field.choices())
	}
	if len(f.ConfigValues) > 0 {
		p.sentence("\nIt sets by itself:")
		for _, v := range f.ConfigValues {
			p.row("  "+v.Label, v.origin())
		}
	}
	p.sentence("\n%s", f.scopeRule())
	for _, s := range f.Scopes {
		p.row("  "+s.Name, requiredWord(s.Required), orZero(s.Description))
	}
	p.sentence("\nTo write a connection, run: caddy http-helper new %s%s", f.Name, p.flags)
}

// choices are what a dropdown offers.
func (f fieldView) choices() string {
	all := make([]string, len(f.Options))
	for i, o := range f.Options {
		all[i] = o.Value
		if o.Label != o.Value {
			all[i] += " (" + o.Label + ")"
		}
		if o.Value == orZero(f.Default) {
			all[i] += ", the default"
		}
	}
	return strings.Join(all, "; ")
}

func (v configValueView) origin() string {
	switch {
	case v.Value != nil:
		return *v.Value
	case v.Flow != nil:
		return "computed by the flow " + *v.Flow
	default:
		return "a secret"
	}
}

// scopeRule says who decides which scopes are asked for.
func (f formView) scopeRule() string {
	switch {
	case len(f.Scopes) == 0 && !f.Permissions.AdditionalScopes:
		return "It has no scopes."
	case f.Permissions.AdditionalScopes:
		return "Connections choose among these scopes, and may add others:"
	case f.Permissions.CustomizeScopes:
		return "Connections choose among these scopes:"
	default:
		return "All of these scopes are asked for:"
	}
}

func requiredWord(required bool) string {
	if required {
		return "always"
	}
	return ""
}

func words(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, " ")
}

func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

// orZero is what there is, or the zero value.
func orZero[T any](v *T) T {
	if v == nil {
		return *new(T)
	}
	return *v
}
