package console

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// connectionView is the page of one connection.
type connectionView struct {
	URL          string
	Connection   adminapi.Connection
	Connector    string
	Now          time.Time
	Result       *notice // of a button
	Problems     []notice
	StateMeaning string
	Bar          *lifeBar
	Sharing      string
	Values       []valueView // what it was given
	Scopes       []scopeView
	Confirmation string
	Counts       []tile
	Events       []eventView
	NoEvents     bool // they are not known
}

// scopeView is a scope of the connection.
type scopeView struct {
	Name, Kind, Words string
}

// tile is a number with a label.
type tile struct {
	Label, Value string
	Bad          bool
}

func (p *pages) showConnection(w http.ResponseWriter, r *http.Request) {
	p.showConnectionWith(w, r, nil)
}

// connectionName returns the name of a connection in the path, or responds that there is none.
func (p *pages) connectionName(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	name = r.PathValue("name")
	if ok = grammar.MatchString(name); !ok {
		p.notFound(w, r)
	}
	return name, ok
}

// leaveAction leads from the result of a button, when it is loaded again, to the connection.
func (p *pages) leaveAction(w http.ResponseWriter, r *http.Request) {
	name, ok := p.connectionName(w, r)
	if !ok {
		return
	}
	http.Redirect(w, r, base(r)+"/connections/"+name, http.StatusSeeOther) //nolint:gosec // the name is one, and no URL
}

func (p *pages) refreshConnection(w http.ResponseWriter, r *http.Request) {
	name, ok := p.connectionName(w, r)
	if !ok {
		return
	}
	conn, err := p.sidecar.refresh(r.Context(), name)
	result := &notice{Tone: toneGood, Title: "There is a new token"}
	switch {
	case err != nil:
		result = &notice{Tone: toneBad, Title: "There is no new token", Lines: []string{sentence(err.Error())}}
	case conn.Token != nil:
		result.Lines = []string{"It expires " + ago(conn.Token.Expires, time.Now()) + "."}
	}
	p.showConnectionWith(w, r, result)
}

func (p *pages) pingConnection(w http.ResponseWriter, r *http.Request) {
	name, ok := p.connectionName(w, r)
	if !ok {
		return
	}
	ping, err := p.sidecar.ping(r.Context(), name)
	if err != nil {
		p.showConnectionWith(w, r, &notice{Tone: toneBad, Title: "There was no ping", Lines: []string{sentence(err.Error())}})
		return
	}
	p.showConnectionWith(w, r, pingNotice(ping))
}

// pingNotice says how a ping went.
func pingNotice(ping adminapi.Ping) *notice {
	result := &notice{Tone: toneGood, Title: "It works", Lines: []string{sentence(ping.Response.Message)}}
	if !ping.Working {
		result.Tone, result.Title = toneBad, "It does not work"
		result.Body = strings.TrimSpace(orEmpty(ping.Response.Body))
	}
	return result
}

// showConnectionWith shows a connection, with the result of a button, if there is one.
func (p *pages) showConnectionWith(w http.ResponseWriter, r *http.Request, result *notice) {
	name, ok := p.connectionName(w, r)
	if !ok {
		return
	}
	conn, err := p.sidecar.connection(r.Context(), name)
	if err != nil {
		p.failed(w, r, "The connection cannot be shown", err)
		return
	}
	now := time.Now()
	events := p.sidecar.events(r.Context(), name)
	view := connectionView{
		URL: base(r) + "/connections/" + conn.Name, Connection: conn, Connector: orEmpty(conn.Connector), Now: now, Result: result,
		Problems: problemsOf(conn, now), StateMeaning: sentence(adminapi.StateMeaning[conn.State]), Bar: newLifeBar(conn.Token, now), Sharing: sharing(conn.Shared),
		Values: append(allowViews(conn), valueViews(p.sidecar.values(r.Context(), name))...), Scopes: scopeViews(conn), Counts: tilesOf(conn, p.sidecar.requestCounts(r.Context())),
		Events: eventViews(events), NoEvents: events == nil,
	}
	switch {
	case conn.Scopes.Unconfirmed():
		view.Confirmation = "The server did not list the granted scopes, so that nothing confirms them."
	case conn.Scopes.Confirmed != nil:
		view.Confirmation = "The server has confirmed the granted scopes."
	}
	p.show(w, r, http.StatusOK, "connection", page{
		Section: "connections", Title: conn.Name, Data: view, Refresh: view.URL + "?" + automatic + "=1", Still: result != nil,
	})
}

