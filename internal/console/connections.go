package console

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// connectionList is the page of all connections.
type connectionList struct {
	Where   string
	Failure *notice
	Total   int
	Query   string
	State   string // empty: any
	States  []stateChip
	Rows    []connectionRow
	Paging  paging
}

// stateChip leads to the connections of a state.
type stateChip struct {
	Label, URL string
	Count      int
	Current    bool
}

// connectionRow is one connection in the list.
type connectionRow struct {
	Name, URL, Connector string
	State                token.State
	Left                 string // of the token's life
	Shared               bool
	Bar                  *lifeBar
	Requests, Errors     string
	HasErrors            bool
	Problems             []notice
}

// severity orders connections: first those that somebody has to look at.
func severity(c adminapi.Connection) int {
	switch {
	case c.State == token.StateDown:
		return 0
	case c.State == token.StateFailing:
		return 1
	case len(c.Scopes.Missing) > 0 || c.Shared.State == adminapi.SharedDegraded:
		return 2
	default:
		return 3
	}
}

func (p *pages) listConnections(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	path := base(r) + "/"
	list := connectionList{Where: p.where(), Query: query.Get("q"), State: query.Get("state")}
	all, err := p.sidecar.connections(r.Context())
	if err != nil {
		list.Failure = unavailable(err)
		list.Failure.Lines = append(list.Failure.Lines, "This page looks again by itself.")
	}
	list.Total = len(all)
	found := slices.DeleteFunc(all, func(c adminapi.Connection) bool {
		return !matches(list.Query, c.Name, orEmpty(c.Connector), c.BaseURL)
	})
	list.States = stateChips(found, path, query)
	found = slices.DeleteFunc(found, func(c adminapi.Connection) bool { return list.State != "" && string(c.State) != list.State })
	slices.SortStableFunc(found, func(a, b adminapi.Connection) int { return cmp.Compare(severity(a), severity(b)) })
	found, list.Paging = cut(found, path, query)
	if len(found) > 0 {
		list.Rows = connectionRows(found, base(r), p.sidecar.requestCounts(r.Context()))
	}
	p.show(w, r, http.StatusOK, "connections", page{
		Section: "connections", Title: "Connections", Data: list, Refresh: withQuery(path, query, automatic, "1"),
	})
}

// stateChips leads to each state that there may be, with the number of connections in it.
func stateChips(conns []adminapi.Connection, path string, query url.Values) []stateChip {
	current := query.Get("state")
	first := url.Values{"q": query["q"], "state": query["state"]} // another list begins at its first page
	counts := make(map[string]int)
	for _, c := range conns {
		counts[string(c.State)]++
	}
	counts[""] = len(conns)
	chips := make([]stateChip, 0, 5)
	for _, state := range []token.State{"", token.StateDown, token.StateFailing, token.StateReady, token.StateIdle} {
		chips = append(chips, stateChip{
			Label: cmp.Or(string(state), "all"), URL: withQuery(path, first, "state", string(state)), Count: counts[string(state)], Current: current == string(state),
		})
	}
	return chips
}

func connectionRows(conns []adminapi.Connection, base string, counts map[string]adminapi.RequestCounts) []connectionRow {
	now := time.Now()
	rows := make([]connectionRow, len(conns))
	for i, c := range conns {
		requests := counts[c.Name]
		row := connectionRow{
			Name: c.Name, URL: base + "/connections/" + c.Name, Connector: cmp.Or(orEmpty(c.Connector), "no connector"), State: c.State,
			Left: "no token", Bar: newLifeBar(c.Token, now), Requests: "–", Errors: "–", Problems: problemsOf(c, now),
		}
		if c.Token != nil {
			row.Left, row.Shared = "expires "+ago(c.Token.Expires, now), c.Token.Source == adminapi.SourceShared
		}
		if counts != nil {
			row.Requests, row.Errors, row.HasErrors = count(requests.Requests), count(requests.Errors()), requests.Errors() > 0
		}
		rows[i] = row
	}
	return rows
}
