package integration

import (
	"bytes"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestBrowser: what other tests rely on. Names lead where they should, pages run scripts unless they must not,
// and what goes wrong in a page is seen.
func TestBrowser(t *testing.T) {
	t.Parallel()
	const page = `<!doctype html><style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }</style>
<p id=host></p><script>document.getElementById("host").textContent = location.host; thisIsNoFunction()</script><noscript>no script</noscript>`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, page)
	}))
	t.Cleanup(server.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	const background = `getComputedStyle(document.body).backgroundColor`

	t.Run("scripts", func(t *testing.T) {
		t.Parallel()
		b := harness.OpenBrowser(t, harness.BrowserOptions{HostRules: "MAP page.example 127.0.0.1"})
		b.Open(t, "http://page.example:"+port+"/")
		equal(t, "text", b.Text(t, "#host"), "page.example:"+port)
		equal(t, "promise", b.Script(t, "Promise.resolve(`${innerWidth} ${1 + 1}`)"), "1280 2")
		equal(t, "background", b.Script(t, background), "rgb(255, 255, 255)")
		if problems := strings.Join(b.Problems(), "\n"); !strings.Contains(problems, "thisIsNoFunction is not defined") {
			t.Errorf("problems %q", problems)
		}
	})
	t.Run("no scripts, dark, small", func(t *testing.T) {
		t.Parallel()
		b := harness.OpenBrowser(t, harness.BrowserOptions{NoScript: true, Dark: true, Width: 500, Height: 700})
		b.Open(t, server.URL)
		equal(t, "text", b.Text(t, "noscript"), "no script")
		equal(t, "background", b.Script(t, background), "rgb(0, 0, 0)")
		file := filepath.Join(t.TempDir(), "page.png")
		b.Screenshot(t, file)
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		picture, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "width of the picture", picture.Bounds().Dx(), 500)
	})
}
