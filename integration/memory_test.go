package integration

import (
	"encoding/json"
	"net/http"
	"testing"
)

// TestCodeThatStartsIsNotKept in memory: of what Linux maps of a Caddy's code when it starts, much is
// not needed any more.
func TestCodeThatStartsIsNotKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.inline(options{}))
	w.wantOK(t)
	resident, size, huge := w.ResidentCode(t)
	if huge > size/2 {
		t.Skip("the program lies in huge pieces in the page cache, which Linux maps in whole")
	}
	t.Logf("%d of %d KiB, %d in huge pieces", resident, size, huge)
	if resident == 0 || resident > size/2 {
		t.Errorf("%d of %d KiB are resident", resident, size)
	}
	w.wantOK(t)
}

// TestGarbageGathers up to a point that lies higher than Go's usual one, unless GOGC says where it is.
func TestGarbageGathers(t *testing.T) {
	t.Parallel()
	usual, higher := nextCollection(t, "GOGC=100"), nextCollection(t)
	if higher < usual+6<<20 {
		t.Errorf("garbage is collected when the heap has %d bytes, and %d with GOGC=100", higher, usual)
	}
}

// nextCollection is how large the heap of a new sidecar may get before garbage is collected.
func nextCollection(t *testing.T, env ...string) uint64 {
	t.Helper()
	w := newWorld(t, nil)
	w.Run(t, w.inline(options{env: env}))
	var vars struct {
		Memory struct{ NextGC uint64 } `json:"memstats"`
	}
	for _, path := range []string{"/debug/pprof/heap?gc=1", "/debug/vars"} { // the first collects garbage
		_, answer, err := w.Admin(http.MethodGet, path, "", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal([]byte(answer), &vars)
	}
	return vars.Memory.NextGC
}
