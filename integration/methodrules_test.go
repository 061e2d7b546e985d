package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestEveryMethodKeepsTheRules takes the connections of all methods through the lifecycle of a sidecar:
// a redirect, a refusal, a first token, a crowd, a failing refresh, an API that rejects the token, a
// reload. Token requests are counted, and looked at in the end.
func TestEveryMethodKeepsTheRules(t *testing.T) {
	t.Parallel()
	w := newMethodsWorld(t)
	w.Run(t, w.config("token_timeout 30s"))
	for _, rule := range []struct {
		name  string
		check func(*methodsWorld, *testing.T)
	}{
		{"a redirect gets nothing", (*methodsWorld).checkRedirect},
		{"a refusal is an error, and no second method is tried", (*methodsWorld).checkRefusal},
		{"changed credentials end the back-off, and a crowd shares one token request", (*methodsWorld).checkCrowd},
		{"a failed refresh is silent", (*methodsWorld).checkFailedRefresh},
		{"a rejected token is replaced and the request replayed", (*methodsWorld).checkReplay},
		{"a reload costs no token request", (*methodsWorld).checkReload},
		{"every token request has proved the client by its method, and freshly", func(w *methodsWorld, t *testing.T) { w.wantProofs(t) }},
	} {
		if !t.Run(rule.name, func(t *testing.T) { rule.check(w, t) }) {
			return
		}
	}
}

// wantAnother counts the token requests that each method makes meanwhile.
func (w *methodsWorld) wantAnother(t *testing.T, count int, meanwhile func(t testing.TB, m *clientMethod)) {
	t.Helper()
	w.each(t, func(t testing.TB, m *clientMethod) {
		before := len(w.requestsOf(m))
		meanwhile(t, m)
		equal(t, "further token requests", len(w.requestsOf(m))-before, count)
	})
}

func (w *methodsWorld) checkRedirect(t *testing.T) {
	elsewhere := harness.NewTokenEndpoint(t, w.ca)
	w.tokens.RespondWith(harness.Reply(http.StatusTemporaryRedirect, "", "Location", elsewhere.URL))
	w.wantAnother(t, 1, func(t testing.TB, m *clientMethod) {
		response := w.Get(t, "/"+m.name+"/x")
		wantSidecarError(t, response, http.StatusBadGateway, "proxy_configuration_error")
		if status := response.Header.Get("Proxy-Status"); !strings.Contains(status, "redirect") {
			t.Errorf("Proxy-Status %q", status)
		}
	})
	equal(t, "requests elsewhere", elsewhere.Count(), 0)
}

func (w *methodsWorld) checkRefusal(t *testing.T) {
	w.tokens.RespondWith(harness.Reply(http.StatusUnauthorized, `{"error":"invalid_client"}`, "WWW-Authenticate", "Basic", "Retry-After", "300"))
	w.wantAnother(t, 1, func(t testing.TB, m *clientMethod) {
		status, response, err := w.Admin(http.MethodPost, "/http_helper/connections/"+m.name+"/refresh", "", "")
		if err != nil || status != http.StatusBadGateway || !strings.Contains(response, "invalid_client") {
			t.Errorf("status %d, %s, %v", status, response, err)
		}
		wantSidecarError(t, w.Get(t, "/"+m.name+"/x"), http.StatusBadGateway, "proxy_configuration_error")
	})
}

func (w *methodsWorld) checkCrowd(t *testing.T) {
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, w.grant(time.Hour)))
	before := w.tokens.Count()
	var crowd sync.WaitGroup
	for _, m := range w.methods {
		if m.renew == nil {
			continue
		}
		w.rotate(t, m)
		for range 20 {
			crowd.Go(func() {
				if !soon(func() bool { return w.try("/"+m.name+"/x").status == http.StatusOK }) {
					t.Errorf("%s does not recover", m.name)
				}
			})
		}
	}
	changed := len(w.methods) - 1
	w.tokens.Await(t, before+changed)
	close(release)
	crowd.Wait()
	equal(t, "token requests", w.tokens.Count(), before+changed)
	for _, m := range w.methods {
		if m.renew == nil {
			w.refresh(t, m)
			continue
		}
		requests := w.requestsOf(m)
		equal(t, m.name+": credentials", m.proves(requests[len(requests)-1]), 1)
	}
}

func (w *methodsWorld) refresh(t testing.TB, m *clientMethod) {
	t.Helper()
	status, response, err := w.Admin(http.MethodPost, "/http_helper/connections/"+m.name+"/refresh", "", "")
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d, %s, %v", m.name, status, response, err)
	}
}

