package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// desk is where somebody works with the console in a browser.
type desk struct {
	*harness.Browser
	console harness.Running
	base    string // URL of the pages
	pages   []string
}

// openDesk starts the console and opens it in a browser.
func openDesk(t *testing.T, options harness.BrowserOptions, args ...string) *desk {
	t.Helper()
	console, url := startConsole(t, harness.NewUser(t), args...)
	base, _, _ := strings.Cut(url, "/open/")
	d := &desk{Browser: harness.OpenBrowser(t, options), console: console, base: base}
	d.Open(t, url)
	d.see(t, "nav")
	return d
}

// at is the CSS selector of a control by its id.
func at(id string) string { return `[id="` + id + `"]` }

// see waits until an element is visible.
func (d *desk) see(t *testing.T, selector string) {
	t.Helper()
	d.Run(t, chromedp.WaitVisible(selector, chromedp.ByQuery))
}

// fill types a text into a control, instead of what is in it.
func (d *desk) fill(t *testing.T, id, text string) {
	t.Helper()
	d.see(t, at(id))
	d.Script(t, `document.getElementById(`+quoted(id)+`).select()`)
	d.Run(t, chromedp.SendKeys(at(id), text, chromedp.ByQuery))
}

// click clicks on an element.
func (d *desk) click(t *testing.T, selector string) {
	t.Helper()
	d.Run(t, chromedp.Click(selector, chromedp.ByQuery, chromedp.NodeVisible))
}

// press presses a button of the form and waits for the page that follows, which is kept for the search for
// secrets.
func (d *desk) press(t *testing.T, do string) {
	t.Helper()
	d.Script(t, `document.documentElement.dataset.before = "yes"`)
	d.click(t, `button[value="`+do+`"]:not([tabindex="-1"])`)
	d.waitLoaded(t)
	d.keep(t)
}

// waitLoaded waits for the page that follows one with the mark of press.
func (d *desk) waitLoaded(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(harness.Timeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var loaded bool
		err := d.Try(chromedp.Evaluate(`document.readyState === "complete" && !document.documentElement.dataset.before`, &loaded))
		if err == nil && loaded { // an error: the page changes just now
			return
		}
	}
	t.Fatal("no page follows")
}

// keep keeps the page's text.
func (d *desk) keep(t *testing.T) {
	t.Helper()
	d.pages = append(d.pages, d.Script(t, "location.href + document.documentElement.outerHTML"))
}

// waitText waits until an element of the page has a text.
func (d *desk) waitText(t *testing.T, selector, text string) {
	t.Helper()
	script := `new Promise((resolve, reject) => {
		const end = Date.now() + 20000;
		const look = () => {
			const text = document.querySelector(` + quoted(selector) + `)?.textContent ?? "";
			if (text.includes(` + quoted(text) + `)) resolve("yes"); else if (Date.now() > end) resolve(text); else setTimeout(look, 20);
		};
		look();
	})`
	if got := d.Script(t, script); got != "yes" {
		t.Fatalf("%s says %q, not %q", selector, got, text)
	}
}

func quoted(text string) string { return "`" + strings.ReplaceAll(text, "`", "\\`") + "`" }

// value returns the value of a control, as a page's script sees it.
func (d *desk) value(t *testing.T, id string) string {
	t.Helper()
	return d.Script(t, `document.getElementById(`+quoted(id)+`).value`)
}

// wantNoSecret checks that no page had a secret, neither in its text nor in its controls nor in its URL, and
// that the browser had nothing to complain about.
func (d *desk) wantNoSecret(t *testing.T, secrets ...string) {
	t.Helper()
	found := newLeaks()
	for _, secret := range secrets {
		found.add(secret, secret)
	}
	for _, page := range append(d.pages, d.console.Logs()) {
		if names := found.in(page); len(names) > 0 {
			t.Errorf("%q is in\n%s", names, page)
		}
	}
	if problems := d.Problems(); len(problems) > 0 {
		t.Errorf("the browser complains: %q", problems)
	}
}

// comma is a connector whose scopes are separated by commas.
const comma = `
	connector comma {
		label "Comma"
		base_url $API
		token_url $TOKENS
		scope contacts.read
		customize_scopes
		additional_scopes
		scopes_delimiter comma
	}`

