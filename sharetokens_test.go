package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// fakeStorage is the module caddy.storage.fake, which keeps everything in memory. Its directory is that of
// a storage in files, which does the work.
type fakeStorage struct {
	Root string `json:"root,omitempty"`
}

// fakeStorages is what all of them do now.
var fakeStorages struct {
	mu         sync.Mutex
	provision  func(n int) error // called with the number of the call, the first is 1
	provisions int
	cleanups   int
	locked     []string // files of locks at the last cleanup
}

func init() { caddy.RegisterModule(fakeStorage{}) }

func (fakeStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.fake", New: func() caddy.Module { return new(fakeStorage) }}
}

// Provision implements caddy.Provisioner.
func (*fakeStorage) Provision(caddy.Context) error {
	fakeStorages.mu.Lock()
	fakeStorages.provisions++
	provision, n := fakeStorages.provision, fakeStorages.provisions
	fakeStorages.mu.Unlock()
	if provision == nil {
		return nil
	}
	return provision(n)
}

// Cleanup implements caddy.CleanerUpper.
func (s *fakeStorage) Cleanup() error {
	fakeStorages.mu.Lock()
	defer fakeStorages.mu.Unlock()
	fakeStorages.cleanups++
	fakeStorages.locked, _ = filepath.Glob(filepath.Join(s.Root, "locks", "*"))
	return nil
}

// CertMagicStorage implements caddy.StorageConverter.
func (s *fakeStorage) CertMagicStorage() (certmagic.Storage, error) {
	return &certmagic.FileStorage{Path: s.Root}, nil
}

// provisionFakes sets what Provision of the fake storages does in this test.
func provisionFakes(t *testing.T, provision func(n int) error) {
	t.Helper()
	set := func(provision func(n int) error) {
		fakeStorages.mu.Lock()
		defer fakeStorages.mu.Unlock()
		fakeStorages.provision, fakeStorages.provisions, fakeStorages.cleanups = provision, 0, 0
	}
	set(provision)
	t.Cleanup(func() { set(nil) })
}

// fakeCounts returns how often a fake storage was provisioned and cleaned up in this test.
func fakeCounts() (provisions, cleanups int) {
	fakeStorages.mu.Lock()
	defer fakeStorages.mu.Unlock()
	return fakeStorages.provisions, fakeStorages.cleanups
}

const goodKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"

// withShareTokens adds share_tokens to a Caddyfile, with a good key and these lines.
func withShareTokens(t *testing.T, caddyfile, lines string) string {
	t.Helper()
	options := "\thttp_helper {\n\t\tshare_tokens {\n\t\t\tkey_file " + writeFile(t, "key", goodKey) + "\n\t\t\t" + lines + "\n\t\t}\n\t}\n"
	return "{\n" + options + "}\n" + caddyfile
}

// fakeJSON is the JSON of a Caddyfile with share_tokens and a fake storage.
func fakeJSON(t *testing.T, caddyfile, root string) []byte {
	t.Helper()
	config, err := adaptQuietly(withShareTokens(t, caddyfile, ""))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(config, &all); err != nil {
		t.Fatal(err)
	}
	app := all["apps"].(map[string]any)["http_helper"].(map[string]any)
	app["share_tokens"].(map[string]any)["storage"] = map[string]any{"module": "fake", "root": root}
	return caddyconfig.JSON(all, nil)
}

