package main

import (
	"errors"
	"fmt"
	"html"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	columns    = 96
	lineHeight = 19
	pause      = 2.2 // seconds before a command, and half of it after the last line
)

// typed are the commands of the recording, run by one shell each, in one directory.
var typed = []string{
	"# A sidecar for the API. (Two stand-ins run already: a token endpoint on 8081, an API on 8082.)",
	`caddy http-helper run --from :8080 --to http://127.0.0.1:8082/v2 --client-id demo-app \
    --token-url http://127.0.0.1:8081/oauth2/token --client-secret-file ./secret 2>log &`,
	"curl -s http://127.0.0.1:8080/hello",
	"# Somebody puts a wrong secret into the file.",
	"echo wrong >secret; caddy http-helper refresh 127.0.0.1",
	"caddy http-helper list",
	"# The current token still works, and the right secret needs no restart.",
	"echo demo-secret >secret; caddy http-helper refresh 127.0.0.1",
	"caddy http-helper list",
}

// recordTerminal runs the commands with a real sidecar and returns what a terminal shows.
func recordTerminal(caddy string) (transcript string, err error) {
	caddy, err = exec.LookPath(caddy)
	if err != nil {
		return "", fmt.Errorf("CADDY names the sidecar's binary: %w", err)
	}
	dir, err := os.MkdirTemp("", "recording")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := prepare(dir, caddy); err != nil {
		return "", err
	}
	servers, err := startServers(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, servers.Process.Kill()) }()
	var b strings.Builder
	var sidecar *exec.Cmd
	defer func() {
		if sidecar != nil {
			err = errors.Join(err, sidecar.Process.Kill())
		}
	}()
	for _, command := range typed {
		fmt.Fprintf(&b, "$ %s\n", command)
		if line, background := strings.CutSuffix(command, " &"); background {
			if sidecar, err = startSidecar(dir, line); err != nil {
				return "", err
			}
			shown, readErr := os.ReadFile(filepath.Join(dir, "out"))
			if readErr != nil {
				return "", readErr
			}
			b.Write(shown)
			continue
		}
		shown, _ := inShell(dir, command).CombinedOutput() // a command that fails is part of the recording
		b.WriteString(strings.TrimRight(string(shown), "\n"))
		if len(shown) > 0 {
			b.WriteString("\n")
		}
	}
	return strings.ReplaceAll(b.String(), dir, "/run/user/1000"), nil
}

// prepare puts the secret, the stand-ins' configuration and the name caddy into the directory.
func prepare(dir, caddy string) error {
	absolute, err := filepath.Abs(caddy)
	if err != nil {
		return err
	}
	example, err := os.ReadFile("Caddyfile.example")
	if err != nil {
		return err
	}
	_, servers, found := strings.Cut(string(example), "# Stands in for the authorization server")
	if !found {
		return errors.New("no stand-ins in Caddyfile.example")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(
		root.Symlink(absolute, "caddy"),
		root.WriteFile("secret", []byte("demo-secret\n"), 0o600),
		root.WriteFile("servers", []byte("{\nadmin off\npersist_config off\n}\n#"+servers), 0o600),
		root.Close(),
	)
}

func inShell(dir, command string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "XDG_RUNTIME_DIR="+dir, "TERM=dumb")
	return cmd
}

func startServers(dir string) (*exec.Cmd, error) {
	servers := inShell(dir, "exec caddy run --config servers --adapter caddyfile")
	if err := servers.Start(); err != nil {
		return nil, err
	}
	return servers, errors.Join(waitFor("127.0.0.1:8081"), waitFor("127.0.0.1:8082"))
}

func startSidecar(dir, line string) (*exec.Cmd, error) {
	sidecar := inShell(dir, "exec "+line+" >out")
	if err := sidecar.Start(); err != nil {
		return nil, err
	}
	return sidecar, waitFor("127.0.0.1:8080")
}

// waitFor returns when somebody listens at the address.
func waitFor(address string) error {
	for range 100 {
		if conn, err := net.Dial("tcp", address); err == nil {
			return conn.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("nobody listens at %s", address)
}

var wrong = regexp.MustCompile(`^Error:|refused|down|degraded`)

// terminalPicture animates a transcript: each command and what it prints appear after a pause.
func terminalPicture(transcript string) string {
	type row struct {
		text, class string
		at          float64
	}
	var rows []row
	now := 0.0
	inCommand := false
	for line := range strings.Lines(strings.TrimRight(transcript, "\n")) {
		line = strings.TrimRight(line, "\n")
		class := "out"
		switch {
		case strings.HasPrefix(line, "$ # "):
			now += pause
			line, class = strings.TrimPrefix(line, "$ "), "remark"
		case strings.HasPrefix(line, "$ "):
			now += pause
			class = "command"
		case inCommand:
			class = "command"
		case wrong.MatchString(line):
			class = "wrong"
		}
		inCommand = class == "command" && strings.HasSuffix(line, `\`)
		if class == "out" || class == "wrong" {
			now += 0.15
		}
		for _, part := range wrap(line) {
			rows = append(rows, row{part, class, now})
		}
	}
	total := now + 2*pause
	var style, drawn strings.Builder
	style.WriteString("text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; white-space: pre; fill: var(--ink); }\n" +
		".command { fill: var(--accent); }\n.remark { fill: var(--faint); }\n.wrong { fill: var(--wrong); }\n" +
		fmt.Sprintf("text { animation-duration: %.1fs; animation-timing-function: step-end; animation-iteration-count: infinite; }\n", total) +
		"@media (prefers-reduced-motion: reduce) { text { animation: none !important; } }\n")
	for i, row := range rows {
		fmt.Fprintf(&style, "@keyframes l%d { 0%% { opacity: 0; } %.1f%%, 100%% { opacity: 1; } }\n", i, 100*row.at/total)
		fmt.Fprintf(&drawn, `<text class="%s" style="animation-name: l%d" x="16" y="%d">%s</text>`+"\n",
			row.class, i, 28+lineHeight*i, html.EscapeString(row.text))
	}
	return picture(columns*8+16, 28+lineHeight*len(rows), "A recording of a terminal: a sidecar runs, a request gets its token, "+
		"a wrong secret is named, and the right one works again.", style.String(), drawn.String())
}

// wrap breaks a line where it would leave the picture, between words if there are any.
func wrap(line string) []string {
	var parts []string
	for len(line) > columns {
		at := strings.LastIndex(line[:columns], " ")
		if at <= 0 {
			at = columns
		}
		parts = append(parts, line[:at])
		line = "  " + strings.TrimPrefix(line[at:], " ")
	}
	return append(parts, line)
}
