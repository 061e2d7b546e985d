package console

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// page is what a template is filled with.
type page struct {
	Base    string // the path under which the console is served
	Section string // of the navigation, which is marked
	Title   string
	Refresh string // the URL that the page loads by itself; empty: none
	Still   bool   // without a script it does not: what a button said would go away
	Data    any    // of the page
}

// layouts are the templates of pages by the name of their file, each with the layout. They are parsed at the first
// page: a sidecar shows none.
var layouts = sync.OnceValue(parseTemplates)

func parseTemplates() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(template.FuncMap{
		"ago": ago, "moment": moment, "rfc3339": rfc3339, "number": func(i int) int { return i + 1 }, "words": func(list []string) string { return strings.Join(list, " ") },
	}).ParseFS(templateFiles, "templates/layout.html", "templates/shared_*.html"))
	files, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // it is built in
	}
	parsed := make(map[string]*template.Template)
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".html")
		if name == "layout" || strings.HasPrefix(name, "shared_") {
			continue
		}
		parsed[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, "templates/"+file.Name()))
	}
	return parsed
}

// showPage responds with a page.
func showPage(w http.ResponseWriter, status int, name string, p page) {
	render(w, status, layouts()[name], "layout", p)
}

// render responds with a template, all of it or an error.
func render(w http.ResponseWriter, status int, from *template.Template, name string, data any) {
	var text bytes.Buffer
	if err := from.ExecuteTemplate(&text, name, data); err != nil {
		http.Error(w, "The page cannot be shown: this is a mistake in the console.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = text.WriteTo(w)
}

// problem is an error for people: what is wrong, and what to do.
type problem struct {
	Title  string
	Text   string
	Advice string

	Open       bool // the console is open in this browser
	Connectors bool // it is about one; otherwise about a connection
}

var (
	noSession = problem{
		Title:  "This browser has no session",
		Text:   "The console is open only in the browser that has used the URL from the terminal, until the command ends.",
		Advice: "Press Enter in the terminal, and open the new URL that it prints.",
	}
	openAlready = problem{
		Title: "This URL has been used",
		Text:  "It opens the console once. This browser has the console open.",
		Open:  true,
	}
	usedURL = problem{
		Title:  "This URL does not work any more",
		Text:   "Each URL opens the console once. If somebody else has used it, they have the console open.",
		Advice: "Press Enter in the terminal for a new one. If you do not know who has used it, end the command with Ctrl-C and start it again.",
	}
)

// showError responds with a page about an error.
func showError(w http.ResponseWriter, base string, status int, what problem) {
	showPage(w, status, "error", page{Base: base, Title: what.Title, Data: what})
}

// ago returns how far away a time is, in the past or in the future.
func ago(then, now time.Time) string {
	if then.Sub(now) >= time.Second {
		return "in " + strings.TrimSpace(humanize.RelTime(then, now, "", ""))
	}
	return humanize.RelTime(then, now, "ago", "")
}

// moment returns a time as people read it, in the time zone of the terminal.
func moment(t time.Time) string { return t.Local().Format("2 Jan 15:04:05") }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
