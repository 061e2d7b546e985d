package integration

import (
	"encoding/base64"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestSharingShowsNoSecret looks for the key that seals shared tokens, the password of the storage, tokens and the
// client's secret in logs at debug, errors, metrics, the admin API and the configuration: while the storage works,
// while it refuses the password, and with a key file that was damaged.
func TestSharingShowsNoSecret(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"storage works": false, "storage refuses the password": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLeakFleet(t, refused)
			f.run(t, options{global: "debug\n"}, f.replicas...)
			if failed := call(t, f.replicas...); failed != nil {
				t.Fatal(failed)
			}
			want := map[bool]string{false: "on", true: "degraded"}[refused]
			eventually(t, "the storage is "+want, func() bool { return sharedState(t, f.replicas[0]) == want })
			f.damageKey(t)
			text := f.said(t)
			for _, needed := range []string{`"level":"debug"`, "token_storage_operations_total", "key_files", "read as base64"} {
				if !strings.Contains(text, needed) {
					t.Errorf("nothing says %s", needed)
				}
			}
			if found := f.in(text); found != nil {
				t.Errorf("found %q in\n%s", found, text)
			}
		})
	}
}

// leakFleet is a fleet whose secrets are looked for. Its sidecars read key and password from files.
type leakFleet struct {
	*fleet
	*leaks
}

func newLeakFleet(t *testing.T, refused bool) leakFleet {
	t.Helper()
	l := newLeaks()
	raw, password := l.token("key")[:32], l.token("password")
	key := base64.StdEncoding.EncodeToString([]byte(raw))
	l.add("key", key)
	l.add("client's secret", secret)
	server := newRedis(t)
	wanted := password
	if refused {
		wanted = l.token("other password")
	}
	output(t, exec.Command("redis-cli", "-p", server.port, "config", "set", "requirepass", wanted))
	f := newFleet(t, 2, "redis {\nhost 127.0.0.1\nport "+server.port+"\npassword {file.$DIR/password}\n}")
	f.File(t, "password", password)
	f.keyFiles = []string{f.File(t, "key", key)}
	token := l.token("token")
	f.api.Accept(func(got string) bool { return got == token })
	f.tokens.RespondWith(harness.Reply(http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600}))
	return leakFleet{f, l}
}

// damageKey puts something into the key file that is no key, and waits until that is noticed.
func (f leakFleet) damageKey(t *testing.T) {
	t.Helper()
	f.File(t, "key", f.token("damaged key"))
	if _, _, err := f.Admin(http.MethodPost, leakConnection+"/refresh", "", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the damage is noticed", func() bool {
		return strings.Contains(f.Logs(), "the key files for shared tokens are not usable")
	})
}

const leakConnection = "/http_helper/connections/127.0.0.1"

// said is all that the sidecars say.
func (f leakFleet) said(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{leakConnection, "/metrics", "/config/"} {
		_, text, err := f.Admin(http.MethodGet, path, "", "")
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(text)
	}
	out, err := harness.New(t).Adapt(t, f.config(options{}))
	if err == nil {
		t.Fatal("a damaged key is no error at load")
	}
	all.WriteString(out + err.Error())
	for _, replica := range f.replicas {
		all.WriteString(replica.Logs())
	}
	return all.String()
}
