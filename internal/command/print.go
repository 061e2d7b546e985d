package command

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// printer prints for people: tables and lines of text.
type printer struct {
	*tabwriter.Writer
	now   time.Time
	flags string // that a command printed here needs to reach the same Caddy
}

func newPrinter(w io.Writer, now time.Time, flags string) *printer {
	return &printer{Writer: tabwriter.NewWriter(&lineTrimmer{to: w}, 0, 0, 2, ' ', 0), now: now, flags: flags}
}

// lineTrimmer leaves out spaces at the end of a line: a table has them where its last cells are empty.
type lineTrimmer struct {
	to     io.Writer
	spaces int // held back until it is known what follows
}

// Write implements io.Writer.
func (t *lineTrimmer) Write(p []byte) (int, error) {
	out := make([]byte, 0, t.spaces+len(p))
	for _, c := range p {
		if c == ' ' {
			t.spaces++
			continue
		}
		if c != '\n' {
			out = append(out, bytes.Repeat([]byte{' '}, t.spaces)...)
		}
		out, t.spaces = append(out, c), 0
	}
	if _, err := t.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (p *printer) flush() { _ = p.Flush() }

// row prints a row of a table. Nothing in a cell can steer the terminal, or end the row.
func (p *printer) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = oneLine(cell)
	}
	fmt.Fprintln(p, strings.Join(cells, "\t"))
}

var anyControl = regexp.MustCompile(`\p{Cc}`)

// oneLine returns a text without control characters, with which it could steer the terminal.
func oneLine(text string) string { return anyControl.ReplaceAllString(text, "\uFFFD") }

// line prints a line that belongs to no table.
func (p *printer) line(format string, args ...any) {
	p.flush()
	fmt.Fprintf(p, format+"\n", args...)
	p.flush()
}

// connections prints the table of all connections, and what is wrong with some.
func (p *printer) connections(conns []adminapi.Connection) {
	if len(conns) == 0 {
		p.line("There are no connections.")
		return
	}
	p.row("NAME", "CONNECTOR", "STATE", "TOKEN")
	for _, c := range conns {
		p.row(c.Name, orDash(c.Connector), string(c.State), sharedMark(c.Token)+p.tokenLeft(c.Token))
	}
	p.problems(conns...)
}

// sharedMark marks a token that another replica has requested.
func sharedMark(t *adminapi.Token) string {
	if t != nil && t.Source == adminapi.SourceShared {
		return "shared, "
	}
	return ""
}

// ago returns how far away a time is, in the past or in the future.
func (p *printer) ago(t time.Time) string {
	if t.Sub(p.now) >= time.Second {
		return "in " + strings.TrimSpace(humanize.RelTime(t, p.now, "", ""))
	}
	return humanize.RelTime(t, p.now, "ago", "")
}

// unconfirmed is said of scopes that the server has not listed as granted.
const unconfirmed = "not confirmed by the server"

func (p *printer) tokenLeft(t *adminapi.Token) string {
	if t == nil {
		return "none"
	}
	return "expires " + p.ago(t.Expires)
}

// connection prints everything about one connection, with its refused requests.
func (p *printer) connection(c adminapi.Connection, values adminapi.Values, refused []adminapi.Event) {
	p.row("Name", c.Name)
	p.row("State", string(c.State)+": "+adminapi.StateMeaning[c.State])
	p.row("Connector", orDash(c.Connector))
	p.row("API", c.BaseURL)
	p.row("Token endpoint", orDash(c.TokenURL))
	p.row("Authentication", c.AuthMethod)
	p.allowed("Allowed", c.Allow)
	p.allowed("Allowed by connector", c.ConnectorAllow)
	p.row("Scopes requested", words(c.Scopes.Requested))
	if t := c.Token; t != nil {
		p.row("Scopes granted", grantedWords(c.Scopes))
		p.row("Token obtained", p.moment(t.Obtained))
		p.row("Token replaced from", p.moment(t.Refresh))
		p.row("Token expires", p.moment(t.Expires))
	}
	p.row("Token requests", fmt.Sprintf("%d, of which %d failed", c.Counts.TokenRequests, c.Counts.TokenFailures))
	p.row("Tokens rejected", fmt.Sprintf("%d, by the API", c.Counts.Rejected))
	label := "Requests refused"
	for _, e := range refused {
		p.row(label, fmt.Sprintf("%d with status %d, the last one %s", e.Count, orZero(e.Status), p.ago(e.At)))
		label = ""
	}
	if state := c.Shared.State; state == adminapi.SharedOn || state == adminapi.SharedDegraded {
		p.row("Shared tokens", fmt.Sprintf("%s, %d taken from the storage", state, c.Counts.Adopted))
	}
	p.values(values)
	c.TokenURL = nil // it is above
	p.problems(c)
}

