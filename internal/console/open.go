package console

import (
	"fmt"
	"html/template"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// leadsOn is the template of a page that leads to a URL.
const leadsOn = `<!doctype html><meta charset="utf-8"><title>Opening the console</title>` +
	`<meta http-equiv="refresh" content="0; url={{.}}"><p><a href="{{.}}">Open the console</a></p>` + "\n"

// Open opens a URL in the browser. It leads there through a file that only the user can read: others see
// the arguments of a process. Remove deletes the file.
func Open(url string) (remove func(), err error) {
	dir, err := os.MkdirTemp("", "http-helper-console-")
	if err != nil {
		return func() {}, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	path := filepath.Join(dir, "open.html")
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return remove, err
	}
	err = template.Must(template.New("").Parse(leadsOn)).Execute(file, url)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return remove, err
	}
	return remove, start(path)
}

// start starts the program that opens files, and does not wait for it: it may be the browser itself.
func start(path string) error {
	program := []string{"xdg-open"}
	switch runtime.GOOS {
	case "darwin":
		program = []string{"open"}
	case "windows":
		program = []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	cmd := exec.Command(program[0], append(program[1:], path)...) //nolint:gosec // a file of our own
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("no browser could be started (%s)", program[0])
	}
	go func() { _ = cmd.Wait() }()
	return nil
}
