package integration

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// proofClaims are what a DPoP proof says, as far as these tests look at it.
type proofClaims struct {
	ID    string `json:"jti"`
	Nonce string `json:"nonce"`
}

// proofOf is what the request's DPoP proof says, unverified.
func proofOf(t testing.TB, header http.Header) proofClaims {
	t.Helper()
	var claims proofClaims
	proof, err := jwt.ParseSigned(header.Get("DPoP"), []jose.SignatureAlgorithm{jose.ES256})
	if err == nil {
		err = proof.UnsafeClaimsWithoutVerification(&claims)
	}
	if err != nil {
		t.Errorf("a proof: %v", err)
	}
	return claims
}

// dpopTokens grants tokens that are bound to a key.
func (w *world) dpopTokens(lifetime time.Duration) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		harness.Reply(http.StatusOK, map[string]any{
			"access_token": w.tokens.Issue(lifetime), "token_type": "DPoP", "expires_in": int(lifetime.Seconds()),
		}).ServeHTTP(rw, r)
	})
}

// wantNonce responds that another nonce is required: this one.
func wantNonce(rw http.ResponseWriter, nonce string) {
	rw.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce", error_description="another nonce is wanted"`)
	rw.Header().Set("DPoP-Nonce", nonce)
	rw.WriteHeader(http.StatusUnauthorized)
}

// TestNoncesOfTwoServersAtOneOrigin: a token endpoint and an API behind one host have nonces of their
// own (RFC 9449 §9). A body that is too large for a replay arrives, whichever server gave a nonce last.
func TestNoncesOfTwoServersAtOneOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	tokens := w.dpopTokens(time.Hour)
	w.tokens.URL = w.api.URL + "/token"
	w.api.Accept(nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			if proofOf(t, r.Header).Nonce != "of-the-api" {
				wantNonce(rw, "of-the-api")
			}
			return
		}
		rw.Header().Set("DPoP-Nonce", "of-the-tokens")
		if proofOf(t, r.Header).Nonce != "of-the-tokens" {
			harness.Refuse(http.StatusBadRequest, "use_dpop_nonce").ServeHTTP(rw, r)
			return
		}
		tokens.ServeHTTP(rw, r)
	}))
	w.Run(t, w.named(options{connection: "dpop"}))
	w.wantOK(t)
	for range 2 {
		before := w.api.Count()
		status, response, err := w.Admin(http.MethodPost, "/http_helper/connections/billing/refresh", "", "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("status %d, %s, %v", status, response, err)
		}
		wantStatus(t, w.Send(t, http.MethodPut, "/x", make([]byte, 1<<20)), http.StatusOK)
		equal(t, "requests for a refresh and an upload", w.api.Count()-before, 2)
	}
}

// TestNonceForTheNewerToken: an API looks at the token before it looks at the nonce. The newer token's
// first proof lacks the nonce, which the sidecar cannot know yet.
func TestNonceForTheNewerToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(w.dpopTokens(time.Hour))
	w.Run(t, w.inline(options{connection: "dpop"}))
	w.wantOK(t)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if proofOf(t, r.Header).Nonce != "n-1" {
			wantNonce(rw, "n-1")
		}
	}))
	w.tokens.Revoke()
	before := w.api.Count()
	wantStatus(t, w.Send(t, http.MethodPost, "/x", []byte("body")), http.StatusOK)
	equal(t, "API requests", w.api.Count()-before, 3)
	equal(t, "token requests", w.tokens.Count(), 2)
}

// TestNonceThatIsNotGiven: without a nonce to put into it a second proof would be as good as the first.
func TestNonceThatIsNotGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(w.dpopTokens(time.Hour))
	w.api.RespondWith(harness.Reply(http.StatusUnauthorized, "", "WWW-Authenticate", `DPoP error="use_dpop_nonce"`))
	w.Run(t, w.inline(options{connection: "dpop"}))
	wantStatus(t, w.Get(t, "/x"), http.StatusUnauthorized)
	equal(t, "API requests", w.api.Count(), 1)
}

// TestNonceIsNothingToABearerToken: its connection takes every 401 for a rejection (rule 18).
func TestNonceIsNothingToABearerToken(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.wantOK(t)
	rejected := harness.Bearer(w.api.Last(t).Header)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if harness.Bearer(r.Header) == rejected {
			wantNonce(rw, "n-1")
		}
	}))
	w.wantOK(t)
}

// TestProofsAreNotRepeatedByTheHTTPClient: when a connection that was in use before ends without a response,
// net/http sends the request once more by itself. The API may have seen the first one's proof.
func TestProofsAreNotRepeatedByTheHTTPClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(w.dpopTokens(time.Hour))
	api := serveOncePerConnection(t)
	w.api.URL = "http://" + api.address
	w.Run(t, w.inline(options{connection: "dpop"}))
	for range 3 {
		w.wantOK(t)
	}
	seen := map[string]bool{}
	requests := api.requests()
	if len(requests) < 5 {
		t.Errorf("the API saw %d requests, so none was repeated", len(requests))
	}
	for _, header := range requests {
		id := proofOf(t, header).ID
		if seen[id] {
			t.Error("a proof came twice")
		}
		seen[id] = true
	}
}

// fickleAPI responds to the first request of each connection, reads the second and hangs up.
type fickleAPI struct {
	address string

	mu      sync.Mutex
	headers []http.Header
}

func serveOncePerConnection(t *testing.T) *fickleAPI {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	api := &fickleAPI{address: listener.Addr().String()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go api.serve(conn)
		}
	}()
	return api
}

func (a *fickleAPI) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for _, response := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""} {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		a.mu.Lock()
		a.headers = append(a.headers, r.Header)
		a.mu.Unlock()
		if _, err := strings.NewReader(response).WriteTo(conn); err != nil {
			return
		}
	}
}

func (a *fickleAPI) requests() []http.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]http.Header(nil), a.headers...)
}
