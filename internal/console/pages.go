package console

import (
	"errors"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// pages are the pages of the console, by paths below the secret one.
type pages struct {
	options Options
	sidecar sidecar
	known   atomic.Pointer[draft.Config] // what had the connectors last
}

func newPages(options Options) *pages {
	return &pages{options: options, sidecar: sidecar{options.Admin}}
}

func (p *pages) register(mux *http.ServeMux) {
	assets, err := fs.Sub(assetFiles, "assets")
	if err != nil {
		panic(err) // it is built in
	}
	mux.Handle("GET "+assetsPath, http.StripPrefix(assetsPath, http.FileServerFS(assets)))
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /{$}":                         p.listConnections,
		"GET /connections/{name}":          p.showConnection,
		"GET /connections/{name}/{action}": p.leaveAction,
		"POST /connections/{name}/refresh": p.refreshConnection,
		"POST /connections/{name}/ping":    p.pingConnection,
		"GET /connectors":                  p.listConnectors,
		"GET /connectors/{connector}":      p.showConnector,
		"GET /new":                         p.chooseConnector,
		"GET /new-connector":               p.describeConnector,
		"POST /new-connector":              p.changeConnector,
		"GET /new/{connector}":             p.withDraft(p.describeConnection),
		"POST /new/{connector}":            p.withDraft(p.changeConnection),
		"/":                                p.notFound,
	} {
		mux.HandleFunc(pattern, handler)
	}
}

// show responds with a page.
func (p *pages) show(w http.ResponseWriter, r *http.Request, status int, name string, content page) {
	content.Base = base(r)
	showPage(w, status, name, content)
}

func (p *pages) notFound(w http.ResponseWriter, r *http.Request) {
	p.fail(w, r, http.StatusNotFound, problem{Title: "There is no such page", Text: "The console has the pages that are named above."})
}

func (p *pages) fail(w http.ResponseWriter, r *http.Request, status int, what problem) {
	what.Connectors = r.PathValue("connector") != ""
	p.show(w, r, status, "error", page{Section: "none", Title: what.Title, Data: what})
}

// Tones of notices.
const (
	toneGood = "good"
	toneBad  = "bad"
	toneWarn = "warn"
)

// notice is something that a person should notice on a page.
type notice struct {
	Tone  string
	Title string
	Lines []string
	Body  string // of a response; not ours
}

// unavailable is the notice about a sidecar that cannot be asked.
func unavailable(err error) *notice {
	n := &notice{Tone: toneBad, Title: "The sidecar cannot be asked", Lines: []string{sentence(err.Error())}}
	if unreachable, ok := errors.AsType[*adminapi.UnreachableError](err); ok {
		n.Title = "No sidecar responds"
		n.Lines = append(n.Lines, "Start it, or end this command and choose another one with --address or --config.")
		if unreachable.Forbidden() {
			n.Title = "The sidecar's admin endpoint may not be opened"
			n.Lines[1] = "Run this command as the user of that Caddy."
		}
	}
	return n
}

// statusOf is the status of a page about something that the sidecar does not show.
func statusOf(err error) int {
	if failed, ok := errors.AsType[caddy.APIError](err); ok && failed.HTTPStatus == http.StatusNotFound {
		return http.StatusNotFound
	}
	return http.StatusBadGateway
}

// optionFirst matches a text that begins with the name of an option.
var optionFirst = regexp.MustCompile(`^[a-z]+_[a-z_]+\b`)

// sentence returns a text as a sentence.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	if !optionFirst.MatchString(text) {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// sentences returns the lines of an error as sentences.
func sentences(err error) []string {
	var all []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		all = append(all, sentence(line))
	}
	return all
}

// where says which sidecar the pages are about.
func (p *pages) where() string {
	admin, err := p.options.Admin()
	if err != nil {
		return ""
	}
	return "Sidecar at " + admin.Address()
}

// pageSize is how many items a page of a list has.
const pageSize = 100

// paging leads to the other pages of a list.
type paging struct {
	Pages          int // 0: there is only one
	Words          string
	Previous, Next string // URLs; empty: there is none
}

// cut returns the items on the page that the query asks for, and the way to the others.
func cut[T any](items []T, path string, query url.Values) ([]T, paging) {
	pages := max(1, (len(items)+pageSize-1)/pageSize)
	number, _ := strconv.Atoi(query.Get("page"))
	number = min(max(number, 1), pages)
	first := (number - 1) * pageSize
	shown := items[first:min(first+pageSize, len(items))]
	if pages == 1 {
		return shown, paging{}
	}
	way := paging{Pages: pages, Words: strconv.Itoa(first+1) + "–" + strconv.Itoa(first+len(shown)) + " of " + strconv.Itoa(len(items))}
	if number > 1 {
		way.Previous = withQuery(path, query, "page", strconv.Itoa(number-1))
	}
	if number < pages {
		way.Next = withQuery(path, query, "page", strconv.Itoa(number+1))
	}
	return shown, way
}

// withQuery returns a URL with one value of its query changed; empty removes it. Of the query only what
// lists understand is kept.
func withQuery(path string, query url.Values, name, value string) string {
	changed := make(url.Values)
	for _, known := range []string{"q", "state", "page", name} {
		if query.Get(known) != "" {
			changed.Set(known, query.Get(known))
		}
	}
	changed.Del(name)
	if value != "" {
		changed.Set(name, value)
	}
	if len(changed) == 0 {
		return path
	}
	return path + "?" + changed.Encode()
}

// matches reports whether every word of a query is in one of the texts, in any case of letters.
func matches(query string, texts ...string) bool {
	for word := range strings.FieldsSeq(strings.ToLower(query)) {
		if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(strings.ToLower(text), word) }) {
			return false
		}
	}
	return true
}

func orEmpty[T any](v *T) T {
	if v == nil {
		return *new(T)
	}
	return *v
}

// count returns a number as people read it.
func count(n uint64) string { return humanize.Comma(int64(min(n, math.MaxInt64))) }