// TestConsoleMakesAConnection fills in the New Connection dialog as a person does, with scripts and
// without, tries the connection at a real authorization server, saves it, and has a sidecar load it.
func TestConsoleMakesAConnection(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]harness.BrowserOptions{"scripts": {Width: 1280, Height: 900}, "no scripts": {Width: 1280, Height: 900, NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			dir := filepath.Join(o.Dir, "connections")
			d := openDesk(t, options, "--address", "unix/"+o.AdminSocket(), "--save", dir)
			d.makeConnection(t, o, !options.NoScript)
			d.press(t, "save")
			if text := d.Text(t, "#result"); !strings.Contains(text, "The connection is saved") || !strings.Contains(text, filepath.Join(dir, "mine.caddyfile")) {
				t.Fatalf("saved: %s", text)
			}
			equal(t, "line for the Caddyfile", d.Text(t, "#import"), "import "+dir+"/*.caddyfile")
			equal(t, "command", d.Text(t, "#reload"), "caddy reload --config Caddyfile")
			equal(t, "forms after saving", d.Script(t, `document.forms.length`), "0")
			o.wantSaved(t, dir)
			d.separateByComma(t, o)
			d.wantNoSecret(t, secret, "open sesame")
		})
	}
}

// separateByComma fills in scopes of a connector whose delimiter is a comma, which the sidecar has since a
// reload.
func (d *desk) separateByComma(t *testing.T, o *office) {
	t.Helper()
	if err := o.Reload(o.expand(options{}, harness.Config{Options: "http_helper {\n" + acme + comma + "\n}"})); err != nil {
		t.Fatal(err)
	}
	d.Open(t, d.base+"/new/comma")
	d.fill(t, "client_id", "my app")
	d.click(t, at("customize-yes"))
	d.fill(t, "additional_scopes", "reports.read, contacts.write")
	if d.Script(t, `document.querySelector("[data-without-script]").hidden`) == "true" {
		d.waitText(t, "#request", "contacts.write")
	} else {
		d.press(t, "check")
	}
	if got := d.Text(t, ".field-foot"); !strings.Contains(got, "Separate them with a comma.") {
		t.Errorf("the delimiter is not named: %s", got)
	}
	if got := d.Text(t, "#request"); !strings.Contains(got, "scope = reports.read contacts.write") {
		t.Errorf("preview %s", got)
	}
}

// makeConnection fills in the dialog of the connector acme, and tries it.
func (d *desk) makeConnection(t *testing.T, o *office, scripts bool) {
	t.Helper()
	d.Open(t, d.base+"/new")
	d.click(t, ".choices a")
	d.see(t, "#form")
	equal(t, "required scope", d.Script(t, `(({checked, disabled}) => checked + " " + disabled)(document.querySelector('[value="contacts.read"]'))`), "true true")

	d.press(t, "try") // with nothing filled in
	if text := d.Text(t, at("client_id-error")); text != "A value is needed." {
		t.Errorf("client_id: %q", text)
	}
	d.fill(t, "name", "mine")
	d.fill(t, "client_id", "my app")
	d.fill(t, "client_secret", secret)
	d.fill(t, "parameters.instance", "emea")
	d.Run(t, chromedp.SendKeys(at("parameters.region"), "United", chromedp.ByQuery))
	d.fill(t, "parameters.pass", "open sesame")
	d.click(t, at("customize-yes"))
	d.click(t, `[value="contacts.write"]`)
	d.fill(t, "additional_scopes", strings.Repeat("x", 501))
	if scripts {
		d.waitText(t, ".counter.over", "501 of 500 characters")
		d.waitText(t, "#preview", "once the fields fit")
	}
	d.press(t, "try")
	if text := d.Text(t, at("additional_scopes-error")); !strings.Contains(text, "501 characters") {
		t.Errorf("additional scopes: %q", text)
	}
	equal(t, "token requests before the fields fit", o.server.Count(), 0)
	equal(t, "the secret after a page", d.value(t, "client_secret"), "")
	d.fill(t, "additional_scopes", "reports.read")
	if scripts {
		d.waitText(t, ".counter", "12 of 500 characters")
		d.waitText(t, "#request", "scope = contacts.read contacts.write reports.read")
		d.keep(t)
	} else {
		d.press(t, "check")
	}
	for _, text := range []string{"POST " + o.server.URL, "Authorization: Basic with my app and (the client secret)", "region = us"} {
		if got := d.Text(t, "#request"); !strings.Contains(got, text) {
			t.Errorf("%q is not in the preview %s", text, got)
		}
	}
	d.press(t, "try")
	text := d.Text(t, "#result")
	for _, want := range []string{"It works: there is a token", "It lives 1 hour.", "Scopes granted: contacts.read contacts.write reports.read", "Ping: The API responded with 200 OK, as expected."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	equal(t, "token requests", o.server.Count(), 1)
}

// wantSaved checks the files that were saved, and has a sidecar use them.
func (o *office) wantSaved(t *testing.T, dir string) {
	t.Helper()
	for name, mode := range map[string]fs.FileMode{
		"mine.caddyfile": 0o644, "secrets": fs.ModeDir | 0o700, "secrets/mine": fs.ModeDir | 0o700, "secrets/mine/client_secret": 0o600, "secrets/mine/pass": 0o600,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "mode of "+name, info.Mode(), mode)
	}
	w := &world{Sidecar: harness.New(t), tokens: o.tokens, api: o.api}
	w.Run(t, w.expand(options{}, harness.Config{Options: "http_helper {\n" + acme + "\nimport " + dir + "/*.caddyfile\n}", Site: "http_helper mine"}))
	token := w.wantGranted(t)
	equal(t, "request", o.api.Last(t).RequestURI, "/emea/hello")
	equal(t, "X-Pass", o.api.Last(t).Header.Get("X-Pass"), "open sesame")
	equal[any](t, "scope", o.server.Introspect(t, "my app", secret, token)["scope"], "contacts.read contacts.write reports.read")
}

