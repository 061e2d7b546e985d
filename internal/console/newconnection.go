package console

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// newConnectionView is the page on which a connection is described.
type newConnectionView struct {
	URL       string
	Connector string
	ID        string // of the draft
	Name      fieldView
	Dialog    dialog
	Problems  []string // that belong to no field
	Result    *notice  // of a button
	Unfit     bool     // the result says that fields do not fit
	SaveDir   string   // empty: nothing can be saved
	CanTry    bool

	Request, Block string // previews; empty: not possible yet
	Secrets        []draft.Secret
}

// chooseConnector is the first page of a new connection.
func (p *pages) chooseConnector(w http.ResponseWriter, r *http.Request) {
	p.showConnectors(w, r, "choose", page{Section: "new", Title: "New connection"})
}

// config returns the configuration that has the connectors.
func (p *pages) config(ctx context.Context) (*draft.Config, error) {
	if p.options.File != "" {
		return draft.ReadConfig(p.options.File, p.options.Adapter)
	}
	return p.sidecar.config(ctx)
}

// withDraft finds the connector of a request, and has a new draft for it handled.
func (p *pages) withDraft(handle func(http.ResponseWriter, *http.Request, *draft.Draft)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		config, err := p.config(r.Context())
		if known := p.known.Load(); err != nil && r.Method == http.MethodPost && known != nil {
			config, err = known, nil // or what somebody has typed would be lost
		}
		if err != nil {
			p.failed(w, r, "The connectors cannot be read", err)
			return
		}
		p.known.Store(config)
		ctx, cancel := caddy.NewContext(caddy.Context{Context: r.Context()})
		defer cancel()
		connector, err := p.options.Configuration.Find(ctx, config, r.PathValue("connector"))
		if err != nil {
			p.failed(w, r, "The connector cannot be used", err)
			return
		}
		d := draft.New(connector, config)
		d.SaveDir = p.options.saveDir
		handle(w, r, d)
	}
}

// failed shows an error about what was asked for.
func (p *pages) failed(w http.ResponseWriter, r *http.Request, title string, err error) {
	what := unavailable(err)
	p.fail(w, r, statusOf(err), problem{Title: title, Text: what.Lines[0], Advice: strings.Join(what.Lines[1:], " ")})
}

// describeConnection shows an empty form. Nothing is wrong with it yet.
func (p *pages) describeConnection(w http.ResponseWriter, r *http.Request, d *draft.Draft) {
	view := p.newConnectionView(r, d, nil, nil)
	view.ID = randomText(128)
	p.showNewConnection(w, r, view)
}

// changeConnection does what a button of the form says with what was filled in.
func (p *pages) changeConnection(w http.ResponseWriter, r *http.Request, d *draft.Draft) {
	if !p.parse(w, r) {
		return
	}
	fillDraft(d, r)
	id := r.PostForm.Get("draft")
	kept := heldOf(r).fill(id, d, r.PostForm)
	action := r.PostForm.Get("do")
	problems, missing := d.Problems(), []draft.Problem(nil)
	if action == "try" {
		missing = d.Missing()
	}
	view := p.newConnectionView(r, d, append(problems, missing...), kept)
	view.ID = id
	switch {
	case action != "try" && action != "save":
	case len(problems) > 0:
		view.Result = &notice{Tone: toneBad, Title: "Some fields do not fit yet", Lines: view.Problems}
		view.Unfit = true
	case len(missing) > 0:
		view.Result = &notice{Tone: toneBad, Title: "It cannot be tried yet", Lines: []string{"Type the secrets: without them there is no token."}}
		view.Unfit = true
	case action == "try":
		view.Result = try(r.Context(), d)
	case d.SaveDir != "":
		files, err := d.Save()
		if err == nil {
			heldOf(r).forget(id)
			p.showSaved(w, r, d, files)
			return
		}
		view.Result = &notice{Tone: toneBad, Title: "Nothing was saved", Lines: sentences(err)}
	}
	p.showNewConnection(w, r, view)
}

func (p *pages) showSaved(w http.ResponseWriter, r *http.Request, d *draft.Draft, files []string) {
	view := savedView{
		Title: "New connection", About: d.Form.Label, ListURL: base(r) + "/", List: "Connections", NextURL: base(r) + "/new/" + d.Form.Name, Next: "Another connection",
		Result: &notice{Tone: toneGood, Title: "The connection is saved", Lines: append([]string{"Written:"}, files...)},
	}
	view.Block, _ = d.Block()
	for _, secret := range d.Secrets() {
		if secret.Value == "" {
			view.Secrets = append(view.Secrets, secret)
		}
	}
	p.showSavedView(w, r, "new", d.SaveDir, view)
}

