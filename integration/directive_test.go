package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

func TestAccessTokenHeader(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ option, header, want string }{
		"bare field":  {"access_token_header X-Token", "X-Token", "token-1"},
		"with prefix": {"access_token_header X-Token Tok", "X-Token", "Tok token-1"},
		"own prefix":  {"access_token_header Authorization Token", "Authorization", "Token token-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachForm(t, options{directive: c.option}, func(t *testing.T, w *world) {
				w.api.Accept(nil)
				wantStatus(t, w.Get(t, "/", "x-token", "the app's", "Authorization", "Basic the-apps"), http.StatusOK)
				header := w.api.Last(t).Header
				if got := header[c.header]; !reflect.DeepEqual(got, []string{c.want}) {
					t.Errorf("%s at the API: %q, want %q", c.header, got, c.want)
				}
				if c.header != "Authorization" && header.Get("Authorization") != "" {
					t.Errorf("the app's Authorization reached the API: %q", header.Get("Authorization"))
				}
			})
		})
	}
}

func TestAppAuthorization(t *testing.T) {
	t.Parallel()
	send := func(t *testing.T, w *world) *harness.Response {
		t.Helper()
		w.api.Accept(nil)
		return w.Get(t, "/", "Authorization", "Basic the-apps", "Proxy-Authorization", "Basic x", "DPoP", "proof")
	}
	t.Run("replace", func(t *testing.T) {
		t.Parallel()
		eachForm(t, options{directive: "app_authorization replace"}, func(t *testing.T, w *world) {
			wantStatus(t, send(t, w), http.StatusOK)
			header := w.api.Last(t).Header
			equal(t, "Authorization", strings.Join(header["Authorization"], "|"), "Bearer token-1")
			for _, name := range []string{"Proxy-Authorization", "Dpop"} {
				if header.Get(name) != "" {
					t.Errorf("the app's %s reached the API", name)
				}
			}
		})
	})
	t.Run("keep", func(t *testing.T) {
		t.Parallel()
		eachForm(t, options{directive: "app_authorization keep"}, func(t *testing.T, w *world) {
			wantStatus(t, send(t, w), http.StatusOK)
			equal(t, "Authorization", strings.Join(w.api.Last(t).Header["Authorization"], "|"), "Basic the-apps")
			equal(t, "token requests", w.tokens.Count(), 0)
			wantStatus(t, w.Get(t, "/"), http.StatusOK)
			equal(t, "Authorization without the app's", w.api.Last(t).Header.Get("Authorization"), "Bearer token-1")
		})
	})
	t.Run("reject", func(t *testing.T) {
		t.Parallel()
		eachForm(t, options{directive: "app_authorization reject"}, func(t *testing.T, w *world) {
			wantSidecarError(t, send(t, w), http.StatusBadRequest, "http_request_error")
			equal(t, "API requests", w.api.Count(), 0)
			wantStatus(t, w.Get(t, "/"), http.StatusOK)
		})
	})
}

func TestAppCannotRemoveOurHeadersByConnection(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{service: "api_header X-Tenant t"})
	wantStatus(t, w.Get(t, "/", "Connection", "Authorization, X-Tenant", "Authorization", "Basic x"), http.StatusOK)
	header := w.api.Last(t).Header
	equal(t, "Authorization", header.Get("Authorization"), "Bearer token-1")
	equal(t, "X-Tenant", header.Get("X-Tenant"), "t")
}

func TestOnUnauthorizedPass(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{directive: "on_unauthorized pass"})
	w.wantOK(t)
	w.tokens.Revoke()
	wantStatus(t, w.Get(t, "/"), http.StatusUnauthorized)
	equal(t, "API requests", w.api.Count(), 2)
}

