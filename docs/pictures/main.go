// Command pictures makes the pictures of the README.
//
//	go run ./docs/pictures                   request.svg, and terminal.svg from terminal.txt
//	CADDY=./caddy go run ./docs/pictures run  runs the sidecar and records terminal.txt first
//
// Both pictures follow the reader's choice of light or dark.
package main

import (
	"errors"
	"fmt"
	"html"
	"os"
	"strings"
)

// directory is where the pictures are, from the root of the repository.
const directory = "docs/pictures"

func main() {
	if err := makePictures(len(os.Args) > 1 && os.Args[1] == "run"); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func makePictures(record bool) (err error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if record {
		transcript, err := recordTerminal(os.Getenv("CADDY"))
		if err != nil {
			return err
		}
		if err := root.WriteFile("terminal.txt", []byte(transcript), 0o600); err != nil {
			return err
		}
	}
	transcript, err := root.ReadFile("terminal.txt")
	if err != nil {
		return err
	}
	return errors.Join(
		root.WriteFile("request.svg", []byte(requestPicture()), 0o600),
		root.WriteFile("terminal.svg", []byte(terminalPicture(string(transcript))), 0o600),
	)
}

// colours are the same in both pictures: ink, paper, faint, accent and what is wrong.
const colours = `svg { --ink: #1f2328; --paper: #ffffff; --faint: #59636e; --line: #8c959f; --accent: #0550ae; --wrong: #a40e26; }
@media (prefers-color-scheme: dark) {
svg { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #6e7681; --accent: #79c0ff; --wrong: #ffa198; }
}
`

// picture frames what is drawn.
func picture(width, height int, title, style, drawn string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img">
<title>%s</title>
<style>
%s%s</style>
<rect width="%[1]d" height="%[2]d" rx="8" fill="var(--paper)"/>
%[6]s</svg>
`, width, height, html.EscapeString(title), colours, style, drawn)
}

// requestPicture shows the way of a request.
func requestPicture() string {
	var b strings.Builder
	box := func(x, y, width int, title string, lines ...string) {
		fmt.Fprintf(&b, `<rect class="box" x="%d" y="%d" width="%d" height="%d" rx="6"/>`+"\n", x, y, width, 34+18*len(lines))
		fmt.Fprintf(&b, `<text class="title" x="%d" y="%d">%s</text>`+"\n", x+width/2, y+22, html.EscapeString(title))
		for i, line := range lines {
			fmt.Fprintf(&b, `<text class="note" x="%d" y="%d">%s</text>`+"\n", x+width/2, y+42+18*i, html.EscapeString(line))
		}
	}
	arrow := func(path string, x, y int, lines ...string) {
		fmt.Fprintf(&b, `<path class="arrow" d="%s" marker-end="url(#head)"/>`+"\n", path)
		for i, line := range lines {
			fmt.Fprintf(&b, `<text class="label" x="%d" y="%d">%s</text>`+"\n", x, y+16*i, html.EscapeString(line))
		}
	}
	b.WriteString(`<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">` +
		`<path d="M0 0 8 4 0 8z" fill="var(--accent)"/></marker></defs>` + "\n")
	box(20, 30, 130, "Your app", "no secret,", "no OAuth code")
	box(330, 30, 180, "caddy-httphelper", "keeps one token fresh,", "adds it to requests")
	box(710, 30, 130, "The API", "checks the", "token")
	box(20, 190, 130, "Secret", "file or variable")
	box(330, 190, 180, "Token endpoint", "authorization server")
	arrow("M150 65H328", 239, 38, "1  plain HTTP", "on loopback")
	arrow("M510 65H708", 609, 38, "3  HTTPS, with", "Authorization: Bearer …")
	arrow("M420 102V188", 500, 138, "2  one request for a", "token, now and then")
	arrow("M85 188V150H360V102", 222, 140, "read at every token request")
	return picture(860, 262, "The app sends plain HTTP to the sidecar on loopback. "+
		"The sidecar gets a token from the token endpoint, and sends the request to the API over TLS with the token.",
		`text { font: 13px system-ui, sans-serif; text-anchor: middle; fill: var(--ink); }
.title { font-weight: 600; font-size: 15px; }
.note, .label { fill: var(--faint); }
.label { font-size: 12px; }
.box { fill: none; stroke: var(--line); stroke-width: 1.5; }
.arrow { fill: none; stroke: var(--accent); stroke-width: 1.5; }
`, b.String())
}