func (w *methodsWorld) checkFailedRefresh(t *testing.T) {
	w.tokens.RespondWith(harness.Refuse(http.StatusInternalServerError, "server_error"))
	// One attempt is up to three requests.
	var refreshes sync.WaitGroup
	for _, m := range w.methods {
		refreshes.Go(func() {
			status, _, err := w.Admin(http.MethodPost, "/http_helper/connections/"+m.name+"/refresh", "", "")
			if err != nil || status != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d, %v", m.name, status, err)
			}
		})
	}
	refreshes.Wait()
	w.wantAnother(t, 0, func(t testing.TB, m *clientMethod) {
		wantStatus(t, w.Get(t, "/"+m.name+"/x"), http.StatusOK)
	})
	w.tokens.RespondWith(w.grant(time.Hour))
	for _, m := range w.methods {
		w.refresh(t, m)
	}
}

func (w *methodsWorld) checkReplay(t *testing.T) {
	time.Sleep(10 * time.Second) // a token that is younger is not replaced, but the one before it is tried
	w.tokens.Revoke()
	w.wantAnother(t, 1, func(t testing.TB, m *clientMethod) {
		before := len(w.apiRequestsOf(m))
		body := []byte("the body of " + m.name)
		wantStatus(t, w.Send(t, http.MethodPut, "/"+m.name+"/x", body), http.StatusOK)
		requests := w.apiRequestsOf(m)[before:]
		if len(requests) != 2 || requests[1].BodySHA256 != harness.SHA256(body) {
			t.Fatalf("the API saw %+v", requests)
		}
		proofs := [2]string{requests[0].Header.Get("DPoP"), requests[1].Header.Get("DPoP")}
		if (proofs[0] != "") != m.dpop || (proofs[0] == proofs[1]) == m.dpop {
			t.Errorf("proofs of possession: %q", proofs)
		}
		bound := strings.Contains(m.options, "tls_client_auth")
		for _, r := range requests {
			if (len(r.TLS.PeerCertificates) > 0) != bound {
				t.Errorf("the API saw %d certificates", len(r.TLS.PeerCertificates))
			}
		}
	})
}

func (w *methodsWorld) apiRequestsOf(m *clientMethod) []harness.APIRequest {
	var own []harness.APIRequest
	for _, r := range w.api.Requests() {
		if strings.HasPrefix(r.RequestURI, "/"+m.name+"/") {
			own = append(own, r)
		}
	}
	return own
}

func (w *methodsWorld) checkReload(t *testing.T) {
	before := w.tokens.Count()
	if err := w.Reload(w.config("token_timeout 20s")); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.methods {
		wantStatus(t, w.Get(t, "/"+m.name+"/x"), http.StatusOK)
	}
	equal(t, "token requests after the reload", w.tokens.Count(), before)
}

// TestCredentialsOfEveryMethodRotateUnderLoad replaces what is on disk while requests run and tokens
// expire all the time. Keys and certificates are replaced as badly as people do: one file after the
// other, each written in two halves. No request fails.
func TestCredentialsOfEveryMethodRotateUnderLoad(t *testing.T) {
	t.Parallel()
	w := newMethodsWorld(t)
	w.tokens.RespondWith(w.grant(3 * time.Second)) // on a busy machine a token may take more than a second to arrive
	w.Run(t, w.config(""))
	loads := make(map[*clientMethod]*load)
	for _, m := range w.methods {
		loads[m] = w.startLoadOf(t, "/"+m.name+"/x", 1, 20*time.Millisecond)
	}
	for generation := 1; generation <= 2; generation++ {
		var all sync.WaitGroup
		for _, m := range w.methods {
			all.Go(func() { w.rotateSlowly(t, m) })
		}
		all.Wait()
		for _, m := range w.methods {
			if m.renew == nil {
				continue
			}
			eventually(t, "a token request of "+m.name+" with new credentials", func() bool {
				requests := w.requestsOf(m)
				return m.proves(requests[len(requests)-1]) == generation
			})
		}
	}
	for m, l := range loads {
		t.Run(m.name, func(t *testing.T) { wantAllOK(t, l.stop()) })
	}
	w.wantProofs(t)
}

// rotateSlowly replaces a method's credentials. What is half written goes unnoticed when it is a key
// or a certificate; secrets and assertions have no form that would tell, and are replaced at once.
func (w *methodsWorld) rotateSlowly(t *testing.T, m *clientMethod) {
	if m.renew == nil {
		return
	}
	for _, file := range m.renew(t) {
		if strings.HasPrefix(file.content, "-----BEGIN") || strings.HasPrefix(file.content, "{") {
			half := file.content[:len(file.content)/2]
			if err := os.WriteFile(filepath.Join(w.Dir, file.name), []byte(half), 0o600); err != nil {
				t.Error(err)
			}
			// The time in which tokens end and the halves are read.
			time.Sleep(time.Second)
		}
		w.File(t, file.name, file.content)
	}
}
