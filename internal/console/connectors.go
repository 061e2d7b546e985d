package console

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// connectorList is the page of all connectors.
type connectorList struct {
	URL     string
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
	p.showConnectors(w, r, "connectors", page{Section: "connectors", Title: "Connectors"})
}

// forms returns the forms of all connectors, of the file if there is one.
func (p *pages) forms(ctx context.Context) ([]adminapi.Connector, error) {
	if p.options.File == "" {
		return p.sidecar.connectors(ctx)
	}
	config, err := p.config(ctx)
	if err != nil {
		return nil, err
	}
	return p.options.Configuration.Forms(ctx, config)
}

// showConnectors shows the connectors that a search finds, by a template.
func (p *pages) showConnectors(w http.ResponseWriter, r *http.Request, name string, content page) {
	query := r.URL.Query()
	list := connectorList{URL: base(r) + r.URL.Path, Where: p.whereConnectors(), Query: query.Get("q")}
	forms, err := p.forms(r.Context())
	if err != nil {
		list.Failure = unavailable(err)
		if p.options.File != "" {
			list.Failure.Title = "The connectors cannot be read"
		}
	}
	list.Total = len(forms)
	forms = slices.DeleteFunc(forms, func(form adminapi.Connector) bool {
		return !matches(list.Query, form.Name, form.Label, form.BaseURL, scopeNames(form))
	})
	forms, list.Paging = cut(forms, list.URL, query)
	for _, form := range forms {
		list.Cards = append(list.Cards, connectorCard{
			Name: form.Name, Label: form.Label, URL: base(r) + "/connectors/" + form.Name, NewURL: base(r) + "/new/" + form.Name,
			Asks: asks(form), Scopes: scopeRule(form), Used: usedBy(form.Connections),
		})
	}
	content.Data = list
	p.show(w, r, http.StatusOK, name, content)
}

// whereConnectors says where the connectors come from.
func (p *pages) whereConnectors() string {
	if p.options.File != "" {
		return "From the file " + p.options.File
	}
	return p.where()
}

// connectorView is the page of one connector.
type connectorView struct {
	Form     adminapi.Connector
	NewURL   string
	Scopes   string
	Used     []string
	TokenURL string
	Dialog   dialog
}

func (p *pages) showConnector(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("connector")
	forms, err := p.forms(r.Context())
	if err != nil {
		p.failed(w, r, "The connectors cannot be read", err)
		return
	}
	i := slices.IndexFunc(forms, func(form adminapi.Connector) bool { return form.Name == name })
	if i < 0 {
		p.fail(w, r, http.StatusNotFound, problem{Title: "There is no such connector"})
		return
	}
	view := connectorView{
		Form: forms[i], NewURL: base(r) + "/new/" + name, Scopes: scopeRule(forms[i]), Used: forms[i].Connections,
		TokenURL: cmp.Or(orEmpty(forms[i].TokenURL), "found by the issuer"), Dialog: dialogOf(forms[i]),
	}
	view.Dialog.Preview, view.Dialog.Prefix = true, "preview-"
	p.show(w, r, http.StatusOK, "connector", page{Section: "connectors", Title: forms[i].Label, Data: view})
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
	case form.Permissions.AdditionalScopes && len(form.Scopes) == 0:
		return "the connector lists none; connections may add some"
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
