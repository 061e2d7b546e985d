package console

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// formConnector is a connector that asks for two secrets, and checks nothing but that there is no space in a name.
func formConnector() *draft.Connector {
	anything := func(string) error { return nil }
	return &draft.Connector{
		Form: adminapi.Connector{
			Name: "acme", Label: "Acme", Permissions: adminapi.Permissions{CustomizeScopes: true, AdditionalScopes: true},
			Fields: []adminapi.Field{
				{Key: "client_id", Type: adminapi.TypeText, Label: "Client ID", Fixed: true},
				{Key: "client_secret", Type: adminapi.TypePassword, Label: "Client secret", Fixed: true},
				{Key: "pin", Type: adminapi.TypePassword, Label: "PIN"},
			},
		},
		CheckName: anything, CheckText: anything, CheckAdditionalScopes: anything,
		WarnAdditionalScopes: func(typed string) []string {
			if strings.Contains(typed, ",") {
				return []string{"there is a comma in it"}
			}
			return nil
		},
		Preview: func(name string, _ json.RawMessage) (string, error) { return "  POST for " + name, nil },
	}
}

// dialogs is a console with dialogs, whose connectors are in a file.
type dialogs struct {
	*Server
	base    string
	cookies []*http.Cookie
	file    string // of the configuration
	dir     string // to save in
}

