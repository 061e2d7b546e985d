package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// axe returns the source of axe-core, which checks a page for accessibility.
func axe(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(harness.Root(), "integration", "axe", "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal("axe-core is not installed: run integration/run.sh, or `npm ci` in integration/axe")
	}
	return string(source)
}

// violations has axe-core check the page: names and labels of all controls, contrast, structure.
func (d *desk) violations(t *testing.T) []string {
	t.Helper()
	const run = `axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
		.then((found) => JSON.stringify(found.violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html + " " + n.failureSummary))))`
	var found []string
	if err := json.Unmarshal([]byte(d.Script(t, run)), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestConsoleIsAccessible checks every page in both colors, with results and with mistakes at the fields.
func TestConsoleIsAccessible(t *testing.T) {
	t.Parallel()
	source := axe(t)
	for name, options := range map[string]harness.BrowserOptions{"light": {}, "dark, on a phone": {Dark: true, Width: 375, Height: 812}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDesk(t, options, "--address", sidecarStandIn(t, showcase()), "--config", showcaseConfig(t), "--save", t.TempDir())
			check := func(page string) {
				t.Helper()
				d.Script(t, source+"; 1")
				for _, violation := range d.violations(t) {
					t.Errorf("%s: %s", page, violation)
				}
			}
			for _, page := range []string{
				"/", "/?q=nothing", "/connections/billing", "/connections/orders", "/connections/none", "/connectors", "/connectors/acme_crm", "/connectors/parcel_service",
				"/new", "/new/acme_crm", "/new/parcel_service", "/new/people", "/new-connector",
			} {
				d.Open(t, d.base+page)
				check(page)
			}
			d.Open(t, d.base+"/connections/billing")
			d.Run(t, chromedp.Submit(`form[action$="/ping"]`, chromedp.ByQuery))
			d.see(t, "#result")
			check("the result of a ping")
			d.Open(t, d.base+"/new/acme_crm")
			d.click(t, at("customize-yes"))
			d.press(t, "try")
			check("mistakes in a new connection")
			d.Open(t, d.base+"/new-connector")
			for _, list := range []string{"scopes", "parameters", "config_values", "token_request_params"} {
				d.click(t, `button[value="add:`+list+`"]`)
				d.see(t, `#list-`+list+` fieldset`)
			}
			d.press(t, "check")
			check("mistakes in a new connector")
			d.Open(t, d.base+"/new/people")
			d.fill(t, "client_id", "app")
			d.press(t, "save")
			d.waitText(t, "#result", "The connection is saved")
			check("a connection that was saved")
		})
	}
}

// TestConsoleByKeyboard reaches every control with the Tab key, sees where it is, and tries a connection
// without a mouse.
func TestConsoleByKeyboard(t *testing.T) {
	t.Parallel()
	d := openDesk(t, harness.BrowserOptions{}, "--address", sidecarStandIn(t, showcase()), "--config", showcaseConfig(t))
	d.Open(t, d.base+"/new/acme_crm")
	var reached []string
	for range 40 {
		d.Run(t, chromedp.KeyEvent(kb.Tab))
		where := d.Script(t, `(({id, textContent, value}) => id || value || textContent.trim())(document.activeElement)`)
		if outline := d.Script(t, `getComputedStyle(document.activeElement).outlineStyle`); outline == "none" {
			t.Errorf("it is not visible that %s has the focus", where)
		}
		switch where {
		case "name":
			d.Run(t, chromedp.KeyEvent("by-keyboard"))
		case "customize-no":
			d.Run(t, chromedp.KeyEvent(kb.ArrowDown)) // to Customize
		case "scope-1":
			d.Run(t, chromedp.KeyEvent(" "))
		}
		reached = append(reached, where)
		if where == "try" {
			break
		}
	}
	got := strings.Join(reached, " ")
	if !strings.HasPrefix(got, "Skip to the content") {
		t.Errorf("the first is %s", reached[0])
	}
	if want := "name client_id client_secret parameters.instance parameters.region customize-no scope-1 scope-2 additional_scopes"; !strings.Contains(got, want) {
		t.Errorf("reached %s, want %s", got, want)
	}
	d.Run(t, chromedp.KeyEvent(kb.Enter))
	d.see(t, "#result")
	equal(t, "focus", d.Script(t, "document.activeElement.id"), "result")
	equal(t, "ticked", d.Script(t, "document.getElementById('scope-1').checked"), "true")
}