// values prints the values that are told of a connection.
func (p *printer) values(v adminapi.Values) {
	if len(v.Parameters) > 0 {
		p.line("\nIts parameters:")
	}
	for _, one := range v.Parameters {
		p.row("  "+one.Label, parameterWords(one))
	}
	if len(v.ConfigValues) > 0 {
		p.line("\nThe connector sets by itself:")
		p.configValues(v.ConfigValues)
	}
}

func parameterWords(v adminapi.ParameterValue) string {
	switch {
	case v.Value != nil:
		return *v.Value
	case v.Type == adminapi.TypePassword:
		return "a secret"
	default:
		return "not known now"
	}
}

// allowed prints what requests may use a connection for, a row for each rule. Without a rule there is no limit.
func (p *printer) allowed(label string, rules []adminapi.Allow) {
	for _, rule := range rules {
		p.row(label, rule.String())
		label = ""
	}
}

// grantedWords lists the scopes that the server has granted, as far as it says so.
func grantedWords(s adminapi.Scopes) string {
	if s.Unconfirmed() {
		return unconfirmed
	}
	return words(s.Granted)
}

func (p *printer) moment(t time.Time) string {
	return t.Format(time.RFC3339) + " (" + p.ago(t) + ")"
}

func (p *printer) refreshed(c adminapi.Connection) {
	p.line("%s has a new token, which %s.", c.Name, p.tokenLeft(c.Token))
	p.problems(c)
}

// ping prints the result of a ping.
func (p *printer) ping(name string, result adminapi.Ping) {
	if result.Working {
		p.line("%s works: %s.", name, result.Response.Message)
		return
	}
	p.line("%s does not work: %s.", name, result.Response.Message)
	if body := result.Response.Body; body != nil && strings.TrimSpace(*body) != "" {
		p.line("The API's response:\n%s", control.ReplaceAllString(strings.TrimSpace(*body), "\uFFFD"))
	}
}

// control matches the characters with which a server could steer the terminal: all control characters but
// the line feed.
var control = regexp.MustCompile(`[\x00-\x09\x0b-\x1f\x7f-\x9f]`)

// connectors prints the table of all connectors.
func (p *printer) connectors(forms []adminapi.Connector) {
	if len(forms) == 0 {
		p.line("There are no connectors.")
		return
	}
	p.row("NAME", "LABEL", "CONNECTIONS")
	for _, f := range forms {
		p.row(f.Name, f.Label, words(f.Connections))
	}
	p.line("\nTo write a connection, run: caddy http-helper new <connector>%s", p.flags)
}

// form prints what a connector asks of a new connection.
func (p *printer) form(f adminapi.Connector) {
	p.row("Name", f.Name)
	p.row("Label", f.Label)
	p.row("API", f.BaseURL)
	p.row("Token endpoint", orDash(f.TokenURL))
	p.row("Authentication", f.AuthMethod)
	p.allowed("Allowed", f.Allow)
	p.row("Connections", words(f.Connections))
	p.line("\nIt asks for:")
	for _, field := range f.Fields {
		p.row("  "+field.Label, field.Type, choices(field))
	}
	if len(f.ConfigValues) > 0 {
		p.line("\nIt sets by itself:")
		p.configValues(f.ConfigValues)
	}
	p.line("\n%s", scopeRule(f))
	for _, s := range f.Scopes {
		p.row("  "+s.Name, map[bool]string{true: "always"}[s.Required], orZero(s.Description))
	}
	if help := f.Permissions.ScopesHelp; help != nil {
		p.line("\nA scope is missing? See %s", *help)
	}
	p.line("\nTo write a connection, run: caddy http-helper new %s%s", f.Name, p.flags)
}

// choices lists the options of a dropdown.
func choices(f adminapi.Field) string {
	all := make([]string, len(f.Options))
	for i, o := range f.Options {
		all[i] = o.Value
		if o.Label != o.Value {
			all[i] += " (" + o.Label + ")"
		}
		if o.Value == f.Default {
			all[i] += ", the default"
		}
	}
	return strings.Join(all, "; ")
}

// configValues prints config values that people may see.
func (p *printer) configValues(values []adminapi.ConfigValue) {
	for _, v := range values {
		p.row("  "+v.Label, origin(v))
	}
}

func origin(v adminapi.ConfigValue) string {
	switch {
	case v.Value != nil:
		return *v.Value
	case v.Flow != nil:
		return "computed by the flow " + *v.Flow
	default:
		return "a secret"
	}
}