func newDialogs(t *testing.T, problems map[string]error) *dialogs {
	t.Helper()
	d := &dialogs{file: filepath.Join(t.TempDir(), "my config.json"), dir: filepath.Join(t.TempDir(), "saved")}
	if err := os.WriteFile(d.file, []byte(`{"apps": {"http_helper": {"connectors": {"acme": {}}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	options := Options{
		Admin: func() (*adminapi.Client, error) { return nil, errors.New("there is none") }, File: d.file,
		Configuration: draft.Configuration{
			Find: func(_ caddy.Context, config *draft.Config, name string) (*draft.Connector, error) {
				if config.Connectors[name] == nil {
					return nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("there is no connector " + name)}
				}
				return formConnector(), nil
			},
			Check: func(_ caddy.Context, name string, _ json.RawMessage) (*draft.Connector, error) {
				return formConnector(), problems[name]
			},
		},
	}
	if err := options.SaveIn(d.dir); err != nil {
		t.Fatal(err)
	}
	d.Server = New(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, options)
	printed := d.NewURL()
	recorder := httptest.NewRecorder()
	d.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, printed, nil))
	d.cookies = recorder.Result().Cookies()
	d.base, _, _ = strings.Cut(printed, ticketPath)
	return d
}

func (d *dialogs) request(method, path string, form url.Values) (status int, page string) {
	req := httptest.NewRequest(method, d.base+path, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, cookie := range d.cookies {
		req.AddCookie(cookie)
	}
	recorder := httptest.NewRecorder()
	d.ServeHTTP(recorder, req)
	return recorder.Code, recorder.Body.String()
}

func (d *dialogs) post(path string, form url.Values) string {
	_, page := d.request(http.MethodPost, path, form)
	return page
}

// has checks which texts a page has.
func has(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("%q is not in\n%s", text, page)
		}
	}
}

func hasNot(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(page, text) {
			t.Errorf("%q is in\n%s", text, page)
		}
	}
}

// What was saved is no form any more: nothing is kept for it. The page says how Caddy uses the files.
func TestSavedConnection(t *testing.T) {
	d := newDialogs(t, nil)
	form := url.Values{"draft": {"d"}, "name": {"mine"}, "client_id": {"me"}, "client_secret": {"s3cret"}, "do": {"save"}}
	page := d.post("/new/acme", form)
	has(t, page, "The connection is saved", filepath.Join(d.dir, "mine.caddyfile"), ">import "+d.dir+"/*.caddyfile<", ">caddy reload --config &#39;"+d.file+"&#39;<", `data-copy="import"`, `data-copy="reload"`,
		"connection mine acme {", "Another connection", ">Connections</a>", "Secrets still to be stored", filepath.Join(d.dir, "secrets", "mine", "pin"))
	hasNot(t, page, "kept", "<form", "s3cret", "Secrets to store</h3>")

	form.Set("name", "other")
	form.Set("pin", "")
	form.Set("parameters.pin", "123")
	hasNot(t, d.post("/new/acme", form), "Secrets still to be stored")
	// It is forgotten.
	form = url.Values{"draft": {"d"}, "name": {"third"}, "client_id": {"me"}, "do": {"try"}}
	has(t, d.post("/new/acme", form), "It cannot be tried yet")
}

// One press of a button shows all that is missing.
func TestTryingMarksEverything(t *testing.T) {
	d := newDialogs(t, nil)
	page := d.post("/new/acme", url.Values{"draft": {"d"}, "name": {"mine"}, "do": {"try"}})
	has(t, page, "Some fields do not fit yet", `data-error-for="client_id" ><span>A value is needed.`, `data-error-for="client_secret" ><span>It cannot be tried without this secret.`,
		`data-error-for="parameters.pin" ><span>It cannot be tried without this secret.`, `data-right="false"`, "Leave it empty to store it later, without trying it now.")
	page = d.post("/new/acme", url.Values{"draft": {"d"}, "name": {"mine"}, "client_id": {"me"}, "client_secret": {"s3cret"}, "do": {"try"}})
	has(t, page, "It cannot be tried yet", `data-error-for="parameters.pin" ><span>`, "POST for mine")
	hasNot(t, page, `data-error-for="client_secret" ><span>`, "s3cret")
	page = d.post("/new/acme", url.Values{"draft": {"d"}, "name": {"mine"}, "do": {"save"}})
	hasNot(t, page, "without this secret.")
}

// What loading warns about is shown at once.
func TestWarningAboutScopes(t *testing.T) {
	d := newDialogs(t, nil)
	form := url.Values{"draft": {"d"}, "name": {"mine"}, "client_id": {"me"}, "customize": {"yes"}, "additional_scopes": {"admin.all, x y"}, "do": {"check"}}
	has(t, d.post("/new/acme", form), `id="additional_scopes-warning" data-follows><span>There is a comma in it.</span>`)
	form.Set("additional_scopes", "admin.all x")
	has(t, d.post("/new/acme", form), `id="additional_scopes-warning" data-follows></p>`)
}

func TestTrialInWords(t *testing.T) {
	obtained := time.Now()
	for lifetime, want := range map[time.Duration]string{
		10 * time.Minute: "It lives 10 minutes.", time.Hour: "It lives 1 hour.", 90 * time.Minute: "It lives 1 hour 30 minutes.", time.Second: "It lives 1 second.", time.Millisecond: "It lives less than a second.",
	} {
		trial := draft.Trial{Connection: adminapi.Connection{Token: &adminapi.Token{Obtained: obtained, Expires: obtained.Add(lifetime)}}}
		if lines := trialNotice(trial).Lines; lines[0] != want {
			t.Errorf("%q, want %q", lines[0], want)
		}
	}
	if advice := trialAdvice(oauth.OutageErrorf("the token endpoint: %s", neterror.UnknownAuthority)); !strings.Contains(advice, "SSL_CERT_FILE") {
		t.Error(advice)
	}
	if advice := trialAdvice(oauth.OutageErrorf("status 503")); !strings.Contains(advice, "try again") {
		t.Error(advice)
	}
}

// A page that is not there leads to those of its kind.
func TestLinkOfAnErrorPage(t *testing.T) {
	d := newDialogs(t, nil)
	for path, link := range map[string]string{"/new/none": "/connectors\">All connectors", "/connectors/none": "/connectors\">All connectors", "/connections/a%20b": "/\">All connections", "/none": "/\">All connections"} {
		status, page := d.request(http.MethodGet, path, nil)
		if status != http.StatusNotFound || !strings.Contains(page, link) {
			t.Errorf("%s: %d\n%s", path, status, page)
		}
	}
}

// The button says how many mistakes there are, and leads to each.
func TestCheckedConnector(t *testing.T) {
	d := newDialogs(t, map[string]error{
		"wrong": errors.Join(errors.New("token_url: it must be https"), errors.New("parameter region: a dropdown needs one option at least"), errors.New("scope a: required needs customize_scopes; without it every scope is requested"),
			errors.New("token_request_param: scope cannot be set here; it has an option of its own"), errors.New("base_url: there is no parameter host; there is none"), errors.New("something else")),
	})
	form := url.Values{
		"name": {"wrong"}, "token_url": {"http://x"}, "scopes.0.name": {"a"}, "scopes.0.required": {"yes"}, "parameters.0.key": {"region"}, "parameters.0.type": {"dropdown"},
		"token_request_params.0.name": {"scope"}, "token_request_params.0.value": {"x"}, "do": {"check"},
	}
	page := d.post("/new-connector", form)
	has(t, page, `id="result" tabindex="-1" data-focus data-right="false"`, "6 mistakes: ", `<a href="#token_url">Token URL</a>, <a href="#parameters.0.options">Options of parameter 1</a>`,
		`<a href="#scopes.0.required">Required of scope 1</a>`, `<a href="#token_request_params.0.name">Name of token request parameter 1</a>`, "<p>Something else.</p>",
		"Required needs “Connections may customize scopes”; without it every scope is requested.", "`scope` cannot be set here", "There is no parameter host: add it under Parameters.")
	if strings.Index(page, "For the Caddyfile") > strings.Index(page, "What a new connection is asked") {
		t.Error("the block is below the dialog")
	}
	form.Set("do", "add:scopes")
	hasNot(t, d.post("/new-connector", form), `id="result"`, "mistake")
	form.Set("do", "save")
	has(t, d.post("/new-connector", form), "6 mistakes: ")
	form = url.Values{"name": {"right"}, "do": {"check"}}
	has(t, d.post("/new-connector", form), "No mistakes: copy the block.", `data-right="true"`)
}

// Every control of the form has a name in the result.
func TestLinksToFields(t *testing.T) {
	d := newDialogs(t, nil)
	form := url.Values{"do": {"check"}}
	for list, first := range lists {
		form.Set(control(list, 0, first), "x")
	}
	page, _, _ := strings.Cut(d.post("/new-connector", form), `id="preview"`)
	for _, match := range regexp.MustCompile(`<(?:input|select|textarea)[^>]* name="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		link := linkTo(match[1])
		if link.ID != match[1] || link.Label == "" || link.Label == link.ID || strings.HasPrefix(link.Label, " ") {
			t.Errorf("%s is %+v", match[1], link)
		}
	}
	if link := linkTo("parameters.2"); link != (fieldLink{"parameters.2.key", "Key of parameter 3"}) {
		t.Errorf("%+v", link)
	}
}

func TestSavedConnector(t *testing.T) {
	d := newDialogs(t, nil)
	form := url.Values{"name": {"shop"}, "base_url": {"https://api.example"}, "config_values.0.key": {"k"}, "config_values.0.type": {"password"}, "do": {"save"}}
	file := filepath.Join(d.dir, "connectors", "shop.caddyfile")
	has(t, d.post("/new-connector", form), "The connector is saved", file, ">import "+d.dir+"/connectors/*.caddyfile<", "caddy reload", "let nobody else read the file", "Another connector")
	info, err := os.Lstat(file)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v %v", info, err)
	}
	has(t, d.post("/new-connector", form), "Nothing was saved", "it is there already")
	for _, name := range []string{"../x", "..", "", ".x", "a/b"} {
		form.Set("name", name)
		hasNot(t, d.post("/new-connector", form), "is saved")
	}
	if found, _ := filepath.Glob(d.dir + "/*/*"); len(found) != 1 {
		t.Errorf("written: %q", found)
	}
}