// parse reads a form; without one it responds with an error.
func (p *pages) parse(w http.ResponseWriter, r *http.Request) bool {
	if err := r.ParseForm(); err != nil {
		p.fail(w, r, http.StatusBadRequest, problem{Title: "The form cannot be read", Text: "It is too long, or damaged."})
		return false
	}
	return true
}

// fillDraft fills in what a form has, but no secret.
func fillDraft(d *draft.Draft, r *http.Request) {
	form := r.PostForm
	d.Name = strings.TrimSpace(form.Get("name"))
	for i := range d.Fields {
		if d.Fields[i].Type != adminapi.TypePassword {
			d.Fields[i].Value = strings.TrimSpace(form.Get(d.Fields[i].ID()))
		}
	}
	d.Customize = form.Get("customize") == "yes"
	d.Scopes = form["scopes"]
	d.AdditionalScopes = lineEnds.Replace(form.Get("additional_scopes"))
}

// lineEnds makes one line of several: where scopes are typed there is room for them.
var lineEnds = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ")

func (p *pages) newConnectionView(r *http.Request, d *draft.Draft, problems []draft.Problem, kept map[string]bool) newConnectionView {
	view := newConnectionView{
		URL: base(r) + "/new/" + d.Form.Name, Connector: d.Form.Name, SaveDir: d.SaveDir,
		Name:   fieldView{ID: "name", Label: "Name of the connection", Value: d.Name, Errors: errorsOf(problems, "name"), Hint: "Sites use it: http_helper " + d.Name},
		Dialog: newDialog(d, problems, kept),
		CanTry: d.Ping != nil,
	}
	view.Problems = elsewhere(problems, func(field string) bool {
		return slices.Contains([]string{"name", "scopes", "additional_scopes"}, field) ||
			slices.ContainsFunc(d.Fields, func(f draft.Field) bool { return f.ID() == field })
	})
	if len(d.Problems()) > 0 {
		return view // what would follow from it is not known
	}
	preview, _ := d.Preview()
	view.Request = strings.ReplaceAll(strings.TrimPrefix(preview, "  "), "\n  ", "\n") // for a terminal it is indented
	view.Block, _ = d.Block()
	for _, secret := range d.Secrets() {
		secret.Value = "" // for no page
		view.Secrets = append(view.Secrets, secret)
	}
	return view
}

func (p *pages) showNewConnection(w http.ResponseWriter, r *http.Request, view newConnectionView) {
	p.show(w, r, http.StatusOK, "newconnection", page{Section: "new", Title: "New connection of " + view.Dialog.Label, Data: view})
}

// try makes the token request and the ping of a draft, and says how they went.
func try(ctx context.Context, d *draft.Draft) *notice {
	trial, err := d.Try(ctx)
	if failure, ok := errors.AsType[*oauth.Error](err); ok {
		return &notice{Tone: toneBad, Title: "It does not work: there is no token", Lines: []string{sentence(failure.Error()), trialAdvice(failure)}}
	}
	if err != nil {
		return &notice{Tone: toneBad, Title: "It could not be tried", Lines: sentences(err)}
	}
	return trialNotice(trial)
}

func trialAdvice(failure *oauth.Error) string {
	switch {
	case failure.Class == oauth.ClassConfiguration:
		return "Compare the fields with what the service says about this client, then try again."
	case strings.Contains(failure.Message, neterror.UnknownAuthority):
		return "Start this command with SSL_CERT_FILE, the environment variable with the path of the CA's certificate, or have this machine trust the CA."
	default:
		return "This may end by itself; try again."
	}
}

// trialNotice says what a trial has shown. There is a token.
func trialNotice(trial draft.Trial) *notice {
	conn := trial.Connection
	result := &notice{Tone: toneGood, Title: "It works: there is a token"}
	if lifetime := trial.Lifetime(); lifetime != "" {
		result.Lines = append(result.Lines, "It lives "+lifetime+".")
	}
	switch {
	case conn.Scopes.Unconfirmed():
		result.Lines = append(result.Lines, "The server did not list the granted scopes, so that nothing confirms them.")
	case len(conn.Scopes.Granted) > 0:
		result.Lines = append(result.Lines, "Scopes granted: "+strings.Join(conn.Scopes.Granted, " "))
	}
	if missing := conn.Scopes.Missing; len(missing) > 0 {
		result.Tone, result.Title = toneWarn, "There is a token, but not with every scope"
		result.Lines = append(result.Lines, "Scopes not granted: "+strings.Join(missing, " "))
	}
	if trial.Ping == nil {
		result.Lines = append(result.Lines, "No request was made to the API: the connector has no ping.")
		return result
	}
	ping := pingNotice(*trial.Ping)
	if !trial.Ping.Working {
		result.Tone, result.Title = toneBad, "There is a token, but the ping does not work"
	}
	result.Lines = append(result.Lines, "Ping: "+strings.Join(ping.Lines, " "))
	result.Body = ping.Body
	return result
}