// TestConsoleShowsASidecar: the list refreshes itself where scripts run, and the buttons work everywhere.
func TestConsoleShowsASidecar(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]harness.BrowserOptions{"scripts": {}, "no scripts": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t, documentedCaddyfile, noOptions)
			d := openDesk(t, options, "--address", o.admin)
			equal(t, "states before a request", d.Script(t, `document.querySelectorAll("tbody .state-idle").length`), "2")
			o.wantOK(t)
			if options.NoScript {
				d.Open(t, d.base+"/")
			} else {
				d.waitText(t, "tbody .state-ready", "ready")
				d.waitText(t, `tbody tr:has(.state-ready) [data-label="Requests"]`, "1")
			}
			d.Open(t, d.base+"/?state=ready&q=bill")
			equal(t, "found", d.Text(t, "tbody th a"), "billing")
			d.click(t, "tbody th a")
			d.see(t, "#token-title")
			d.submit(t, "ping")
			if got := d.Text(t, "#result"); !strings.Contains(got, "It works") || !strings.Contains(got, "200 OK") {
				t.Errorf("ping: %s", got)
			}
			before := o.tokens.Count()
			d.submit(t, "refresh")
			if got := d.Text(t, "#result"); !strings.Contains(got, "There is a new token") {
				t.Errorf("refresh: %s", got)
			}
			equal(t, "token requests of a refresh", o.tokens.Count()-before, 1)
			o.tokens.RespondWith(harness.Refuse(http.StatusUnauthorized, "invalid_client"))
			d.submit(t, "refresh")
			if got := d.Text(t, "main"); !strings.Contains(got, "There is no new token") || !strings.Contains(got, "invalid_client") || !strings.Contains(got, "Fix what is named here.") {
				t.Errorf("failed refresh: %s", got)
			}
			d.wantNoSecret(t, secret)
		})
	}
}

// TestConsoleLeavesAPageAlone that somebody reads, and says when it has ended.
func TestConsoleLeavesAPageAlone(t *testing.T) {
	t.Parallel()
	d := openDesk(t, harness.BrowserOptions{}, "--address", sidecarStandIn(t, showcase()), "--config", showcaseConfig(t))
	refreshed := func(script string) string {
		t.Helper()
		return d.Script(t, "refresh(live).then(() => "+script+")")
	}
	const row = `document.querySelector("tbody tr:last-child")`
	d.Open(t, d.base+"/?q=archive") // which has no token, whose time goes by
	d.Script(t, row+`.mark = "yes"`)
	equal(t, "a row when nothing has changed", refreshed(row+".mark"), "yes")
	d.Open(t, d.base+"/")
	d.Script(t, row+`.querySelector("a").textContent = "changed"; getSelection().selectAllChildren(`+row+`)`)
	equal(t, "a row whose text is selected", refreshed(row+`.querySelector("a").textContent`), "changed")
	d.Script(t, `getSelection().removeAllRanges(); document.querySelector("tbody").prepend(`+row+`); document.querySelector("tbody a").focus()`)
	equal(t, "focus when the order changes", refreshed("document.activeElement.textContent + "+row+`.querySelector("a").textContent`), "payrollpayroll")
	if got := d.Script(t, `document.querySelectorAll("#live [role=alert], #live [aria-live]").length`); got != "0" {
		t.Error("what is refreshed is read out again and again")
	}

	d.Open(t, d.base+"/new/acme_crm")
	d.console.Signal(os.Interrupt)
	equal(t, "exit status", d.console.Wait(t), 0)
	d.fill(t, "client_id", "typed")
	d.waitText(t, "#said", "The console has ended.")
	equal(t, "what was typed", d.value(t, "client_id"), "typed")
}