func TestErrorsInShareTokens(t *testing.T) {
	key := "key_file " + writeFile(t, "key", goodKey) + "\n"
	short := writeFile(t, "short", "c2hvcnQ=\n")
	in := func(lines string) string { return inGlobal("share_tokens {\n" + lines + "\n}") }
	checkAdaptErrors(t, []adaptError{
		{"argument", inGlobal("share_tokens x {\n" + key + "}"), []string{"http_helper: share_tokens: takes no argument", "at Caddyfile:3"}},
		{"no block", inGlobal("share_tokens"), []string{"http_helper: share_tokens: has no block", "at Caddyfile:3"}},
		{"twice", inGlobal("share_tokens {\n" + key + "}\nshare_tokens {\n" + key + "}"), []string{"http_helper: share_tokens: is given more than once, at Caddyfile:6"}},
		{"in a connection", inConnection("share_tokens"), []string{"unrecognized subdirective share_tokens", "at Caddyfile:8"}},
		{"unknown option", in(key + "keyfile x"), []string{"share_tokens: unrecognized subdirective keyfile (did you mean key_file?), at Caddyfile:5"}},
		{"no key", in("timeout 1s"), []string{"share_tokens: key_file is missing; make a key with: openssl rand -base64 32, at Caddyfile:3"}},
		{"key without a path", in("key_file"), []string{"share_tokens: key_file: takes exactly one argument", "at Caddyfile:4"}},
		{"key of a parameter", in("key_file {param.key}"), []string{"share_tokens: key_file: ", "at Caddyfile:4"}},
		{"no duration", in(key + "timeout soon"), []string{"share_tokens: timeout: must be a duration above zero", "at Caddyfile:5"}},
		{"too short a timeout", in(key + "timeout 49ms"), []string{"share_tokens: timeout: must be between 50ms and 5s, at Caddyfile:5"}},
		{"too long a timeout", in(key + "timeout 5001ms"), []string{"share_tokens: timeout: must be between 50ms and 5s, at Caddyfile:5"}},
		{"storage without a name", in(key + "storage {\n}"), []string{"share_tokens: storage: takes the name of a storage module, at Caddyfile:5"}},
		{"unknown storage", in(key + "storage rediss"), []string{"share_tokens: storage: this Caddy has no storage module of this name; build it in", "at Caddyfile:5"}},
		{"unknown option of a storage", in(key + "storage file_system {\nrooot x\n}"), []string{"rooot", "Caddyfile:6"}},
		{"storage for JSON only", in(key + "storage fake"), []string{"share_tokens: storage: this module can be configured in JSON only, at Caddyfile:5"}},
		{
			"several", in("key_file " + short + "\n" + key + "timeout 6s\nstorage rediss"),
			[]string{
				"share_tokens: timeout: must be between 50ms and 5s, at Caddyfile:6", "share_tokens: storage: this Caddy has no storage module of this name",
				"share_tokens: key_file: " + short + ": the key is too short: read as base64 it has 5 bytes instead of 32; make one with: openssl rand -base64 32, at Caddyfile:4",
			},
		},
	})
}

