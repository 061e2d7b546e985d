package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	d.see(t, "html:not([data-before])")
	d.see(t, "h1")
	d.keep(t)
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
			d.press(t, "save")
			if text := d.Text(t, "#result"); !strings.Contains(text, "Some fields do not fit yet") {
				t.Errorf("saved again: %s", text)
			}
			d.wantNoSecret(t, secret, "open sesame")
			o.wantSaved(t, dir)
		})
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
	for _, want := range []string{"It works: there is a token", "It lives 1h0m0s.", "Scopes granted: contacts.read contacts.write reports.read", "Ping: The API responded with 200 OK."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	equal(t, "token requests", o.server.Count(), 1)
	if scripts {
		picture(t, d.Browser, "new-connection")
	}
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
