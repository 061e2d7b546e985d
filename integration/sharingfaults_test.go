package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// What a fleet meets: an API that rejects everything, a storage that hangs, records that somebody has changed.

// TestAnAPIThatRejectsEverythingCostsAFleetNextToNothing: one token request in ten seconds for all replicas
// together. The app gets the API's 401.
func TestAnAPIThatRejectsEverythingCostsAFleetNextToNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, newRedis(t).storage())
	f.timeout = patient
	f.run(t, options{}, f.replicas...)
	f.wantCalls(t, "before", 1)
	f.api.Accept(func(string) bool { return false })
	for began := time.Now(); time.Since(began) < 14*time.Second; {
		for _, failed := range callEach(t, f.replicas...) {
			if failed.status != http.StatusUnauthorized || failed.err != nil {
				t.Fatalf("%v, want the API's 401", failed)
			}
		}
	}
	requests := f.tokens.Requests()
	if n := len(requests); n < 2 || n > 3 {
		t.Errorf("%d token requests", n)
	}
	for i := 2; i < len(requests); i++ {
		if pause := requests[i].At.Sub(requests[i-1].At); pause < 9500*time.Millisecond {
			t.Errorf("token requests %v apart", pause)
		}
	}
}

// callEach makes a request to every replica at the same time.
func callEach(t *testing.T, replicas ...*harness.Sidecar) []outcome {
	t.Helper()
	outcomes := make([]outcome, len(replicas))
	var calling sync.WaitGroup
	for i, replica := range replicas {
		calling.Go(func() { outcomes[i] = (&world{Sidecar: replica}).try("/") })
	}
	calling.Wait()
	return outcomes
}

// TestAStorageThatHangsDelaysARequestOnce: while Redis stands still, every request succeeds, and none waits
// for it longer than once, with generous room for everything else.
func TestAStorageThatHangsDelaysARequestOnce(t *testing.T) {
	const storageTimeout = 500 * time.Millisecond // the default
	server := newRedis(t)
	f := newFleet(t, 3, server.storage())
	f.run(t, options{}, f.replicas...)
	f.wantCalls(t, "before", 1)
	var loads []*load
	for _, replica := range f.replicas {
		loads = append(loads, (&world{Sidecar: replica}).startLoad(t, 3, 10*time.Millisecond))
	}
	time.Sleep(200 * time.Millisecond)
	server.Signal(syscall.SIGSTOP)
	defer server.Signal(syscall.SIGCONT)
	f.tokens.Revoke() // each replica needs another token
	time.Sleep(4 * storageTimeout)
	f.grow(t) // and a new one its first
	outcomes := callEach(t, f.replicas[len(f.replicas)-1])
	time.Sleep(storageTimeout)
	for _, l := range loads {
		outcomes = append(outcomes, l.stop()...)
	}
	wantAllOK(t, outcomes)
	var longest time.Duration
	for _, o := range outcomes {
		longest = max(longest, o.ended.Sub(o.began))
	}
	t.Logf("%d requests, the longest took %v", len(outcomes), longest)
	if longest > 3*storageTimeout {
		t.Errorf("a request took %v, the storage may take %v", longest, storageTimeout)
	}
	if longest < storageTimeout/2 {
		t.Error("nobody has waited for the storage")
	}
	equal(t, "token requests", f.tokens.Count(), 1+len(f.replicas))
}

// records are the records in Redis, as its own clients see them.
type records struct{ client *goredis.Client }

func (r *redis) records(t *testing.T) records {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:" + r.port})
	t.Cleanup(func() { _ = client.Close() })
	return records{client}
}

// keys returns the keys of all records, once there are so many.
func (r records) keys(t *testing.T, count int) []string {
	t.Helper()
	var keys []string
	eventually(t, fmt.Sprint(count, " records"), func() bool {
		all, err := r.client.Keys(context.Background(), "*http_helper/tokens/*").Result()
		keys = all
		return err == nil && len(all) == count
	})
	return keys
}

