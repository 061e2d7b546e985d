package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestTheAppMayStartFirst has an app call before there is a sidecar, and before there are tokens. From
// the moment that the listener is up the app learns when to come again.
func TestTheAppMayStartFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Status(http.StatusServiceUnavailable))
	first := make(chan *harness.Response, 1)
	go func() {
		for {
			req, _ := http.NewRequest(http.MethodGet, w.URL+"/hello", nil)
			response, err := w.Do(req)
			if errors.Is(err, syscall.ECONNREFUSED) && t.Context().Err() == nil {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Errorf("the first thing that the app sees is neither a refused connection nor a response: %v", err)
			}
			first <- response
			return
		}
	}()
	w.Run(t, w.inline(options{}))
	response := <-first
	if response == nil {
		return
	}
	wantSidecarError(t, response, http.StatusServiceUnavailable, "proxy_internal_error")
	wait, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || wait < 1 {
		t.Fatalf("Retry-After %q", response.Header.Get("Retry-After"))
	}
	w.tokens.RespondWith(w.tokens.Grant(time.Hour))
	time.Sleep(time.Duration(wait) * time.Second) // as the app was told
	w.wantOK(t)
}

// TestTerminationDrains has the sidecar end while a response is on its way: the app gets all of it, new
// connections are refused, and then the process is gone.
func TestTerminationDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	rest := make(chan struct{})
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "first\n")
		_ = http.NewResponseController(rw).Flush()
		<-rest
		_, _ = io.WriteString(rw, "last\n")
	}))
	w.Run(t, w.inline(options{global: "grace_period 20s"}))
	res, err := w.Client.Get(w.URL + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body := bufio.NewReader(res.Body)
	if line, err := body.ReadString('\n'); err != nil || line != "first\n" {
		t.Fatalf("%q, %v", line, err)
	}
	w.Signal(syscall.SIGTERM)
	eventually(t, "new connections are refused", func() bool {
		conn, err := net.Dial("tcp", w.Addr)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	select {
	case <-w.Exited():
		t.Fatal("the sidecar has left its app alone")
	default:
	}
	close(rest)
	if text, err := io.ReadAll(body); err != nil || string(text) != "last\n" {
		t.Errorf("the rest of the response: %q, %v", text, err)
	}
	wantExit(t, w)
	if !strings.Contains(w.Logs(), `"exit_code":0`) {
		t.Error("the sidecar did not end well")
	}
}

// TestTheGracePeriodEnds has the sidecar end although a response does not.
func TestTheGracePeriodEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	}))
	w.Run(t, w.inline(options{global: "grace_period 500ms"}))
	res, err := w.Client.Get(w.URL + "/endless")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	w.Signal(syscall.SIGTERM)
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a response that was cut off looks complete")
	}
	wantExit(t, w)
}

func wantExit(t *testing.T, w *world) {
	t.Helper()
	select {
	case <-w.Exited():
	case <-time.After(harness.Timeout):
		t.Fatal("the sidecar is still running")
	}
}

// TestTheEndRevokesNothing: a connection is removed by a configuration without it. The sidecar is about to
// come back with its connections, or another one may have been given the same tokens.
func TestTheEndRevokesNothing(t *testing.T) {
	t.Parallel()
	const connections = 20
	w := newWorld(t, nil)
	revocation := harness.NewTokenEndpoint(t, nil)
	var global, site strings.Builder
	global.WriteString("http_helper {\n")
	for i := range connections {
		fmt.Fprintf(&global, "connection c%d {\nbase_url $API\ntoken_url $TOKENS\nrevocation_url %s\nclient_id app%d\nclient_secret {env.SECRET}\n}\n", i, revocation.URL, i)
		fmt.Fprintf(&site, "handle_path /%d/* {\nhttp_helper c%d\n}\n", i, i)
	}
	w.Run(t, w.expand(options{}, harness.Config{Options: global.String() + "}", Site: site.String()}))
	for i := range connections {
		wantStatus(t, w.Get(t, fmt.Sprintf("/%d/x", i)), http.StatusOK)
	}
	if status, _, err := w.Admin(http.MethodPost, "/stop", "", ""); err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	equal(t, "exit code", w.Wait(t), 0)
	equal(t, "revocations", revocation.Count(), 0)
}