// TestErrorsInShareTokensAtLoad: these need the files of the place where the config runs, or are of JSON.
func TestErrorsInShareTokensAtLoad(t *testing.T) {
	good, short := writeFile(t, "key", goodKey), writeFile(t, "short", "c2hvcnQ=\n")
	for name, c := range map[string]struct{ json, want string }{
		"no key":             {`{}`, "share_tokens: key_file is missing; make a key with: openssl rand -base64 32"},
		"missing key":        {`{"key_files": ["` + good + `x"]}`, "share_tokens: key_file: "},
		"short key":          {`{"key_files": ["` + good + `", "` + short + `"]}`, "too short"},
		"variable":           {`{"key_files": ["{env.HTTP_HELPER_UNSET}"]}`, "HTTP_HELPER_UNSET"},
		"too short":          {`{"key_files": ["` + good + `"], "timeout": 1000}`, "share_tokens: timeout: must be between 50ms and 5s"},
		"negative":           {`{"key_files": ["` + good + `"], "timeout": "-1s"}`, "share_tokens: timeout: must be between 50ms and 5s"},
		"too long":           {`{"key_files": ["` + good + `"], "timeout": "6s"}`, "share_tokens: timeout: must be between 50ms and 5s"},
		"no object":          {`{"key_files": ["` + good + `"], "storage": "redis"}`, "share_tokens: storage: must be an object"},
		"no module":          {`{"key_files": ["` + good + `"], "storage": {}}`, "share_tokens: storage: the name of a module is missing"},
		"unknown module":     {`{"key_files": ["` + good + `"], "storage": {"module": "rediss"}}`, "share_tokens: storage: this Caddy has no storage module of this name"},
		"unknown option":     {`{"key_files": ["` + good + `"], "storage": {"module": "fake", "rooot": "x"}}`, "rooot"},
		"unknown subsetting": {`{"key_file": "x"}`, "key_file"},
	} {
		t.Run(name, func(t *testing.T) {
			err := caddy.Validate(shareConfig(t, c.json))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	for name, json := range map[string]string{
		"smallest": `{"key_files": ["` + good + `"], "timeout": "50ms"}`,
		"largest":  `{"key_files": ["` + good + `", "` + good + `"], "timeout": "5s", "storage": {"module": "fake", "root": "x"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := caddy.Validate(shareConfig(t, json)); err != nil {
				t.Error(err)
			}
		})
	}
}

func shareConfig(t *testing.T, share string) *caddy.Config {
	t.Helper()
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(`{"admin": {"disabled": true}, "apps": {"http_helper": {"share_tokens": `+share+`}}}`), cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestShareTokensInTheStorageOfThisCaddy, which is the default.
func TestShareTokensInTheStorageOfThisCaddy(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	root := t.TempDir()
	caddyfile := strings.Replace(withShareTokens(t, inline(a, e, ""), "timeout 5s"), "{\n", "{\n\tstorage file_system {\n\t\troot "+root+"\n\t}\n", 1)
	wantOKFrom(t, runSidecar(t, caddyfile))
	eventually(t, "a record in the storage of this Caddy", func() bool { return len(tokenRecords(t, root)) == 1 })
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	wantOKFrom(t, runSidecar(t, caddyfile))
	wantRequests(t, e, 1)
}

// TestKeyFileThatIsGoneAfterTheLoad: the key of the load is the last good one.
func TestKeyFileThatIsGoneAfterTheLoad(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	root := t.TempDir()
	config := withShareTokens(t, inline(a, e, ""), "timeout 5s\nstorage file_system "+root)
	key := regexp.MustCompile(`key_file (\S+)`).FindStringSubmatch(config)[1]
	site := runSidecar(t, config)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	wantOKFrom(t, site)
	eventually(t, "a record in the storage", func() bool { return len(tokenRecords(t, root)) == 1 })
	shared := sharedOf(t)
	if last := fmt.Sprint(shared["last_error"]); shared["state"] != "on" || !strings.HasSuffix(last, "; the last good keys stay in use") {
		t.Errorf("shared is %v", shared)
	}
}

func tokenRecords(t *testing.T, root string) []string {
	t.Helper()
	storage := &certmagic.FileStorage{Path: root}
	keys, _ := storage.List(context.Background(), "http_helper/tokens", true) // there may be none
	return keys
}

func wantOKFrom(t *testing.T, site string) {
	t.Helper()
	if res, body := call(t, http.MethodGet, site+"/", nil); res.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", res.StatusCode, body)
	}
}

func wantRequests(t *testing.T, e *fakeIdP, want int64) {
	t.Helper()
	if got := e.requests.Load(); got != want {
		t.Errorf("%d token requests, want %d", got, want)
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// loadFake loads a config with a fake storage. It must not wait for that.
func loadFake(t *testing.T, config []byte) {
	t.Helper()
	t.Cleanup(func() { _ = caddy.Stop() })
	began := time.Now()
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("loading took %v", took)
	}
}

// TestStorageModuleThatFails keeps no config from loading and no request from succeeding, and is provisioned
// again.
func TestStorageModuleThatFails(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("hunter2") },
		"panic": func() error { panic("hunter2") },
	} {
		t.Run(name, func(t *testing.T) {
			e, a := newIdP(t), newAPI(t, nil)
			provisionFakes(t, func(n int) error {
				if n == 1 {
					return fail()
				}
				return nil
			})
			site, root := "http://"+freeAddress(t), t.TempDir()
			loadFake(t, fakeJSON(t, onPort(inline(a, e, ""), site), root))
			wantOKFrom(t, site)
			shared := sharedOf(t)
			if text := fmt.Sprint(shared["last_error"]); shared["state"] == "degraded" && (strings.Contains(text, "hunter2") || !strings.Contains(text, "provision")) {
				t.Errorf("last error %q", text)
			}
			eventually(t, "provisioned again", func() bool { return sharedOf(t)["state"] == "on" })
			if n, _ := fakeCounts(); n != 2 {
				t.Errorf("provisioned %d times", n)
			}
			if status, body := refreshedAny(t); status != http.StatusOK {
				t.Fatalf("refresh: %d %s", status, body)
			}
			eventually(t, "a record is stored", func() bool { return len(tokenRecords(t, root)) == 1 })
		})
	}
}

// TestStorageModuleThatHangs is waited for by nobody, and is used once it is there.
func TestStorageModuleThatHangs(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	release := make(chan struct{})
	provisionFakes(t, func(int) error {
		<-release
		return nil
	})
	site, root := "http://"+freeAddress(t), t.TempDir()
	loadFake(t, fakeJSON(t, onPort(inline(a, e, ""), site), root))
	began := time.Now()
	wantOKFrom(t, site)
	if took := time.Since(began); took > 1500*time.Millisecond { // three times what the storage may take
		t.Errorf("the request took %v", took)
	}
	if shared := sharedOf(t); shared["state"] != "degraded" {
		t.Errorf("shared %v", shared)
	}
	close(release)
	eventually(t, "the storage is used", func() bool { return sharedOf(t)["state"] == "on" })
	if n, _ := fakeCounts(); n != 1 {
		t.Errorf("provisioned %d times", n)
	}
}

// TestStorageModuleIsCleanedUp when its config is gone, however far it came.
func TestStorageModuleIsCleanedUp(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	provisionFakes(t, nil)
	site := "http://" + freeAddress(t)
	loadFake(t, fakeJSON(t, onPort(inline(a, e, ""), site), t.TempDir()))
	wantOKFrom(t, site)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "cleaned up", func() bool {
		provisions, cleanups := fakeCounts()
		return provisions == 1 && cleanups == 1
	})
}

// TestLocksAreReleasedBeforeTheStorageCloses: Caddy may clean up its own storage before the app.
func TestLocksAreReleasedBeforeTheStorageCloses(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	e.respond(func(http.ResponseWriter, int64) { <-t.Context().Done() }) // never
	provisionFakes(t, nil)
	site, root := "http://"+freeAddress(t), t.TempDir()
	config := string(fakeJSON(t, onPort(inline(a, e, "warm"), site), root))
	own := `"storage":{"module":"fake","root":"` + root + `"}`
	config = `{` + own + `,` + strings.TrimPrefix(strings.Replace(config, `,`+own, ``, 1), "{")
	loadFake(t, []byte(config))
	locked := func() []string {
		files, _ := filepath.Glob(filepath.Join(root, "locks", "*"))
		return files
	}
	eventually(t, "the lock is held", func() bool { return e.requests.Load() == 1 && len(locked()) == 1 })
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	fakeStorages.mu.Lock()
	defer fakeStorages.mu.Unlock()
	if fakeStorages.cleanups != 1 || len(fakeStorages.locked) != 0 {
		t.Errorf("%d cleanups, locks %q", fakeStorages.cleanups, fakeStorages.locked)
	}
}

// sharedOf is what the admin API says of the only connection.
func sharedOf(t *testing.T) map[string]any {
	t.Helper()
	var all []map[string]any
	adminJSON(t, "GET", "/http_helper/connections", &all)
	return all[0]["shared"].(map[string]any)
}

func refreshedAny(t *testing.T) (status int, body string) {
	t.Helper()
	var all []map[string]any
	adminJSON(t, "GET", "/http_helper/connections", &all)
	status, _, body = admin(t, "POST", "/http_helper/connections/"+fmt.Sprint(all[0]["name"])+"/refresh")
	return status, body
}

// TestSharedTokenIsNotRevoked, neither at a refresh nor when its connection is removed: others use it.
func TestSharedTokenIsNotRevoked(t *testing.T) {
	for _, shares := range []bool{true, false} {
		t.Run(fmt.Sprint("shares ", shares), func(t *testing.T) {
			a, revoked := newAPI(t, nil), newAPI(t, nil)
			e := newIdP(t)
			caddyfile := inline(a, e, "name billing\n\t\trevocation_url "+revoked.URL+"/revoke")
			if shares {
				caddyfile = withShareTokens(t, caddyfile, "timeout 5s\n\t\t\tstorage file_system {\n\t\t\t\troot "+t.TempDir()+"\n\t\t\t}")
			}
			site := runSidecar(t, caddyfile)
			wantOKFrom(t, site)
			if status, body := refreshed(t); status != http.StatusOK {
				t.Fatalf("refresh: %d %s", status, body)
			}
			wantRequests(t, e, 2)
			tokens := &activeApp().active["billing"].tokens
			loadCaddyfile(t, onPort("SITE {\n\trespond gone 410\n}\n", site)) // it revokes the second one
			if shares {
				if current := tokens.source.Current(); current == nil || !tokens.source.Shares(current) {
					t.Error("the token is not shared")
				}
				time.Sleep(300 * time.Millisecond) // there is no event for what does not happen
				if n := len(revoked.seen()); n != 0 {
					t.Errorf("%d tokens revoked", n)
				}
				return
			}
			eventually(t, "both tokens revoked", func() bool { return len(revoked.seen()) == 2 })
		})
	}
}

// TestModulesOfStoragesQuoteNothing that may be a secret.
func TestModulesOfStoragesQuoteNothing(t *testing.T) {
	for options, want := range map[string]string{
		"file_system {\nroot correct horse-hunter2\n}": "does not understand its options",
		"file_system a hunter2":                        "does not understand its options",
		"file_system {\nrooot x\n}":                    "rooot",
	} {
		_, err := adapt("{\n\thttp_helper {\n\t\tshare_tokens {\n\t\t\tkey_file k\n\t\t\tstorage " + options + "\n\t\t}\n\t}\n}\n")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", options, err)
		}
	}
}
