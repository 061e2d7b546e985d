package integration

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// redis is a Redis server.
type redis struct {
	harness.Running
	dir, port string
}

// startRedis runs one until the test ends. On the port of an earlier one it has that one's data.
func startRedis(t *testing.T, dir, port string, more ...string) *redis {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v; as root on Debian, integration/run.sh install installs it", err)
	}
	args := []string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always"}
	cmd := exec.Command(path, append(args, more...)...)
	r := &redis{harness.Background(t, cmd), dir, port}
	eventually(t, "Redis accepts connections", func() bool { return strings.Contains(r.Logs(), "Ready to accept connections") })
	return r
}

func newRedis(t *testing.T) *redis {
	t.Helper()
	return startRedis(t, t.TempDir(), harness.FreePort(t))
}

// fleet is many sidecars with the same configuration, which share their tokens.
type fleet struct {
	*world
	replicas []*harness.Sidecar
	keyFiles []string
	storage  string
	timeout  string // of an operation of the storage; "": the default
}

// newFleet prepares a fleet whose tokens are in a storage. $DIR is the fleet's, not a replica's.
func newFleet(t *testing.T, size int, storage string) *fleet {
	t.Helper()
	f := &fleet{world: newWorld(t, nil), storage: storage}
	f.keyFiles = []string{f.newKey(t, "key")}
	f.replicas = []*harness.Sidecar{f.Sidecar}
	for range size - 1 {
		f.replicas = append(f.replicas, harness.New(t))
	}
	return f
}

func (f *fleet) newKey(t *testing.T, name string) string {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return f.File(t, name, base64.StdEncoding.EncodeToString(key)+"\n")
}

// config is the configuration of a replica.
func (f *fleet) config(o options) harness.Config {
	var lines strings.Builder
	for _, file := range f.keyFiles {
		lines.WriteString("key_file " + file + "\n")
	}
	if f.timeout != "" {
		lines.WriteString("timeout " + f.timeout + "\n")
	}
	o.global += "\nhttp_helper {\nshare_tokens {\nstorage " + f.storage + "\n" + lines.String() + "}\n}"
	return f.inline(o)
}

func (r *redis) storage() string {
	return "redis {\nhost 127.0.0.1\nport " + r.port + "\n}"
}

// patient is a timeout with which a machine that is busy with other tests makes no storage fail.
const patient = "5s"

// run runs replicas at the same time.
func (f *fleet) run(t *testing.T, o options, replicas ...*harness.Sidecar) {
	t.Helper()
	var starting sync.WaitGroup
	for _, replica := range replicas {
		starting.Go(func() { replica.Run(t, f.config(o)) })
	}
	starting.Wait()
}

// call makes a request to every replica at the same time, and returns the statuses that are not 200.
func call(t *testing.T, replicas ...*harness.Sidecar) []string {
	t.Helper()
	failed := make([]string, len(replicas))
	var calling sync.WaitGroup
	for i, replica := range replicas {
		calling.Go(func() {
			req, _ := http.NewRequest(http.MethodGet, replica.URL+"/", nil)
			res, err := replica.Do(req)
			switch {
			case err != nil:
				failed[i] = err.Error()
			case res.StatusCode != http.StatusOK:
				failed[i] = fmt.Sprint(res.StatusCode, " ", res.Header.Get("Proxy-Status"))
			}
		})
	}
	calling.Wait()
	return compact(failed)
}

func compact(texts []string) []string {
	var some []string
	for _, text := range texts {
		if text != "" {
			some = append(some, text)
		}
	}
	return some
}

func (f *fleet) wantCalls(t *testing.T, what string, tokenRequests int) {
	t.Helper()
	if failed := call(t, f.replicas...); failed != nil {
		t.Errorf("%s: %d requests failed: %s", what, len(failed), failed[0])
	}
	equal(t, what+": token requests", f.tokens.Count(), tokenRequests)
}