func (r records) get(t *testing.T, key string) string {
	t.Helper()
	value, err := r.client.Get(context.Background(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func (r records) set(t *testing.T, key, value string) {
	t.Helper()
	if err := r.client.Set(context.Background(), key, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// awaitChange waits until a record is another one.
func (r records) awaitChange(t *testing.T, key, old string) {
	t.Helper()
	eventually(t, "the record is overwritten", func() bool { return r.get(t, key) != old })
}

// changeSealed changes what is sealed in a record, and leaves what the storage module adds to it.
func changeSealed(t *testing.T, record string, change func([]byte) []byte) string {
	t.Helper()
	var fields map[string]json.RawMessage
	parse(t, []byte(record), &fields)
	var sealed []byte
	parse(t, fields["value"], &sealed)
	changed, err := json.Marshal(change(slices.Clone(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	fields["value"] = changed
	all, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// TestDamagedRecordsCountAsAbsent: a new replica requests a token of its own, says so once, and overwrites it.
func TestDamagedRecordsCountAsAbsent(t *testing.T) {
	t.Parallel()
	server := newRedis(t)
	f := newFleet(t, 1, server.storage())
	f.timeout = patient
	f.run(t, options{}, f.replicas...)
	f.wantCalls(t, "first use", 1)
	records := server.records(t)
	key := records.keys(t, 1)[0]
	sealed := func(change func([]byte) []byte) func(string) string {
		return func(record string) string { return changeSealed(t, record, change) }
	}
	for _, c := range []struct {
		name   string
		change func(record string) string
	}{
		{"first byte", sealed(func(b []byte) []byte { b[0] ^= 1; return b })},
		{"byte in the middle", sealed(func(b []byte) []byte { b[len(b)/2] ^= 0x80; return b })},
		{"last byte", sealed(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
		{"truncated", sealed(func(b []byte) []byte { return b[:len(b)/2] })},
		{"longer", sealed(func(b []byte) []byte { return append(b, 0) })},
		{"empty", sealed(func([]byte) []byte { return []byte{} })},
		{"truncated with what the module adds", func(record string) string { return record[:len(record)/2] }},
		{"nothing of the module's", func(string) string { return "hunter2" }},
	} {
		damaged := c.change(records.get(t, key))
		records.set(t, key, damaged)
		requests := f.tokens.Count()
		f.grow(t)
		f.wantCalls(t, c.name, requests+1)
		records.awaitChange(t, key, damaged)
		f.wantOneWarning(t, c.name)
		equal(t, c.name+": state", sharedState(t, f.replicas[len(f.replicas)-1]), "on")
	}
	requests := f.tokens.Count()
	f.grow(t)
	f.wantCalls(t, "overwritten", requests)
}

// wantOneWarning checks what the newest replica says about a record that does not open.
func (f *fleet) wantOneWarning(t *testing.T, what string) {
	t.Helper()
	logs := f.replicas[len(f.replicas)-1].Logs()
	equal(t, what+": warnings", strings.Count(logs, "a shared token cannot be opened and counts as absent"), 1)
}

// TestARecordOfAnotherConnectionCountsAsAbsent: nobody gets the token of another client.
func TestARecordOfAnotherConnectionCountsAsAbsent(t *testing.T) {
	t.Parallel()
	server := newRedis(t)
	f := newFleet(t, 2, server.storage())
	f.timeout = patient
	f.run(t, options{}, f.replicas[0])
	f.run(t, options{connection: "client_id other"}, f.replicas[1])
	records := server.records(t)
	equal(t, "failed", len(call(t, f.replicas[0])), 0)
	first := records.keys(t, 1)[0]
	f.wantCalls(t, "two clients", 2)
	keys := records.keys(t, 2)
	second := keys[0]
	if second == first {
		second = keys[1]
	}
	moved := records.get(t, first)
	records.set(t, second, moved)
	newcomer := harness.New(t)
	f.replicas = append(f.replicas, newcomer)
	f.run(t, options{connection: "client_id other"}, newcomer)
	f.wantCalls(t, "a record that was moved", 3)
	records.awaitChange(t, second, moved)
	f.wantOneWarning(t, "a record that was moved")
	for _, request := range f.tokens.Requests()[1:] {
		if id, _, _ := clientOf(request); id != "other" {
			t.Errorf("a token request of %s", id)
		}
	}
}

// clientOf returns the client of a token request with HTTP Basic.
func clientOf(request *harness.TokenRequest) (id, password string, ok bool) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header = request.Header
	return r.BasicAuth()
}

// TestAnOlderCopyOfARecord is not preferred to a newer current token. Who has none adopts it; if it was revoked
// meanwhile, that costs one token request.
func TestAnOlderCopyOfARecord(t *testing.T) {
	t.Parallel()
	server := newRedis(t)
	f := newFleet(t, 2, server.storage())
	f.timeout = patient
	f.run(t, options{}, f.replicas...)
	f.wantCalls(t, "first use", 1)
	records := server.records(t)
	key := records.keys(t, 1)[0]
	older := records.get(t, key)
	f.tokens.Revoke()
	f.wantCalls(t, "a revoked token", 2)
	records.awaitChange(t, key, older)
	records.set(t, key, older)
	f.wantCalls(t, "an older copy", 2)
	f.grow(t)
	f.wantCalls(t, "a newcomer with an older copy", 3)
	records.awaitChange(t, key, older)
	f.grow(t)
	f.wantCalls(t, "one more", 3)
	if logs := f.replicas[2].Logs(); strings.Contains(logs, "cannot be opened") {
		t.Error("an older copy counts as damaged")
	}
}

// TestNothingLeaksWhileSharing: no secret, token, key or password is in what the sidecars say with debug.
func TestNothingLeaksWhileSharing(t *testing.T) {
	t.Parallel()
	l := newLeaks()
	clientSecret, password := l.secret("client secret"), l.token("password of Redis")
	dir, port := t.TempDir(), harness.FreePort(t)
	protected := []string{"--requirepass", password}
	server := startRedis(t, dir, port, protected...)
	f := newFleet(t, 2, "redis {\nhost 127.0.0.1\nport "+port+"\npassword {env.REDIS_PASSWORD}\n}")
	f.timeout = patient
	l.add("key", strings.TrimSpace(readFile(t, f.keyFiles[0])))
	f.api.Accept(nil)
	f.tokens.RespondWith(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		harness.Reply(http.StatusOK, map[string]any{"access_token": l.token("token"), "expires_in": 3600}).ServeHTTP(w, nil)
	}))
	o := options{
		global: "debug\nmetrics", secretLine: "client_secret {env.SHARED_SECRET}",
		env: []string{"SHARED_SECRET=" + clientSecret, "REDIS_PASSWORD=" + password},
	}
	grow := func() {
		t.Helper()
		f.replicas = append(f.replicas, harness.New(t))
		f.run(t, o, f.replicas[len(f.replicas)-1])
	}
	f.run(t, o, f.replicas...)
	f.wantCalls(t, "cold start", 1)
	grow()
	f.wantCalls(t, "adopted", 1)
	f.api.RespondWith(harness.Status(http.StatusUnauthorized))
	_ = call(t, f.replicas...)
	f.api.RespondWith(harness.Status(http.StatusOK))
	f.tokens.RespondWith(harness.Refuse(http.StatusServiceUnavailable, "temporarily_unavailable"))
	_, refusal, _ := f.replicas[0].Admin(http.MethodPost, "/http_helper/connections/"+nameOf(t, f.replicas[0])+"/refresh", "", "")
	server.Signal(syscall.SIGKILL)
	server.Wait(t)
	grow()
	_ = call(t, f.replicas...)
	startRedis(t, dir, port, protected...)
	f.awaitStorage(t)
	outputs := map[string]string{"refresh": refusal}
	for i, replica := range f.replicas {
		for _, path := range []string{"/http_helper/connections", "/metrics", "/config/"} {
			_, text, err := replica.Admin(http.MethodGet, path, "", "")
			outputs[fmt.Sprint(path, " of ", i)] = text + fmt.Sprint(err)
		}
		outputs[fmt.Sprint("log of ", i)] = replica.Logs()
	}
	for where, text := range outputs {
		if found := l.in(text); found != nil {
			t.Errorf("%s: found %q", where, found)
		}
	}
	for _, want := range []string{`"level":"debug"`, "the token storage fails and is left alone", "the token storage works again"} {
		if !strings.Contains(outputs["log of 3"], want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

// nameOf returns the name of the only connection of a replica.
func nameOf(t *testing.T, replica *harness.Sidecar) string {
	t.Helper()
	_, text, err := replica.Admin(http.MethodGet, "/http_helper/connections", "", "")
	if err != nil {
		t.Fatal(err)
	}
	var connections []struct{ Name string }
	parse(t, []byte(text), &connections)
	return connections[0].Name
}