// TestConsoleOutlivesTheSidecar has the sidecar stop while its page is open, and start again.
func TestConsoleOutlivesTheSidecar(t *testing.T) {
	t.Parallel()
	says := showcase()
	address := sidecarStandIn(t, says)
	d := openDesk(t, harness.BrowserOptions{}, "--address", address)
	d.Open(t, d.base+"/connections/billing")
	socket := strings.TrimPrefix(address, "unix/")
	if err := os.Rename(socket, socket+".away"); err != nil {
		t.Fatal(err)
	}
	d.Script(t, "refresh(live).then(() => 1)")
	d.waitText(t, "#said", "The connection cannot be shown. No Caddy responds at")
	d.waitText(t, "#said", "What follows is from "+d.Script(t, "shownAt.toTimeString().slice(0, 8)")+".")
	equal(t, "it is dimmed", d.Script(t, `getComputedStyle(live).opacity < 1`), "true")
	equal(t, "space below", d.Script(t, `parseFloat(getComputedStyle(document.getElementById("said")).marginBlockEnd) > 0`), "true")
	if err := os.Rename(socket+".away", socket); err != nil {
		t.Fatal(err)
	}
	d.Script(t, "refresh(live).then(() => 1)")
	equal(t, "hidden, and opaque again", d.Script(t, `document.getElementById("said").hidden + " " + getComputedStyle(live).opacity`), "true 1")
}

// TestConsoleOnAPhone looks at pages that are 375 pixels wide: nothing is cut off or beside the screen.
func TestConsoleOnAPhone(t *testing.T) {
	t.Parallel()
	d := openDesk(t, harness.BrowserOptions{Width: 375, Height: 812}, "--address", sidecarStandIn(t, showcase()), "--config", showcaseConfig(t), "--save", t.TempDir())
	equal(t, "width", d.Script(t, "innerWidth"), "375")
	const wider = "document.documentElement.scrollWidth > 375"
	for _, page := range []string{"/", "/connections/billing", "/connectors", "/connectors/acme_crm", "/new", "/new/acme_crm", "/new-connector"} {
		d.Open(t, d.base+page)
		equal(t, page+" is wider than the screen", d.Script(t, wider), "false")
		const beside = `[...document.querySelectorAll("nav a, .events td, .connections td")].filter((e) => e.getBoundingClientRect().right > 375 || e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent).join()`
		equal(t, page+": beside the screen", d.Script(t, beside), "")
	}
	d.Open(t, d.base+"/new/people")
	d.fill(t, "client_id", "app")
	d.press(t, "save")
	d.waitText(t, "#result", "The connection is saved")
	equal(t, "the page after saving is wider than the screen", d.Script(t, wider), "false")
}

// TestConsoleTakesResultsBack: a result that names mistakes goes once there are none, and the other way round.
func TestConsoleTakesResultsBack(t *testing.T) {
	t.Parallel()
	d := openDesk(t, harness.BrowserOptions{}, "--config", showcaseConfig(t))
	d.Open(t, d.base+"/new/people")
	d.press(t, "try")
	equal(t, "errors of client id and secret", d.Text(t, at("client_id-error"))+d.Text(t, at("client_secret-error")), "A value is needed.It cannot be tried without this secret.")
	d.fill(t, "client_id", "app")
	d.waitText(t, "#request", "with app")
	equal(t, "the secret is still missing", d.Text(t, at("client_secret-error")), "It cannot be tried without this secret.")
	d.see(t, "#result")
	d.fill(t, "client_secret", secret+kb.Tab)
	d.Run(t, chromedp.WaitNotPresent("#result", chromedp.ByQuery))

	d.Open(t, d.base+"/new-connector")
	d.fill(t, "name", "shop")
	d.fill(t, "base_url", "https://api.example")
	d.press(t, "check")
	equal(t, "focus", d.Script(t, "document.activeElement.id"), "result")
	equal(t, "result", d.Text(t, "#result"), "1 mistake: Token URL")
	d.click(t, "#result a")
	equal(t, "focus after the link", d.Script(t, "document.activeElement.id"), "token_url")
	d.fill(t, "token_url", "https://auth.example/token")
	d.Run(t, chromedp.WaitNotPresent("#result", chromedp.ByQuery))
	d.press(t, "check")
	equal(t, "result", d.Text(t, "#result"), "No mistakes: copy the block.")
	d.fill(t, "token_url", "http://auth.example")
	d.Run(t, chromedp.WaitNotPresent("#result", chromedp.ByQuery))
	d.wantNoSecret(t, secret)
}