// TestOneTokenForAFleet: a cold start of all together takes one token request, a rolling restart none, and a
// token that is revoked one.
func TestOneTokenForAFleet(t *testing.T) {
	size := 20
	if harness.Race {
		size = 10 // a start takes long then
	}
	f := newFleet(t, size, newRedis(t).storage())
	f.timeout = patient // the processes start all at once
	f.tokens.RespondWith(harness.Slow(time.Second, f.tokens.Grant(time.Hour)))
	f.run(t, options{}, f.replicas...)
	f.wantCalls(t, "cold start", 1)
	for i, old := range f.replicas[:2] {
		old.Signal(syscall.SIGTERM)
		old.Wait(t)
		f.replicas[i] = harness.New(t)
		f.run(t, options{}, f.replicas[i])
	}
	f.wantCalls(t, "rolling restart", 1)
	f.tokens.Revoke()
	f.wantCalls(t, "a revoked token", 2)
	if got := f.replicas[3].Logs(); strings.Contains(got, `"level":"error"`) {
		t.Error(got)
	}
}

// TestRefreshOfAFleet: each life of a token takes one token request.
func TestRefreshOfAFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, newRedis(t).storage())
	f.tokens.RespondWith(f.tokens.Grant(6 * time.Second))
	f.run(t, options{}, f.replicas...)
	began := time.Now()
	for f.tokens.Count() < 4 {
		if failed := call(t, f.replicas...); failed != nil {
			t.Fatalf("%d requests failed: %s", len(failed), failed[0])
		}
		if time.Since(began) > harness.Timeout {
			t.Fatal("the tokens are not refreshed")
		}
	}
	if took := time.Since(began); took < 8*time.Second {
		t.Errorf("4 token requests within %v, whose tokens live 6s", took)
	}
}

// TestDeadTokenEndpointOfAFleet: all replicas together make one attempt per step of the back-off.
func TestDeadTokenEndpointOfAFleet(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]http.Handler{
		"outage":         harness.Reply(http.StatusServiceUnavailable, "", "Retry-After", "1"),
		"invalid_client": harness.Refuse(http.StatusUnauthorized, "invalid_client"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 4, newRedis(t).storage())
			f.tokens.RespondWith(response)
			f.run(t, options{}, f.replicas...)
			for began := time.Now(); time.Since(began) < 6*time.Second; {
				if failed := call(t, f.replicas...); len(failed) != len(f.replicas) {
					t.Fatalf("only %d requests failed", len(failed))
				}
			}
			// After 0s, 1s, 3s: the next is due after 7s.
			if n := f.tokens.Count(); n < 2 || n > 4 {
				t.Errorf("%d token requests within 6s", n)
			}
			f.tokens.RespondWith(f.tokens.Grant(time.Hour))
			eventually(t, "all replicas work again", func() bool { return call(t, f.replicas...) == nil })
		})
	}
}

// TestHolderOfTheLockDies while the token endpoint is slow.
func TestHolderOfTheLockDies(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, newRedis(t).storage())
	var once sync.Once
	release := make(chan struct{})
	defer close(release)
	f.tokens.RespondWith(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := f.tokens.Grant(time.Hour)
		once.Do(func() { handler = harness.Blocked(release, handler) })
		handler.ServeHTTP(w, r)
	}))
	f.run(t, options{}, f.replicas...)
	holder, others := f.replicas[0], f.replicas[1:]
	go func() { _ = call(t, holder) }()
	f.tokens.Await(t, 1)
	holder.Signal(syscall.SIGKILL)
	began := time.Now()
	if failed := call(t, others...); failed != nil {
		t.Error(failed)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the others had a token after %v", took)
	}
	if n := f.tokens.Count(); n > 3 { // both others may have lost patience at the same moment
		t.Errorf("%d token requests", n)
	}
}

// TestStorageOfAFleetFails: it never makes a request fail, and is used again by itself.
func TestStorageOfAFleetFails(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), harness.FreePort(t)
	f := newFleet(t, 2, (&redis{port: port}).storage())
	f.run(t, options{}, f.replicas...) // Redis is down
	f.wantCalls(t, "down at the start", 2)
	server := startRedis(t, dir, port)
	f.awaitStorage(t)
	f.tokens.Revoke()
	f.wantCalls(t, "back again", 3)
	server.Signal(syscall.SIGKILL)
	server.Wait(t)
	f.wantCalls(t, "killed", 3)
	f.grow(t)
	f.wantCalls(t, "one more without Redis", 4)
	server = startRedis(t, dir, port)
	f.awaitStorage(t)
	f.grow(t)
	f.wantCalls(t, "one more with Redis", 4)
	server.Signal(syscall.SIGSTOP) // it hangs
	defer server.Signal(syscall.SIGCONT)
	f.grow(t)
	f.wantCalls(t, "one more while Redis hangs", 5)
}