// TestConsoleMakesAConnector fills in the authentication dialog, with scripts and without, and has a
// sidecar load the block that comes of it, with a connection that gets what the helper flow computes.
func TestConsoleMakesAConnector(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]harness.BrowserOptions{"scripts": {Width: 1280, Height: 900}, "no scripts": {Width: 1280, Height: 900, NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.Run(t, w.expand(noOptions, harness.Config{Options: "http_helper {\n" + acme + "\n}"}))
			d := openDesk(t, options, "--address", "unix/"+w.AdminSocket())
			block := d.makeConnector(t, w, !options.NoScript)
			d.wantNoSecret(t, "typed-by-mistake")

			other := &world{Sidecar: harness.New(t), tokens: w.tokens, api: w.api}
			other.Run(t, other.expand(noOptions, harness.Config{
				Options: "http_helper {\n" + strings.ReplaceAll(block, "the secret goes here", "filled in") + "\nconnection mine shop {\nclient_id app\nclient_secret {env.SECRET}\nparameter tenant t-17\nparameter key open-sesame\n}\n}",
				Site:    "http_helper mine",
			}))
			other.wantOK(t)
			form := w.tokens.Only(t).Form()
			equal(t, "scope", form.Get("scope"), "orders.read orders.write")
			equal(t, "audience", form.Get("audience"), "urn:t-17:eu")
			got := w.api.Last(t)
			equal(t, "API header", got.Header.Get("X-Key"), "open-sesame")
			equal(t, "request", got.RequestURI, "/hello?region=eu")
		})
	}
}

var noOptions options