// submit presses a button of the connection's page, and waits for the page that follows.
func (d *desk) submit(t *testing.T, action string) {
	t.Helper()
	d.Script(t, `document.documentElement.dataset.before = "yes"`)
	d.click(t, `form[action$="/`+action+`"] button`)
	d.waitLoaded(t)
	d.keep(t)
}

// TestConsoleAmongOtherSites has a browser with the console open visit pages of other sites.
func TestConsoleAmongOtherSites(t *testing.T) {
	t.Parallel()
	o := newOperator(t, documentedCaddyfile, options{})
	d := openDesk(t, harness.BrowserOptions{HostRules: "MAP evil.example 127.0.0.1"}, "--address", o.admin)
	port := must(url.Parse(d.base)).Port()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/frame":
			fmt.Fprintf(w, `<h1>frame</h1><iframe src="%s/"></iframe>`, d.base)
		case "/post":
			fmt.Fprintf(w, `<form method="post" action="%s/connections/billing/refresh"><button>go</button></form>`, d.base)
		case "/link":
			fmt.Fprintf(w, `<a href="%s/">the console</a>`, d.base)
		}
	}))
	t.Cleanup(other.Close)
	_, otherPort, _ := strings.Cut(strings.TrimPrefix(other.URL, "http://"), ":")
	for _, site := range []string{"http://evil.example:" + otherPort, other.URL, "http://localhost:" + otherPort} { // the latter two are the same site
		d.Open(t, site+"/frame")
		if problems := strings.Join(d.Problems(), "\n"); !strings.Contains(problems, "frame-ancestors") {
			t.Errorf("%s frames the console: %s", site, problems)
		}
		d.Open(t, site+"/post")
		d.Run(t, chromedp.Click("button", chromedp.ByQuery), chromedp.WaitNotPresent("button", chromedp.ByQuery))
		if got := d.Text(t, "body"); !strings.Contains(got, "page of another site") {
			t.Errorf("%s posts: %s", site, got)
		}
	}
	equal(t, "token requests", o.tokens.Count(), 0)
	// Nothing of the console is sent along from there, but it can be opened by its URL.
	d.Open(t, "http://evil.example:"+otherPort+"/link")
	d.Run(t, chromedp.Click("a", chromedp.ByQuery), chromedp.WaitVisible("h1", chromedp.ByQuery))
	equal(t, "title", d.Text(t, "h1"), "This browser has no session")
	d.Open(t, strings.Replace(d.base, "127.0.0.1", "evil.example", 1)+"/")
	if got := d.Text(t, "body"); !strings.Contains(got, "not served under this host") {
		t.Errorf("evil.example:%s: %s", port, got)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// visitor is a program that has the console open.
type visitor struct {
	*http.Client
	base string
}

func newVisitor(t *testing.T, url string) *visitor {
	t.Helper()
	client := harness.NewClient(t)
	client.Jar = must(cookiejar.New(nil))
	base, _, _ := strings.Cut(url, "/open/")
	v := &visitor{client, base}
	res := must(v.Get(url))
	_ = res.Body.Close()
	equal(t, "status of the URL", res.StatusCode, http.StatusOK)
	return v
}

func (v *visitor) post(t *testing.T, path string, form url.Values) string {
	t.Helper()
	res, err := v.PostForm(v.base+path, form)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body)))
}

func (v *visitor) get(t *testing.T, path string) string {
	t.Helper()
	res, err := v.Get(v.base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body)))
}