// grow runs one more replica.
func (f *fleet) grow(t *testing.T) {
	t.Helper()
	f.replicas = append(f.replicas, harness.New(t))
	f.run(t, options{}, f.replicas[len(f.replicas)-1])
}

// awaitStorage waits until all replicas use the storage.
func (f *fleet) awaitStorage(t *testing.T) {
	t.Helper()
	for _, replica := range f.replicas {
		eventually(t, "the storage is used", func() bool { return sharedState(t, replica) == "on" })
	}
}

// sharedState is shared.state of the only connection of a replica.
func sharedState(t *testing.T, replica *harness.Sidecar) string {
	t.Helper()
	_, text, err := replica.Admin(http.MethodGet, "/http_helper/connections", "", "")
	if err != nil {
		return err.Error()
	}
	var connections []struct {
		Shared struct{ State string }
	}
	parse(t, []byte(text), &connections)
	return connections[0].Shared.State
}

// TestNothingReadableInTheStorage: neither tokens, secrets, ids nor names.
func TestNothingReadableInTheStorage(t *testing.T) {
	t.Parallel()
	server := newRedis(t)
	f := newFleet(t, 1, server.storage())
	f.run(t, options{connection: "name billing-of-acme"}, f.replicas...)
	f.wantCalls(t, "first use", 1)
	var stored string
	eventually(t, "a record is stored", func() bool {
		stored = readTree(t, server.dir)
		return strings.Contains(stored, "http_helper/tokens/")
	})
	for _, text := range []string{"token-1", secret, "my-client", "billing-of-acme", f.tokens.URL, f.api.URL} {
		if strings.Contains(stored, text) {
			t.Errorf("the storage shows %q", text)
		}
	}
}

func readTree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.WriteString(path + "\n")
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestRestartWithADirectory makes no token request, and neither does the rotation of the key.
func TestRestartWithADirectory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, "file_system {\nroot "+t.TempDir()+"\n}")
	f.timeout = patient
	restart := func(what string, requests int) {
		t.Helper()
		f.replicas[0].Signal(syscall.SIGTERM)
		f.replicas[0].Wait(t)
		f.replicas[0] = harness.New(t)
		f.run(t, options{}, f.replicas...)
		f.wantCalls(t, what, requests)
	}
	f.run(t, options{}, f.replicas...)
	f.wantCalls(t, "first start", 1)
	restart("restart", 1)
	old, next := f.keyFiles[0], f.newKey(t, "next")
	f.keyFiles = []string{old, next}
	restart("the new key second", 1)
	f.keyFiles = []string{next, old}
	restart("the new key first", 1)
	f.keyFiles = []string{next}
	restart("the old key dropped", 1)
	f.keyFiles = []string{f.newKey(t, "other")}
	restart("another key", 2)
}

// TestMistakesInShareTokens are errors at load that say what to do.
func TestMistakesInShareTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	good, short := w.File(t, "good", strings.Repeat("0f", 32)), w.File(t, "short", "c2hvcnQ=")
	for name, c := range map[string]struct{ block, want string }{
		"no key":            {"timeout 1s", "share_tokens: key_file is missing; make a key with: openssl rand -base64 32"},
		"missing key":       {"key_file " + good + "x", "no such file or directory; make a key with: openssl rand -base64 32"},
		"short key":         {"key_file " + short, "too short"},
		"unknown storage":   {"key_file " + good + "\nstorage rediss", "this Caddy has no storage module of this name"},
		"unknown option":    {"key_file " + good + "\nstorage file_system {\nrooot /tmp\n}", "rooot"},
		"no block":          {"", "share_tokens: has no block"},
		"timeout":           {"key_file " + good + "\ntimeout 10s", "timeout: must be between 50ms and 5s"},
		"unknown":           {"key_file " + good + "\nkeyfile x", "did you mean key_file?"},
		"an option of ours": {"key_file " + good + "\nclient_id x", "unrecognized subdirective client_id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := harness.New(t).Adapt(t, w.inline(options{global: "http_helper {\nshare_tokens {\n" + c.block + "\n}\n}"}))
			if err == nil || !strings.Contains(out+err.Error(), c.want) {
				t.Errorf("got %v %s", err, out)
			}
		})
	}
}
