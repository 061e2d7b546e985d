package console

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// connectorList is the page of all connectors.
type connectorList struct {
	Where   string
	Failure *notice
	Total   int
	Query   string
	Cards   []connectorCard
	Paging  paging
}

// connectorCard is one connector in the list.
type connectorCard struct {
	Name, Label, URL, NewURL string
	Asks, Scopes, Used       string
}

func (p *pages) listConnectors(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	list := connectorList{Where: p.where(), Query: query.Get("q")}
	forms, err := p.sidecar.connectors(r.Context())
	if err != nil {
		list.Failure = unavailable(err)
	}
	list.Total = len(forms)
	forms = slices.DeleteFunc(forms, func(form adminapi.Connector) bool {
		return !matches(list.Query, form.Name, form.Label, form.BaseURL, scopeNames(form))
	})
	forms, list.Paging = cut(forms, base(r)+"/connectors", query)
	for _, form := range forms {
		list.Cards = append(list.Cards, connectorCard{
			Name: form.Name, Label: form.Label, URL: base(r) + "/connectors/" + form.Name, NewURL: base(r) + "/new/" + form.Name,
			Asks: asks(form), Scopes: scopeRule(form), Used: usedBy(form.Connections),
		})
	}
	p.show(w, r, http.StatusOK, "connectors", page{Section: "connectors", Title: "Connectors", Data: list})
}

func scopeNames(form adminapi.Connector) string {
	names := make([]string, len(form.Scopes))
	for i, s := range form.Scopes {
		names[i] = s.Name
	}
	return strings.Join(names, " ")
}

// asks lists what a connector asks of a connection.
func asks(form adminapi.Connector) string {
	labels := make([]string, len(form.Fields))
	for i, field := range form.Fields {
		labels[i] = field.Label
	}
	return strings.Join(labels, ", ")
}

// scopeRule says who decides which scopes are requested.
func scopeRule(form adminapi.Connector) string {
	number := plural(len(form.Scopes), "scope")
	switch {
	case form.Permissions.AdditionalScopes:
		return number + " to choose from, and others may be added"
	case len(form.Scopes) == 0:
		return "none"
	case form.Permissions.CustomizeScopes:
		return number + " to choose from"
	default:
		return number + ", always all"
	}
}

func usedBy(connections []string) string {
	const shown = 5
	switch {
	case len(connections) == 0:
		return "no connection"
	case len(connections) > shown:
		return strings.Join(connections[:shown], ", ") + " and " + strconv.Itoa(len(connections)-shown) + " more"
	default:
		return strings.Join(connections, ", ")
	}
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
