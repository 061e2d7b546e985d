package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// withFlow is a connector whose config values come from helper flows, with the discovery service's
// URL as %s, and are used in every place where they are allowed. Two values share a flow.
const withFlow = `
	parameter tenant text
	parameter pass password
	config_value shard text {
		flow shard_of
	}
	config_value place text {
		flow shard_of
	}
	config_value greeting text {
		hidden
		flow greet
	}
	flow shard_of request POST %s/{param.tenant} {
		header X-Pass {param.pass}
		body "tenant={param.tenant}"
		pointer /data/0/shard
		timeout 500ms
	}
	flow greet template "hello {{.param.tenant | upper}}"
	token_request_param shard {config.shard}
	api_header X-Shard {config.place}
	api_header X-Greeting {config.greeting}`

// startWithFlow is a world whose token endpoint and API are reached by paths that a flow finds out.
func startWithFlow(t *testing.T) (w *world, service *harness.API) {
	t.Helper()
	w, service = newWorld(t, nil), harness.NewAPI(t, nil, nil)
	service.RespondWith(harness.Reply(http.StatusOK, `{"data":[{"shard":"s 7"}]}`))
	config := w.named(options{
		base: "/{config.shard}", service: fmt.Sprintf(withFlow, service.URL),
		connection: "parameter tenant \"a b\"\nparameter pass {env.PASS}", env: []string{"PASS=p"},
	})
	config.Options = strings.Replace(config.Options, w.tokens.URL, w.tokens.Base+"/{config.shard}/token", 1)
	w.Run(t, config)
	return w, service
}

func TestValuesOfFlowsArriveWhereTheyStand(t *testing.T) {
	t.Parallel()
	w, service := startWithFlow(t)
	service.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != "tenant=a b" {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(rw, `{"data":[{"shard":"s 7"}]}`)
	}))
	for range 3 {
		wantStatus(t, w.Get(t, "/x"), http.StatusOK)
	}
	r := w.api.Last(t)
	equal(t, "request URI", r.RequestURI, "/s%207/x")
	equal(t, "X-Shard", r.Header.Get("X-Shard"), "s 7")
	equal(t, "X-Greeting", r.Header.Get("X-Greeting"), "hello A B")
	tokenRequest := w.tokens.Only(t)
	equal(t, "token URL", tokenRequest.RequestURI, "/s%207/token")
	equal(t, "shard in the token request", tokenRequest.Form().Get("shard"), "s 7")
	// The result is remembered for all values that share it, and the flow does not authenticate as the
	// connection.
	equal(t, "requests of the flow", service.Count(), 1)
	flowRequest := service.Last(t)
	equal(t, "method", flowRequest.Method, http.MethodPost)
	equal(t, "request URI", flowRequest.RequestURI, "/a%20b")
	equal(t, "X-Pass", flowRequest.Header.Get("X-Pass"), "p")
	equal(t, "Authorization", flowRequest.Header.Get("Authorization"), "")
}

func TestAFailingFlowIsAFailedTokenRequestThatNamesIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		response  http.Handler
		status    int
		errorType string
	}{
		"down":          {harness.Status(http.StatusInternalServerError), http.StatusServiceUnavailable, "proxy_internal_error"},
		"slow":          {nil, http.StatusServiceUnavailable, "proxy_internal_error"},
		"refused":       {harness.Status(http.StatusForbidden), http.StatusBadGateway, "proxy_configuration_error"},
		"redirect":      {harness.Reply(http.StatusFound, "", "Location", "/elsewhere"), http.StatusBadGateway, "proxy_configuration_error"},
		"no JSON":       {harness.Reply(http.StatusOK, "<html>"), http.StatusBadGateway, "proxy_configuration_error"},
		"no such value": {harness.Reply(http.StatusOK, `{"data":[]}`), http.StatusBadGateway, "proxy_configuration_error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, service := startWithFlow(t)
			if c.response == nil {
				c.response = harness.Blocked(t.Context().Done(), harness.Status(http.StatusOK))
			}
			service.RespondWith(c.response)
			response := w.Get(t, "/x")
			if name == "slow" && response.StatusCode == http.StatusGatewayTimeout {
				c.status = response.StatusCode // a timeout either way
			}
			wantSidecarError(t, response, c.status, c.errorType)
			if details := response.Header.Get("Proxy-Status"); !strings.Contains(details, "shard_of") {
				t.Errorf("Proxy-Status %q does not name the flow", details)
			}
			equal(t, "token requests", w.tokens.Count(), 0)
			equal(t, "API requests", w.api.Count(), 0)
		})
	}
}

// TestTokensAreReplacedWhileAFlowIsDown has the service of a flow fail after its first response.
// The result is remembered, so that no request fails.
func TestTokensAreReplacedWhileAFlowIsDown(t *testing.T) {
	t.Parallel()
	w, service := startWithFlow(t)
	w.tokens.RespondWith(w.tokens.Grant(time.Second))
	w.wantOK(t)
	service.RespondWith(harness.Status(http.StatusInternalServerError))
	for w.tokens.Count() < 4 {
		w.wantOK(t)
	}
	equal(t, "requests of the flow", service.Count(), 1)
}

// TestAFlowThatComesBack has a connection that is down because of a flow recover as from an outage of
// the token endpoint.
func TestAFlowThatComesBack(t *testing.T) {
	t.Parallel()
	w, service := startWithFlow(t)
	service.RespondWith(harness.Status(http.StatusInternalServerError))
	wantSidecarError(t, w.Get(t, "/x"), http.StatusServiceUnavailable, "proxy_internal_error")
	o := &operator{world: w, User: harness.NewUser(t), admin: "unix/" + w.AdminSocket()}
	const reason = "flow shard_of: its server responded with status 500"
	want(t, o.command(t, "list"), 1, "billing cannot get a token: "+reason+"\n", "It ends by itself once that server responds as it should. If it never has, fix what is named here.")
	want(t, o.command(t, "ping", "billing"), 1, "billing does not work: there is no token: "+reason+".\n")
	w.WaitLog(t, `"reason":"`+reason+`"`)
	service.RespondWith(harness.Reply(http.StatusOK, `{"data":[{"shard":"s7"}]}`))
	want(t, o.command(t, "refresh", "billing"), 0, "billing has a new token")
	w.wantOK(t)
	w.WaitLog(t, "getting tokens works again")
}

// TestHostileFlowResultsStayInTheirPlace has values that would leave their place in a URL (rule 7).
func TestHostileFlowResultsStayInTheirPlace(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"..", "a/../b", "%2e%2e", "..\\\\x", "a\\u0000b", "a\\nb"} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			w, service := startWithFlow(t)
			service.RespondWith(harness.Reply(http.StatusOK, `{"data":[{"shard":"`+value+`"}]}`))
			if got := w.Get(t, "/x").StatusCode; got != http.StatusBadGateway {
				t.Errorf("status %d, want 502", got)
			}
			equal(t, "API requests", w.api.Count(), 0)
		})
	}
}