// TestAllowClients speaks the PROXY protocol, as a local load balancer does, so that the peer is
// another without leaving loopback.
func TestAllowClients(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{
		global:    "servers {\nlistener_wrappers {\nproxy_protocol {\nallow 127.0.0.0/8\n}\n}\n}",
		directive: "allow_clients 192.0.2.0/24 private_ranges",
	})
	for peer, want := range map[string]int{
		"127.0.0.1": http.StatusOK, "::1": http.StatusOK, "192.0.2.7": http.StatusOK, "10.1.2.3": http.StatusOK,
		"198.51.100.1": http.StatusForbidden, "2001:db8::1": http.StatusForbidden,
	} {
		family := "TCP4"
		if strings.Contains(peer, ":") {
			family = "TCP6"
		}
		prologue := fmt.Sprintf("PROXY %s %s %s 40000 80\r\n", family, peer, peer)
		response := w.raw(t, prologue+"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n")
		if want == http.StatusForbidden {
			wantSidecarError(t, response, want, "http_request_denied")
			continue
		}
		wantStatus(t, response, want)
	}
}

func TestOnlyLocalClientsByDefault(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{global: "servers {\ntrusted_proxies static 0.0.0.0/0\nlistener_wrappers {\nproxy_protocol {\nallow 127.0.0.0/8\n}\n}\n}"})
	response := w.raw(t, "PROXY TCP4 10.1.2.3 10.1.2.3 40000 80\r\nGET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n")
	wantSidecarError(t, response, http.StatusForbidden, "http_request_denied")
	equal(t, "API requests", w.api.Count(), 0)
	equal(t, "token requests", w.tokens.Count(), 0)
}

// raw sends bytes as they are and reads one response.
func (w *world) raw(t testing.TB, request string) *harness.Response {
	t.Helper()
	conn, err := net.Dial("tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the response to %q: %v", request, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &harness.Response{Response: res, Text: string(text)}
}

func TestConnectionChosenByPlaceholder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	other, otherTokens := harness.NewAPI(t, nil, nil), harness.NewTokenEndpoint(t, nil)
	const connection = "connection %s {\nbase_url %s\ntoken_url %s\nclient_id %[1]s-app\nclient_secret {env.SECRET}\n}\n"
	config := w.expand(options{}, harness.Config{
		Options: "http_helper {\n" + fmt.Sprintf(connection, "one", "$API/v1", "$TOKENS") +
			fmt.Sprintf(connection, "two", other.URL, otherTokens.URL) +
			fmt.Sprintf(connection, "hidden", other.URL, otherTokens.URL) + "}",
		Site: "http_helper {http.request.header.X-Connection} {\nconnections one two\n}",
	})
	w.Run(t, config)
	wantStatus(t, w.Get(t, "/a", "X-Connection", "one"), http.StatusOK)
	wantStatus(t, w.Get(t, "/b", "X-Connection", "two"), http.StatusOK)
	equal(t, "request URI of one", w.api.Last(t).RequestURI, "/v1/a")
	equal(t, "Authorization of one", w.tokens.Only(t).Header.Get("Authorization"), basicAuth("one-app", secret))
	equal(t, "request URI of two", other.Last(t).RequestURI, "/b")
	equal(t, "Authorization of two", otherTokens.Only(t).Header.Get("Authorization"), basicAuth("two-app", secret))
	for _, name := range []string{"hidden", "nobody", "", "one,two"} {
		wantSidecarError(t, w.Get(t, "/", "X-Connection", name), http.StatusBadRequest, "http_request_error")
	}
	equal(t, "requests of one", w.api.Count(), 1)
	equal(t, "requests of two", other.Count(), 1)
}

func TestTransportUsedByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.named(options{base: "/v2"})
	config.Site = "reverse_proxy " + w.api.URL + " {\ntransport http_helper {\nconnection billing\naccess_token_header X-Token\n}\n}"
	w.Run(t, config)
	w.api.Accept(nil)
	wantStatus(t, w.Get(t, "/a%2Fb?c=d", "X-Token", "mine"), http.StatusOK)
	r := w.api.Last(t)
	equal(t, "request URI", r.RequestURI, "/v2/a%2Fb?c=d")
	equal(t, "X-Token", strings.Join(r.Header["X-Token"], "|"), "token-1")

	wantSidecarError(t, w.raw(t, "GET /a/../../x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), http.StatusBadRequest, "http_request_error")
	w.tokens.RespondWith(harness.Refuse(http.StatusUnauthorized, "invalid_client"))
	config.Site = strings.Replace(config.Site, "billing", "broken", 1)
	config.Options = strings.Replace(config.Options, "connection billing", "connection broken", 1)
	config.Options = strings.Replace(config.Options, "client_id app", "client_id other", 1)
	if err := w.Reload(config); err != nil {
		t.Fatal(err)
	}
	wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
}

func TestTransportWithoutConnectionRefusesToSend(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.expand(options{}, harness.Config{Site: "reverse_proxy $API {\ntransport http_helper\n}"}))
	if got := w.Get(t, "/").StatusCode; got != http.StatusBadGateway {
		t.Errorf("status %d, want 502", got)
	}
	equal(t, "API requests", w.api.Count(), 0)
}

// TestReverseProxyOptions has options of reverse_proxy that pass through the directive.
func TestReverseProxyOptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		directive string
		check     func(t *testing.T, w *world)
	}{
		"header_up": {"header_up X-Extra extra\nheader_up X-Forwarded-For 192.0.2.1", func(t *testing.T, w *world) {
			w.wantOK(t)
			equal(t, "X-Extra", w.api.Last(t).Header.Get("X-Extra"), "extra")
			equal(t, "X-Forwarded-For", w.api.Last(t).Header.Get("X-Forwarded-For"), "192.0.2.1")
		}},
		"header_up cannot take the token away": {"header_up -A*\nheader_up X-Evil evil", func(t *testing.T, w *world) {
			w.wantOK(t)
			equal(t, "Authorization", strings.Join(w.api.Last(t).Header["Authorization"], "|"), "Bearer token-1")
		}},
		"header_down": {"header_down X-Down {http.reverse_proxy.status_code}", func(t *testing.T, w *world) {
			equal(t, "X-Down", w.Get(t, "/").Header.Get("X-Down"), "200")
		}},
		"handle_response": {"@gone status 410\nhandle_response @gone {\nrespond \"gone for good\" 404\n}", func(t *testing.T, w *world) {
			w.api.RespondWith(harness.Status(http.StatusGone))
			response := w.Get(t, "/")
			wantStatus(t, response, http.StatusNotFound)
			equal(t, "body", response.Text, "gone for good")
		}},
		"transport http": {"transport http {\nversions 1.1\ndial_timeout 2s\nresponse_header_timeout 300ms\n}", func(t *testing.T, w *world) {
			w.wantOK(t)
			w.api.RespondWith(harness.Slow(harness.Timeout, harness.Status(http.StatusOK)))
			response := w.Get(t, "/")
			wantStatus(t, response, http.StatusGatewayTimeout)
			equal(t, "Proxy-Status", strings.HasPrefix(response.Header.Get("Proxy-Status"), "http_helper; error=connection_timeout"), true)
		}},
		"to and lb_policy": {"to 127.0.0.1:$PORT\nlb_policy first\nlb_retries 1\nfail_duration 1s", func(t *testing.T, w *world) {
			w.wantOK(t)
			equal(t, "Host", w.api.Last(t).Host, w.api.Addr)
		}},
		"request_buffers and flush_interval": {"request_buffers 4KiB\nflush_interval -1", func(t *testing.T, w *world) {
			wantStatus(t, w.Send(t, http.MethodPost, "/", []byte("body")), http.StatusOK)
			equal(t, "length", w.api.Last(t).BodyLength, 4)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.Run(t, w.inline(options{directive: strings.ReplaceAll(c.directive, "$PORT", w.api.Port())}))
			c.check(t, w)
		})
	}
}