// scopeRule says who decides which scopes are requested.
func scopeRule(f adminapi.Connector) string {
	switch {
	case len(f.Scopes) == 0 && !f.Permissions.AdditionalScopes:
		return "It has no scopes."
	case len(f.Scopes) == 0:
		return "The connector lists no scopes; connections may add some."
	case f.Permissions.AdditionalScopes:
		return "Connections choose among these scopes, and may add others:"
	case f.Permissions.CustomizeScopes:
		return "Connections choose among these scopes:"
	default:
		return "All of these scopes are requested:"
	}
}

func words(list []string) string { return cmp.Or(strings.Join(list, " "), "-") }

func orDash(s *string) string { return cmp.Or(orZero(s), "-") }

// orZero returns what a pointer points to, or the zero value.
func orZero[T any](v *T) T {
	if v == nil {
		return *new(T)
	}
	return *v
}

// namesShown is how many names are told of those that have the same problem.
const namesShown = 3

// problem is what is wrong with some connections, and what to do.
type problem struct {
	names  []string
	text   string // follows the names
	advice string // what to do

	// Of a problem with getting tokens; zero for others.
	tried, next time.Time // the last token request, and the earliest next one
	endpoint    string    // the token endpoint; empty: not the same for all
}

func (one *problem) aboutTokens() bool { return !one.tried.IsZero() }

// problems prints what is wrong with connections. A problem of several is printed once.
func (p *printer) problems(conns ...adminapi.Connection) {
	var all []*problem
	for _, c := range conns {
		for _, one := range problemsOf(c) {
			all = merged(all, one)
		}
	}
	for _, one := range all {
		p.line("\n%s %s", firstNames(one.names), one.text)
		if !one.aboutTokens() {
			p.line("  %s", one.advice)
			continue
		}
		p.line("  %s", p.when(one))
		if one.endpoint != "" {
			p.line("  Token endpoint: %s", one.endpoint)
		}
		p.line("  %s To try now, run: caddy http-helper refresh %s%s", one.advice, oneOfThem(one.names), p.flags)
	}
}

// problemsOf returns the problems of a connection.
func problemsOf(c adminapi.Connection) []*problem {
	var all []*problem
	if e := c.LastError; e != nil {
		all = append(all, &problem{
			names: []string{c.Name}, text: trouble[c.State] + e.Reason(), advice: c.Advice(),
			tried: e.At, next: orZero(c.NextAttempt), endpoint: orZero(c.TokenURL),
		})
	}
	if missing := c.Scopes.Missing; len(missing) > 0 {
		all = append(all, &problem{
			names: []string{c.Name}, text: "did not get scopes that were requested: " + strings.Join(missing, " "),
			advice: adminapi.AdviceMissingScopes,
		})
	}
	if c.Shared.State == adminapi.SharedDegraded {
		all = append(all, &problem{
			names: []string{c.Name}, text: "does not share its token with other replicas: " + orDash(c.Shared.LastError),
			advice: adminapi.AdviceDegraded,
		})
	} else if e := c.Shared.LastError; e != nil {
		all = append(all, &problem{
			names: []string{c.Name}, text: "cannot use the key files for shared tokens: " + *e, advice: adminapi.AdviceKeyFiles,
		})
	}
	return all
}

var trouble = map[token.State]string{
	token.StateFailing: "cannot get a new token, while the current one is valid: ",
	token.StateDown:    "cannot get a token: ",
}

// merged adds a problem to others, or to the one of them that is the same.
func merged(all []*problem, one *problem) []*problem {
	for _, other := range all {
		if other.text == one.text && other.advice == one.advice {
			other.names = append(other.names, one.names...)
			other.tried = slices.MaxFunc([]time.Time{other.tried, one.tried}, time.Time.Compare)
			other.next = slices.MinFunc([]time.Time{other.next, one.next}, time.Time.Compare)
			if one.endpoint != other.endpoint {
				other.endpoint = ""
			}
			return all
		}
	}
	return append(all, one)
}

// firstNames lists the first of many names.
func firstNames(names []string) string {
	if more := len(names) - namesShown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:namesShown], ", "), more)
	}
	return strings.Join(names, ", ")
}

// when says when a token was requested last, and when that may happen again.
func (p *printer) when(one *problem) string {
	when := "Last tried " + p.ago(one.tried) + "; tried again when it is needed"
	if one.next.Sub(p.now) < time.Second {
		return when + "."
	}
	return when + ", " + p.ago(one.next) + " at the earliest."
}

// oneOfThem returns the name in a command about any of the names.
func oneOfThem(names []string) string {
	if len(names) > 1 {
		return "<connection>"
	}
	return names[0]
}
