package integration

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// completions is what scripts for bash take from the package bash-completion, as far as they need it.
const completions = `_get_comp_words_by_ref() {
	cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
}
source <(caddy completion bash)
PS1='$ '
bind 'set bell-style none' 'set show-all-if-ambiguous on' 'set enable-bracketed-paste off' 2>/dev/null
clear
`

// TestCompletionInBash presses Tab in a real bash.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	l := newLaptop(t)
	l.InstallCaddy(t)
	l.start(t, l.withSecret(harness.Port(t), "--name", "billing")...)
	file := l.File(t, "rc", completions)
	shell := harness.OpenTerminal(t, l.onTerminal(bash, "--rcfile", file, "-i"), 120, 30)
	shell.WaitScreenEnd(t, "$")
	for _, step := range []struct{ typed, screen string }{
		{"caddy http-helper sh\t", "$ caddy http-helper show"},
		{"bi\t", "$ caddy http-helper show billing"},
		{"--js\t", "$ caddy http-helper show billing --json"},
	} {
		shell.Type(t, step.typed)
		shell.WaitScreenEnd(t, step.screen)
	}
	shell.Type(t, harness.Enter)
	shell.WaitScreen(t, `"name": "billing"`)
	shell.Type(t, "clear; caddy http-helper re\t")
	shell.WaitScreenEnd(t, "caddy http-helper refresh")
	shell.Type(t, harness.CtrlU, "caddy http-helper run --auth-method private\t")
	shell.WaitScreenEnd(t, "caddy http-helper run --auth-method private_key_jwt")
	shell.Type(t, harness.CtrlU, "exit", harness.Enter)
	shell.Ended(t)
}

// onTerminal is a command all of whose output goes to the terminal.
func (l *laptop) onTerminal(name string, args ...string) *exec.Cmd {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + arg + "'"
	}
	return l.Program("sh", "-c", "exec "+name+" "+strings.Join(quoted, " ")+" >&2")
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := harness.Execute(t, l.Program(harness.Caddy(t), "completion", shell))
		want(t, got, 0, "completion for caddy")
		path, err := exec.LookPath(shell)
		if err != nil || shell == "powershell" {
			continue
		}
		if got := harness.Execute(t, l.Program(path, "-n", l.File(t, shell, got.Stdout))); got.Status != 0 {
			t.Errorf("%s: %s", shell, got.Stderr)
		}
	}
}