func TestMatcherOnTheDirective(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.named(options{})
	config.Site = "route {\nhttp_helper /api/* billing\nrespond \"not proxied\" 404\n}"
	w.Run(t, config)
	wantStatus(t, w.Get(t, "/api/x"), http.StatusOK)
	wantStatus(t, w.Get(t, "/other"), http.StatusNotFound)
	equal(t, "API requests", w.api.Count(), 1)
}

func TestHandleErrorsSeesOurErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Refuse(http.StatusUnauthorized, "invalid_client"))
	config := w.inline(options{})
	config.Site += "\nhandle_errors {\nrespond \"sorry: {err.status_code}\"\n}"
	w.Run(t, config)
	response := w.Get(t, "/")
	wantSidecarError(t, response, http.StatusBadGateway, "proxy_configuration_error")
	equal(t, "body", response.Text, "sorry: 502")
}

func TestUnreachableAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.api.URL = "http://127.0.0.1:" + harness.Port(t) // bound, but not listening
	w.Run(t, w.inline(options{}))
	response := w.Get(t, "/")
	wantStatus(t, response, http.StatusBadGateway)
	if got := response.Header.Get("Proxy-Status"); !strings.HasPrefix(got, "http_helper; error=destination_unavailable") {
		t.Errorf("Proxy-Status %q", got)
	}
}

func TestProxyStatusOfTheSameNameFromTheAPIIsRemoved(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.api.RespondWith(harness.Reply(http.StatusBadGateway, "{}", "Proxy-Status", `edge; received-status=502, http_helper; error=proxy_internal_error`))
	response := w.Get(t, "/")
	wantStatus(t, response, http.StatusBadGateway)
	got := strings.Join(response.Header["Proxy-Status"], ", ")
	if !strings.HasPrefix(got, "edge") || strings.Contains(got, "http_helper") {
		t.Errorf("Proxy-Status %q, want only the member of the edge", got)
	}
}

// TestSpellingsOfLoopback has the hosts that cleartext may be sent to.
func TestSpellingsOfLoopback(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "127.0.0.1", "[::ffff:127.0.0.1]"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			port := w.api.Port()
			w.api.URL = "http://" + host + ":" + port
			w.tokens.URL = strings.Replace(w.tokens.URL, "127.0.0.1", host, 1)
			w.Run(t, w.inline(options{}))
			w.wantOK(t)
			equal(t, "Host", w.api.Last(t).Host, host+":"+port)
		})
	}
}

// TestTransportUsedByHandWritesItsErrors has errors for which the transport, without the handler before
// it, writes the response itself; handle_errors does not see them.
func TestTransportUsedByHandWritesItsErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		response  http.Handler
		status    int
		errorType string
	}{
		"outage":        {harness.Refuse(http.StatusServiceUnavailable, "temporarily_unavailable"), http.StatusServiceUnavailable, "proxy_internal_error"},
		"configuration": {harness.Refuse(http.StatusUnauthorized, "invalid_client"), http.StatusBadGateway, "proxy_configuration_error"},
		"no response":   {harness.Slow(harness.Timeout, harness.Status(http.StatusOK)), http.StatusGatewayTimeout, "proxy_internal_error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.tokens.RespondWith(c.response)
			config := w.named(options{connection: "token_timeout 500ms"})
			config.Site = "reverse_proxy " + w.api.URL + " {\nfail_duration 60s\ntransport http_helper {\nconnection billing\n}\n}\nhandle_errors {\nrespond \"not this\" 418\n}"
			w.Run(t, config)
			wantSidecarError(t, w.Get(t, "/"), c.status, c.errorType)
			equal(t, "API requests", w.api.Count(), 0)
			// The API's health is untouched.
			w.tokens.RespondWith(w.tokens.Grant(time.Hour))
			eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK || name == "configuration" })
		})
	}
}
