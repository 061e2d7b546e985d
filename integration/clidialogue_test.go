package integration

import (
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// dialogue is `new` when it asks its questions in plain lines.
type dialogue struct{ *harness.Terminal }

// plainTerminals are variables that say that nothing can be drawn.
var plainTerminals = map[string]string{"simple terminal": "TERM=dumb", "unknown terminal": "TERM=", "screen reader": "ACCESSIBLE=1"}

func (o *office) openDialogue(t *testing.T, variable string) dialogue {
	t.Helper()
	cmd := o.command(t)
	cmd.Env = append(cmd.Env, variable)
	return dialogue{harness.OpenTerminal(t, cmd, 120, 60)}
}

// answer waits until the last thing on the screen is the question's prompt, and types a line.
func (d dialogue) answer(t *testing.T, prompt, line string) {
	t.Helper()
	d.WaitScreenEnd(t, prompt)
	d.Type(t, line, harness.Enter)
}

func TestNewInPlainLines(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for name, variable := range plainTerminals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := o.openDialogue(t, variable)
			d.answer(t, "Client ID\nAnswer:", "")
			d.answer(t, "Not so: a value is needed\nAnswer:", "my app")
			d.answer(t, "API password\nNothing is shown. Leave it empty to store it later, without trying it now.\nAnswer:", secret)
			d.answer(t, "Your instance name\nAnswer:", "emea")
			d.answer(t, "Region\n1. Europe\n2. United States\nNumber [1]:", "asia")
			d.answer(t, "Not so: must be one of eu, us\nNumber [1]:", "2")
			d.answer(t, "Passphrase\nNothing is shown. Leave it empty to store it later, without trying it now.\nAnswer:", "open sesame")
			d.answer(t, "✓ contacts.read: Read contacts (always requested)\n1. contacts.write\n"+
				"2. contacts.delete: Delete contacts, also those of other people, for good and without asking anybody again\nNumbers, separated by spaces:", "1")
			d.answer(t, "At most 500 characters:", "reports.read "+strings.Repeat("x", 490))
			d.answer(t, "Not so: 503 characters are more than the 500 that are allowed\nAt most 500 characters:", "reports.read")
			d.answer(t, "Name of the connection\nSites use it: http_helper <name>\nAnswer [acme]:", "")
			d.WaitScreen(t, "Authorization: Basic with my app and (the client secret)")
			d.answer(t, tryIt+"\nyes or no [no]:", "y")
			equal(t, "exit status", d.Ended(t), 0)
			d.WaitScreen(t, "It works: there is a token.")
			equal(t, "printed", d.Logs(), wantBlock)
			for _, hidden := range []string{secret, "open sesame", "\x1b"} {
				if strings.Contains(d.Written(), hidden) {
					t.Errorf("%q is written", hidden)
				}
			}
			equal(t, "restored", d.Restored(t), true)
		})
	}
}

// TestNewInPlainLinesIsGivenUp presses Ctrl-C or Ctrl-D, also while the terminal shows
// nothing.
func TestNewInPlainLinesIsGivenUp(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for name, key := range map[string]string{"Ctrl-C": harness.CtrlC, "Ctrl-D": harness.CtrlD} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := o.openDialogue(t, "TERM=dumb")
			d.WaitScreenEnd(t, "Client ID\nAnswer:")
			d.Type(t, key)
			form(d).wantGivenUp(t)
		})
	}
	t.Run("Ctrl-C at a secret", func(t *testing.T) {
		t.Parallel()
		d := o.openDialogue(t, "TERM=dumb")
		d.answer(t, "Client ID\nAnswer:", "my app")
		d.WaitScreenEnd(t, "without trying it now.\nAnswer:")
		d.WaitHidden(t)
		d.Type(t, "abc", harness.CtrlC)
		form(d).wantGivenUp(t)
		if strings.Contains(d.Written(), "abc") {
			t.Error("the secret is written")
		}
	})
}