// makeConnector fills in the dialog, and returns the block.
func (d *desk) makeConnector(t *testing.T, w *world, scripts bool) string {
	t.Helper()
	d.Open(t, d.base+"/new-connector")
	add := func(list, first string) {
		t.Helper()
		if !scripts {
			d.press(t, "add:"+list)
			return
		}
		d.click(t, `button[value="add:`+list+`"]`)
		d.see(t, at(first))
		equal(t, "focus after a row was added", d.Script(t, "document.activeElement.id"), first)
	}
	d.fill(t, "name", "acme") // there is one
	d.fill(t, "base_url", "http://api.example/")
	d.press(t, "check")
	for id, want := range map[string]string{
		"name": "There is a connector of this name already", "base_url": "https", "token_url": "missing",
	} {
		if got := d.Text(t, at(id+"-error")); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	d.fill(t, "name", "shop")
	d.fill(t, "label", "The shop")
	d.fill(t, "base_url", w.api.URL)
	d.fill(t, "token_url", w.tokens.URL)
	add("scopes", "scopes.0.name")
	d.fill(t, "scopes.0.name", "orders.read")
	d.fill(t, "scopes.0.description", "Read orders")
	d.click(t, at("scopes.0.required"))
	add("scopes", "scopes.1.name")
	d.fill(t, "scopes.1.name", "to be removed")
	add("scopes", "scopes.2.name")
	d.fill(t, "scopes.2.name", "orders.write")
	if scripts {
		d.click(t, `button[value="remove:scopes.1"]`)
		d.waitText(t, "#form", "Scope 1")
		d.Run(t, chromedp.WaitNotPresent(at("scopes.2.name"), chromedp.ByQuery))
	} else {
		d.press(t, "remove:scopes.1")
	}
	equal(t, "scope after the removal", d.value(t, "scopes.1.name"), "orders.write")
	d.press(t, "check")
	if got := d.Text(t, at("scopes.0.required-error")); !strings.Contains(got, "Connections may customize scopes") {
		t.Errorf("required: %q", got)
	}
	d.click(t, at("customize_scopes"))
	d.click(t, at("additional_scopes"))
	add("parameters", "parameters.0.key")
	d.fill(t, "parameters.0.key", "tenant")
	d.fill(t, "parameters.0.label", "Your tenant")
	add("parameters", "parameters.1.key")
	d.Run(t, chromedp.SendKeys(at("parameters.1.type"), "Drop", chromedp.ByQuery))
	d.fill(t, "parameters.1.key", "region")
	d.fill(t, "parameters.1.options", "eu = Europe\nus")
	d.fill(t, "parameters.1.default", "eu")
	add("parameters", "parameters.2.key")
	d.Run(t, chromedp.SendKeys(at("parameters.2.type"), "Pass", chromedp.ByQuery))
	d.fill(t, "parameters.2.key", "key")
	d.fillConfigValues(t, add)
	add("token_request_params", "token_request_params.0.name")
	d.fill(t, "token_request_params.0.name", "audience")
	d.fill(t, "token_request_params.0.value", "{config.audience}")
	add("api_headers", "api_headers.0.name")
	d.fill(t, "api_headers.0.name", "X-Key")
	d.fill(t, "api_headers.0.value", "{param.key}")
	add("api_query", "api_query.0.name")
	d.fill(t, "api_query.0.name", "region")
	d.fill(t, "api_query.0.value", "{param.region}")
	d.fill(t, "ping.path", "/me")
	d.fill(t, "ping.statuses", "200 204")
	d.press(t, "check")
	equal(t, "errors", d.Script(t, `[...document.querySelectorAll("[data-error-for]:not([hidden])")].map((e) => e.textContent).join()`), "")
	for _, text := range []string{"New connection: The shop", "Your tenant", "Europe", "Customize scopes", "Read orders", "urn:{param.tenant}"} {
		if got := d.Text(t, ".dialog"); !strings.Contains(got, text) {
			t.Errorf("%q is not in the preview %s", text, got)
		}
	}
	return d.Text(t, "#block")
}

// fillConfigValues adds a fixed value, a secret and one of a helper flow.
func (d *desk) fillConfigValues(t *testing.T, add func(list, first string)) {
	t.Helper()
	add("config_values", "config_values.0.key")
	d.fill(t, "config_values.0.key", "realm")
	d.fill(t, "config_values.0.value", "urn:{param.tenant}")
	add("config_values", "config_values.1.key")
	d.fill(t, "config_values.1.key", "audience")
	d.Run(t, chromedp.SendKeys(at("config_values.1.source"), "A helper flow: t", chromedp.ByQuery))
	d.fill(t, "config_values.1.template", "urn:{{.param.tenant}}:{{.param.region}}")
	d.click(t, at("config_values.1.hidden"))
	add("config_values", "config_values.2.key")
	d.fill(t, "config_values.2.key", "api_key")
	d.fill(t, "config_values.2.value", "typed-by-mistake")
	d.Run(t, chromedp.SendKeys(at("config_values.2.type"), "Pass", chromedp.ByQuery))
}