// valueViews are the values of a connection's parameters, and the config values that operators may see.
func valueViews(values adminapi.Values) []valueView {
	views := make([]valueView, 0, len(values.Parameters)+len(values.ConfigValues))
	for _, p := range values.Parameters {
		switch {
		case p.Value != nil:
			views = append(views, valueView{Label: p.Label, Value: *p.Value, Code: true})
		case p.Type == adminapi.TypePassword:
			views = append(views, valueView{Label: p.Label, Value: "a secret"})
		default:
			views = append(views, valueView{Label: p.Label, Value: "not known"})
		}
	}
	for _, v := range values.ConfigValues {
		if v.Value != nil {
			v.Flow = nil // it has computed the value already
		}
		views = append(views, configValueView(v))
	}
	return views
}

// allowViews say what requests may use a connection for. Without a rule there is no limit.
func allowViews(c adminapi.Connection) []valueView {
	var views []valueView
	list := func(label string, rules []adminapi.Allow) {
		for _, rule := range rules {
			views = append(views, valueView{Label: label, Value: rule.String(), Code: true})
		}
	}
	list("Allowed", c.Allow)
	list("Allowed by connector", c.ConnectorAllow)
	return views
}

var sharingWords = map[string]string{
	adminapi.SharedOff: "not with other replicas", adminapi.SharedOn: "with other replicas", adminapi.SharedDegraded: "not now, because the storage fails",
}

func sharing(s adminapi.Shared) string { return sharingWords[s.State] }

// scopeViews are the scopes that are requested or were granted, with what is known about each.
func scopeViews(c adminapi.Connection) []scopeView {
	var views []scopeView
	for _, name := range c.Scopes.Requested {
		view := scopeView{name, "requested", "requested"}
		switch {
		case slices.Contains(c.Scopes.Missing, name):
			view.Kind, view.Words = "missing", "not granted"
		case c.Scopes.Unconfirmed():
			view.Kind, view.Words = "unconfirmed", "not confirmed"
		case slices.Contains(c.Scopes.Granted, name):
			view.Kind, view.Words = "granted", "granted"
		}
		views = append(views, view)
	}
	for _, name := range c.Scopes.Granted {
		if !slices.Contains(c.Scopes.Requested, name) {
			views = append(views, scopeView{name, "granted", "granted, not requested"})
		}
	}
	return views
}

// tilesOf are the counts of a connection.
func tilesOf(c adminapi.Connection, counts map[string]adminapi.RequestCounts) []tile {
	var tiles []tile
	if counts != nil {
		requests := counts[c.Name]
		tiles = append(tiles,
			tile{"Requests", count(requests.Requests), false},
			tile{"Refused", count(requests.Refused), requests.Refused > 0},
			tile{"Without a token", count(requests.NoToken), requests.NoToken > 0},
			tile{"Failed at the API", count(requests.Failed), requests.Failed > 0})
	}
	return append(tiles,
		tile{"Token requests", count(c.Counts.TokenRequests), false},
		tile{"of which failed", count(c.Counts.TokenFailures), c.Counts.TokenFailures > 0},
		tile{"Tokens rejected by the API", count(c.Counts.Rejected), c.Counts.Rejected > 0},
		tile{"Tokens taken from the storage", count(c.Counts.Adopted), false})
}

// lifeBar shows the life of a token in hundredths of it.
type lifeBar struct {
	Left, Gone    int // sum up to 100
	Refresh, Rest int // from where it is replaced
	Now           int
	Words         string
}

