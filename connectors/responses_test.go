package connectors_test

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// tokenResponses are the responses of a service's token endpoint in testdata/responses.json. From says
// where their form was seen; with "RFC 6749" it was seen nowhere.
type tokenResponses struct {
	From    string        `json:"from"`
	Granted tokenResponse `json:"granted"`
	Refused tokenResponse `json:"refused"`
}

// tokenResponse is a response, and what is to be made of it.
type tokenResponse struct {
	Status int            `json:"status"`
	Body   map[string]any `json:"body"` // $SCOPE in it means the requested scopes

	Lifetime  int    `json:"lifetime"`  // of the token, in seconds
	Confirmed bool   `json:"confirmed"` // whether scopes are listed
	Code      string `json:"code"`      // that the error shows
	Outage    bool   `json:"outage"`    // whether the error is one
}

// readResponses returns the responses by connector.
func readResponses(t *testing.T) map[string]tokenResponses {
	t.Helper()
	content, err := os.ReadFile("connectors/testdata/responses.json")
	if err != nil {
		t.Fatal(err)
	}
	var responses map[string]tokenResponses
	if err := json.Unmarshal(content, &responses); err != nil {
		t.Fatal(err)
	}
	return responses
}

// handler responds as the service does.
func (r tokenResponse) handler(t *testing.T, scopes string) http.HandlerFunc {
	t.Helper()
	body, err := json.Marshal(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(body), "$SCOPE", scopes)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		w.WriteHeader(r.Status)
		_, _ = w.Write([]byte(text))
	}
}

// TestConnectorResponses tries each connector against a token endpoint that responds as the service does,
// when it grants a token and when it refuses one.
func TestConnectorResponses(t *testing.T) {
	internet := startInternet(t)
	responses := readResponses(t)
	for _, s := range snippets(t) {
		service, ok := responses[s.name]
		if !ok || service.From == "" {
			t.Errorf("%s: testdata/responses.json does not say how its token endpoint responds", s.name)
			continue
		}
		delete(responses, s.name)
		t.Run(s.name+" granted", func(t *testing.T) { s.checkGranted(t, internet, service.Granted) })
		t.Run(s.name+" refused", func(t *testing.T) { s.checkRefused(t, internet, service.Refused) })
	}
	for name := range responses {
		t.Errorf("there is no connector %s", name)
	}
}

// probe loads the connector and makes a request through it.
func (s snippet) probe(t *testing.T, internet *internet, response tokenResponse) (socket string, got *http.Response) {
	t.Helper()
	internet.respond(response.handler(t, s.scopes()))
	t.Cleanup(func() { internet.respond(nil) })
	socket = s.load(t, internet)
	internet.forget()
	got, err := clientOf(socket).Get("http://sidecar/probe")
	if err != nil {
		t.Fatal(err)
	}
	got.Body.Close()
	return socket, got
}

func (s snippet) checkGranted(t *testing.T, internet *internet, response tokenResponse) {
	socket, got := s.probe(t, internet, response)
	if got.StatusCode != http.StatusOK {
		t.Fatalf("status %d, Proxy-Status %q", got.StatusCode, got.Header.Get("Proxy-Status"))
	}
	s.checkAPIRequest(t, internet.seen()[1])
	shown, err := clientOf(adminSocket(socket)).Get("http://caddy/http_helper/connections/test")
	if err != nil {
		t.Fatal(err)
	}
	defer shown.Body.Close()
	var connection struct {
		Scopes struct {
			Confirmed *bool `json:"confirmed"`
		} `json:"scopes"`
		Token struct {
			Obtained time.Time `json:"obtained"`
			Expires  time.Time `json:"expires"`
		} `json:"token"`
	}
	if err := json.NewDecoder(shown.Body).Decode(&connection); err != nil {
		t.Fatal(err)
	}
	if lifetime := connection.Token.Expires.Sub(connection.Token.Obtained); lifetime.Round(time.Second) != time.Duration(response.Lifetime)*time.Second {
		t.Errorf("the token lives %v, want %d s", lifetime, response.Lifetime)
	}
	if confirmed := connection.Scopes.Confirmed; confirmed == nil || *confirmed != response.Confirmed {
		// Where no scope is requested, none is echoed.
		if response.Body["scope"] != "$SCOPE" || s.scopes() != "" {
			t.Errorf("confirmed: %v, want %t", confirmed, response.Confirmed)
		}
	}
}

func (s snippet) checkRefused(t *testing.T, internet *internet, response tokenResponse) {
	_, got := s.probe(t, internet, response)
	want := http.StatusBadGateway
	if response.Outage {
		want = http.StatusServiceUnavailable
	}
	details := got.Header.Get("Proxy-Status")
	if got.StatusCode != want || response.Code != "" && !strings.Contains(details, "("+response.Code+")") {
		t.Errorf("status %d, want %d; Proxy-Status %q, want the code %q", got.StatusCode, want, details, response.Code)
	}
	if seen := internet.seen(); len(seen) != 1 {
		t.Errorf("%d requests, want only that for a token: %v", len(seen), seen)
	}
}

// respond sets what the stand-in responds to token requests.
func (in *internet) respond(tokens http.HandlerFunc) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.tokens = tokens
}