// TestConsoleSavesOnlyNewFiles gives names that lead elsewhere, and finds links and files in its way.
func TestConsoleSavesOnlyNewFiles(t *testing.T) {
	t.Parallel()
	user := harness.NewUser(t)
	config := user.File(t, "Caddyfile", showcaseFile)
	dir, elsewhere := filepath.Join(user.Home, "dir"), filepath.Join(user.Home, "elsewhere")
	for _, path := range []string{dir, elsewhere} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"linked.caddyfile", "dangling.caddyfile"} {
		if err := os.Symlink(filepath.Join(elsewhere, link), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	harness.WriteFile(t, filepath.Join(elsewhere, "linked.caddyfile"), "untouched")
	_, printed := startConsole(t, user, "--config", config, "--save", dir)
	v := newVisitor(t, printed)
	save := func(name string) string {
		return v.post(t, "/new/people", url.Values{"name": {name}, "client_id": {"app"}, "client_secret": {secret}, "draft": {name}, "do": {"save"}})
	}
	for _, name := range []string{
		"../elsewhere/x", "..", ".", "", "/tmp/x", "a/b", `a\b`, "a\x00b", "a\nb", ".hidden", "-rf", "linked", "dangling", "secrets/../../elsewhere/x", "%2e%2e%2fx", "archive",
	} {
		if page := save(name); strings.Contains(page, "The connection is saved") || strings.Contains(page, secret) {
			t.Errorf("%q: %s", name, page)
		}
	}
	if page := save("good"); !strings.Contains(page, "The connection is saved") || strings.Contains(page, secret) || strings.Contains(page, "It is kept for this page") {
		t.Errorf("not saved, or it is not said that the secret is forgotten: %s", page)
	}
	var found []string
	_ = filepath.WalkDir(user.Home, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, strings.TrimPrefix(path, user.Home))
		}
		return err
	})
	equal(t, "files", strings.Join(found, " "), "/Caddyfile /dir/dangling.caddyfile /dir/good.caddyfile /dir/linked.caddyfile /dir/secrets/good/client_secret /elsewhere/linked.caddyfile")
	equal(t, "file behind the link", string(must(os.ReadFile(filepath.Join(elsewhere, "linked.caddyfile")))), "untouched")
}

// TestConsoleShowsNothingItReads has somebody type what names a file and a variable, and servers that repeat what was in
// them.
func TestConsoleShowsNothingItReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(rw, "not %s with %s", r.URL.Path, r.Header.Get("X-Account"))
	}))
	t.Cleanup(api.Close)
	w.Run(t, w.expand(options{}, harness.Config{Options: "http_helper {\n" + `connector echo {
		base_url ` + api.URL + `/{param.where}
		token_url $TOKENS
		scope read
		customize_scopes
		additional_scopes
		parameter where text
		parameter account text
		config_value urn text {
			value urn:{param.account}
		}
		config_value upper text {
			flow upper
		}
		flow upper template "{{ upper .param.account }}"
		token_request_param account {param.account}
		token_request_param urn {config.urn}
		token_request_param upper {config.upper}
		api_header X-Account {param.account}
		ping GET /me 200
	}` + "\n}"}))
	user := harness.NewUser(t)
	const inFile, inVariable = "from-a-file", "from-a-variable"
	file := user.File(t, "account", inFile)
	cmd := user.Command(t, "console", "--address", "unix/"+w.AdminSocket(), "--save", filepath.Join(user.Home, "saved"))
	cmd.Env = append(cmd.Env, "TYPED_VARIABLE="+inVariable)
	running := harness.Background(t, cmd)
	running.WaitLog(t, "Ctrl-C ends the console")
	v := newVisitor(t, consoleURL.FindStringSubmatch(running.Logs())[1])
	w.tokens.RespondWith(harness.Reply(http.StatusOK, map[string]any{"access_token": "a-token", "expires_in": 600, "token_type": "Bearer", "scope": "read " + inVariable}))
	wantNothing := func(what, page string, texts ...string) {
		t.Helper()
		for _, read := range []string{inFile, inVariable, strings.ToUpper(inFile)} {
			if strings.Contains(page, read) {
				t.Errorf("%s shows what was read: %s", what, page)
			}
		}
		for _, text := range texts {
			if !strings.Contains(page, text) {
				t.Errorf("%s lacks %q:\n%s", what, text, page)
			}
		}
	}
	form := url.Values{
		"draft": {"d"}, "name": {"mine"}, "client_id": {"{env.TYPED_VARIABLE}"}, "client_secret": {secret}, "parameters.where": {"{env.TYPED_VARIABLE}"},
		"parameters.account": {"{file." + file + "}"}, "customize": {"yes"}, "additional_scopes": {"{file." + file + "}"}, "do": {"check"},
	}
	wantNothing("a preview", v.post(t, "/new/echo", form), "account = {file."+file+"}", "scope = {file."+file+"}", "urn = {config.urn}", "upper = {config.upper}")
	form.Set("do", "try")
	wantNothing("a trial", v.post(t, "/new/echo", form), "There is a token, but the ping does not work", "Scopes not granted", "not /[redacted]/me with [redacted]")
	equal(t, "what was sent", w.tokens.Only(t).Form().Get("account"), inFile)
	w.tokens.RespondWith(harness.Reply(http.StatusBadRequest, map[string]string{"error": "invalid_target", "error_description": "no account " + inFile}))
	wantNothing("a failed trial", v.post(t, "/new/echo", form), "It does not work: there is no token", "invalid_target")
	form.Set("do", "save")
	wantNothing("what was saved", v.post(t, "/new/echo", form), "The connection is saved")
	for _, field := range []string{"base_url", "token_url", "config_values.0.value", "label"} {
		form := url.Values{"do": {"check"}, "name": {"c"}, "base_url": {"https://api.example"}, "token_url": {"https://auth.example"}, "config_values.0.key": {"k"}, "config_values.0.type": {"text"}}
		form.Set(field, "https://{file."+file+"}/{env.TYPED_VARIABLE}")
		wantNothing("a connector with it as "+field, v.post(t, "/new-connector", form))
	}
}