// newLifeBar returns the bar of a token; nil: there is none.
func newLifeBar(t *adminapi.Token, now time.Time) *lifeBar {
	if t == nil || !t.Expires.After(t.Obtained) {
		return nil
	}
	part := func(at time.Time) int {
		return min(max(int(100*at.Sub(t.Obtained)/t.Expires.Sub(t.Obtained)), 0), 100)
	}
	gone, refresh := part(now), part(t.Refresh)
	return &lifeBar{
		Left: 100 - gone, Gone: gone, Refresh: refresh, Rest: 100 - refresh, Now: min(gone, 99),
		Words: fmt.Sprintf("%d %% of the token's life have passed; it is replaced from %d %% on.", gone, refresh),
	}
}

// problemsOf returns what is wrong with a connection, and what to do about it.
func problemsOf(c adminapi.Connection, now time.Time) []notice {
	var all []notice
	if e := c.LastError; e != nil {
		all = append(all, notice{
			Tone: toneOf[c.State], Title: sentence(trouble[c.State] + e.Reason()), Lines: []string{c.Advice() + " Refresh tries it now.", tried(e.At, c.NextAttempt, now)},
		})
	}
	if missing := c.Scopes.Missing; len(missing) > 0 {
		all = append(all, notice{
			Tone: toneWarn, Title: "Not granted: " + strings.Join(missing, " ") + ".",
			Lines: []string{adminapi.AdviceMissingScopes},
		})
	}
	if c.Shared.State == adminapi.SharedDegraded {
		all = append(all, notice{
			Tone: toneWarn, Title: sentence("the token is not shared with other replicas: " + orEmpty(c.Shared.LastError)),
			Lines: []string{adminapi.AdviceDegraded},
		})
	}
	return all
}

var toneOf = map[token.State]string{
	token.StateIdle: toneWarn, token.StateReady: toneWarn, token.StateFailing: toneWarn, token.StateDown: toneBad,
}

var trouble = map[token.State]string{
	token.StateFailing: "no new token, while the current one is valid: ",
	token.StateDown:    "no token: ",
}

// tried says when a token was requested last, and when that may happen again.
func tried(at time.Time, next *time.Time, now time.Time) string {
	when := "Last tried " + ago(at, now)
	if next == nil || next.Sub(now) < time.Second {
		return when + "."
	}
	return when + "; tried again " + ago(*next, now) + " at the earliest."
}

// eventView is something that happened to the connection, in words.
type eventView struct {
	At                  time.Time
	Tone, What, Details string
	Took                string
}

// eventKinds are what may happen to a connection.
var eventKinds = map[string]struct{ tone, what, status string }{
	adminapi.EventObtained: {toneGood, "Token obtained", "token endpoint"},
	adminapi.EventAdopted:  {toneGood, "Token taken from the storage", ""},
	adminapi.EventFailed:   {toneBad, "Token request failed", "token endpoint"},
	adminapi.EventRejected: {toneWarn, "Token rejected", "API"},
	adminapi.EventRefused:  {toneWarn, "Request refused", "the app got"},
}

func eventViews(events []adminapi.Event) []eventView {
	views := make([]eventView, 0, len(events))
	for _, e := range events {
		kind, known := eventKinds[e.Kind]
		if !known {
			kind.what = e.Kind
		}
		var details []string
		if e.Status != nil {
			details = append(details, strings.TrimSpace(kind.status+" "+strconv.Itoa(*e.Status)))
		}
		if e.Code != nil {
			details = append(details, *e.Code)
		}
		if e.Count > 1 {
			details = append(details, strconv.Itoa(e.Count)+" times, the last one then")
		}
		view := eventView{At: e.At, Tone: kind.tone, What: kind.what, Details: strings.Join(details, ", ")}
		if e.Duration != nil {
			view.Took = time.Duration(*e.Duration * float64(time.Second)).Round(time.Millisecond).String()
		}
		views = append(views, view)
	}
	return views
}
