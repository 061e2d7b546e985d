package integration

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// piped is `new acme` with answers from standard input, one a line.
func (o *office) piped(t *testing.T, cmd *exec.Cmd, answers ...string) harness.Result {
	t.Helper()
	cmd.Stdin = strings.NewReader(strings.Join(answers, "\n"))
	return harness.Execute(t, cmd)
}

// TestNewFromPipedAnswers has a program answer the questions. Only the connection is printed.
func TestNewFromPipedAnswers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	answers := []string{"my app", secret, "emea", "us", "open sesame", "contacts.write", "reports.read", "", "yes"}
	got := o.piped(t, o.command(t), answers...)
	equal(t, "exit status", got.Status, 0)
	equal(t, "printed", got.Stdout, wantBlock)
	for _, text := range []string{"The token request would be:", "POST " + o.server.URL, "It works: there is a token."} {
		if !strings.Contains(got.Stderr, text) {
			t.Errorf("%q is not in %s", text, got.Stderr)
		}
	}
	if strings.Contains(got.Stdout+got.Stderr, secret) {
		t.Error("a secret is shown")
	}
	o.wantWorks(t, got.Stdout)

	wrong := append([]string(nil), answers...)
	wrong[1] = "wrong secret"
	got = o.piped(t, o.command(t), wrong...)
	equal(t, "exit status with a wrong secret", got.Status, 1)
	equal(t, "printed with a wrong secret", got.Stdout, wantBlock)

	got = o.piped(t, o.command(t), "my app", secret, "emea", "asia")
	equal(t, "exit status with an answer that is not offered", got.Status, 2)
	equal(t, "printed", got.Stdout, "")
	equal(t, "complaint", got.Stderr, "Error: Region: must be one of eu, us\n")
}