// TestConsoleLosesNothingTyped takes the connectors away from a form that is being filled in, as a sidecar
// does that starts anew, and a file that is being edited.
func TestConsoleLosesNothingTyped(t *testing.T) {
	t.Parallel()
	user := harness.NewUser(t)
	config := user.File(t, "Caddyfile", showcaseFile)
	_, printed := startConsole(t, user, "--config", config)
	v := newVisitor(t, printed)
	form := url.Values{
		"draft": {"d"}, "name": {"mine"}, "client_id": {"my-app"}, "client_secret": {secret}, "parameters.instance": {"emea"}, "parameters.region": {"us"},
		"customize": {"yes"}, "scopes": {"contacts.write"}, "additional_scopes": {"reports.read\r\nreports.export"}, "do": {"check"},
	}
	wantForm := func() {
		t.Helper()
		page := v.post(t, "/new/acme_crm", form)
		for _, text := range []string{`value="mine"`, `value="my-app"`, `value="emea"`, `value="us" selected`, `value="contacts.write" checked`, "It is kept for this page", "reports.read reports.export</textarea>", "27 of 500", "scope = contacts.read contacts.write reports.read reports.export"} {
			if !strings.Contains(page, text) {
				t.Errorf("%q is not in\n%s", text, page)
			}
		}
	}
	_ = v.get(t, "/new/acme_crm")
	harness.WriteFile(t, config, "{")
	wantForm()
	if page := v.get(t, "/new/acme_crm"); !strings.Contains(page, "The connectors cannot be read") {
		t.Errorf("a new form of a file that cannot be read: %s", page)
	}
	harness.WriteFile(t, config, showcaseFile)
	wantForm()
}

// TestConsoleCommand: how it starts and ends, and that it needs no sidecar for its dialogs.
func TestConsoleCommand(t *testing.T) {
	t.Parallel()
	user := harness.NewUser(t)
	config := user.File(t, "Caddyfile", showcaseFile)
	for _, args := range [][]string{
		{"--listen", "0.0.0.0:0"}, {"--listen", ":0"}, {"--listen", "192.0.2.1:80"}, {"--allow-host", "*"}, {"--allow-host", "http://a.example"}, {"--adapter", "caddyfile"}, {"--save", "a{b}"}, {"argument"}, {"--nothing"},
	} {
		equal(t, fmt.Sprint(args), user.Run(t, append([]string{"console"}, args...)...).Status, 2)
	}
	cmd := user.Command(t, "console", "--config", config, "--allow-host", "devbox.example")
	stdin := must(cmd.StdinPipe())
	running := harness.Background(t, cmd)
	running.WaitLog(t, "Ctrl-C ends the console")
	first := consoleURL.FindStringSubmatch(running.Logs())[1]
	v := newVisitor(t, first)
	for path, want := range map[string]string{"/": "No sidecar responds", "/connectors": "Parcel Service", "/connectors/acme_crm": "Your instance name", "/new/acme_crm": "Client secret", "/new-connector": "Client credentials"} {
		res := must(v.Get(v.base + path))
		body := string(must(io.ReadAll(res.Body)))
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %q is not in\n%s", path, res.StatusCode, want, body)
		}
	}
	_, _ = io.WriteString(stdin, "\n")
	running.WaitLog(t, "ends the console.\nhttp-helper: console "+v.base)
	urls := consoleURL.FindAllStringSubmatch(running.Logs(), -1)
	newVisitor(t, urls[len(urls)-1][1])
	running.Signal(os.Interrupt)
	equal(t, "exit status", running.Wait(t), 0)

	other := user.Start(t, "console", "--config", config)
	other.WaitLog(t, "Ctrl-C ends the console")
	other.Signal(syscall.SIGTERM)
	equal(t, "exit status", other.Wait(t), 0)
}

// hostileText would run as a script, in each place where a page may put it.
const hostileText = "\"'></textarea></pre><script>alert(1)</script><img src=x onerror=alert(1)>"

// hostileConnector has it wherever a connector has text.
const hostileConnector = `
	connector hostile {
		label $TEXT
		base_url $API
		token_url $TOKENS
		client_id_label $TEXT
		scope a required {
			description $TEXT
		}
		customize_scopes
		additional_scopes
		parameter p dropdown {
			label $TEXT
			option $TEXT $TEXT
			option other
		}
		config_value v text {
			label $TEXT
			value $TEXT
		}
		ping GET /me 200
	}`

// TestConsoleShowsTextsAsText has connectors, forms, token endpoints and APIs say what would run as a script.
func TestConsoleShowsTextsAsText(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	connector := strings.ReplaceAll(hostileConnector, "$TEXT", "`"+hostileText+"`")
	w.Run(t, w.expand(options{}, harness.Config{Options: "http_helper {\n" + connector + "\n}"}))
	_, printed := startConsole(t, harness.NewUser(t), "--address", "unix/"+w.AdminSocket())
	v := newVisitor(t, printed)
	wantText := func(what, page string, texts ...string) {
		t.Helper()
		for _, markup := range []string{"<script>alert", "<img src=x", "onerror=alert(1)>"} {
			if strings.Contains(page, markup) {
				t.Errorf("%s has %s:\n%s", what, markup, page)
			}
		}
		for _, text := range append(texts, "</html>") {
			if !strings.Contains(page, text) {
				t.Errorf("%s lacks %q:\n%s", what, text, page)
			}
		}
	}
	const asText = "&lt;script&gt;alert(1)&lt;/script&gt;"
	for _, path := range []string{"/connectors", "/connectors/hostile", "/new", "/new/hostile", "/new?q=" + url.QueryEscape(hostileText)} {
		wantText(path, v.get(t, path), asText)
	}
	form := url.Values{"draft": {hostileText}, "name": {hostileText}, "client_id": {hostileText}, "parameters.p": {hostileText}, "customize": {"yes"}, "additional_scopes": {hostileText}, "do": {"try"}}
	wantText("a new connection", v.post(t, "/new/hostile", form), asText, "Some fields do not fit yet")
	form = url.Values{"draft": {"d"}, "name": {"mine"}, "client_id": {hostileText}, "client_secret": {secret}, "parameters.p": {hostileText}, "do": {"try"}}
	w.tokens.RespondWith(harness.Reply(http.StatusBadRequest, map[string]string{"error": hostileText, "error_description": hostileText}))
	wantText("a failed trial", v.post(t, "/new/hostile", form), "It does not work: there is no token")
	w.tokens.RespondWith(w.tokens.Grant(3600e9))
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, hostileText)
	}))
	wantText("a failed ping", v.post(t, "/new/hostile", form), "the ping does not work", asText)

	form = url.Values{"do": {"check"}, "auth_method": {hostileText}}
	for _, name := range []string{
		"name", "label", "base_url", "token_url", "scopes_help", "scopes.0.name", "scopes.0.description", "parameters.0.key", "parameters.0.label", "parameters.0.type", "parameters.0.options",
		"config_values.0.key", "config_values.0.label", "config_values.0.type", "config_values.0.value", "token_request_params.0.name", "token_request_params.0.value", "api_headers.0.name", "ping.path", "ping.statuses",
	} {
		form.Set(name, hostileText)
	}
	wantText("a new connector", v.post(t, "/new-connector", form), asText)
	wantText("a row of a list that is not there", v.post(t, "/new-connector", url.Values{"do": {"add:" + hostileText}, "name": {hostileText}}), asText)
}
