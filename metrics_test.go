package httphelper

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// series are the values of our metrics in the running config's registry, by name and labels; of a
// histogram the number of observations.
func series(t *testing.T) map[string]float64 {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), "caddy_http_helper_")
		if !ours {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			values[name+" "+strings.Join(labels, " ")] = value
		}
	}
	return values
}

// wantSeries compares some series with what there is.
func wantSeries(t *testing.T, want map[string]float64) {
	t.Helper()
	got := series(t)
	for name, value := range want {
		if actual, ok := got[name]; !ok || actual != value {
			t.Errorf("%s is %v (%v), want %v", name, actual, ok, value)
		}
	}
}

func TestRequestsCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name counted\n\t\tapp_authorization keep")+
		strings.Replace(inline(a, e, "name chosen\n\t\tapp_authorization reject"), "SITE {", "unused.example:0 {", 1))
	wantSeries(t, map[string]float64{
		"token_requests_total connection=counted result=ok":            0,
		"token_requests_total connection=counted result=configuration": 0,
		"token_requests_total connection=counted result=outage":        0,
		"requests_total connection=counted outcome=sent":               0,
		"requests_total connection=chosen outcome=sent":                0,
		"unauthorized_total connection=counted outcome=passed":         0,
	})
	if _, there := series(t)["token_expiry_timestamp_seconds connection=counted"]; there {
		t.Error("a token that is not there expires")
	}

	e.answers(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	})
	call(t, "GET", site+"/", nil)
	e.answers(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("t%d", n), 3600) })
	refreshed := map[string]any{}
	adminJSON(t, "POST", "/http_helper/connections/counted/refresh", &refreshed)
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/", nil, "Authorization", "Bearer app")
	call(t, "GET", site+"/%2e%2e/", nil)
	wantSeries(t, map[string]float64{
		"token_requests_total connection=counted result=ok":            1,
		"token_requests_total connection=counted result=configuration": 1,
		"token_requests_total connection=counted result=outage":        0,
		"token_request_duration_seconds connection=counted":            2,
		"requests_total connection=counted outcome=sent":               2,
		"requests_total connection=counted outcome=kept":               1,
		"requests_total connection=counted outcome=no_token":           1,
		"requests_total connection=counted outcome=refused":            1,
		"requests_total connection=chosen outcome=sent":                0,
		"token_expiry_timestamp_seconds connection=counted": float64(timeIn(t, refreshed["token"].(map[string]any), "expires").Unix()) +
			fractionOfExpiry(t, "counted"),
	})
}

// fractionOfExpiry is what the admin API does not show of a token's expiry.
func fractionOfExpiry(t *testing.T, name string) float64 {
	t.Helper()
	expires := activeApp().active[name].tokens.source.Status().Expires
	return float64(expires.UnixMilli())/1000 - float64(expires.Truncate(time.Second).Unix())
}

func TestUnknownConnectionCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, strings.Replace(crm(a, e, "", ""), "http_helper billing\n", "http_helper {header.X-Connection} {\n\t\tconnections billing\n\t}\n", 1))
	before := series(t)["requests_total connection= outcome=refused"]
	call(t, "GET", site+"/", nil, "X-Connection", "secret-of-the-app")
	call(t, "GET", site+"/", nil, "X-Connection", "billing")
	wantSeries(t, map[string]float64{
		"requests_total connection= outcome=refused":        before + 1,
		"requests_total connection=billing outcome=refused": 0,
		"requests_total connection=billing outcome=sent":    1,
	})
	for name := range series(t) {
		if strings.Contains(name, "secret-of-the-app") {
			t.Error(name)
		}
	}
}

func TestUnauthorizedCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("t2"))
	site := runSidecar(t, inline(a, e, "name c"))
	call(t, "GET", site+"/", nil)
	wantSeries(t, map[string]float64{
		"unauthorized_total connection=c outcome=replayed": 1,
		"unauthorized_total connection=c outcome=passed":   0,
		"requests_total connection=c outcome=sent":         1,
	})

	a2 := newAPI(t, rejects("none"))
	site = runSidecar(t, inline(a2, e, "name d\n\t\ton_unauthorized pass\n\t\tapp_authorization keep"))
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/", nil, "Authorization", "Bearer app") // the app's token, not ours
	wantSeries(t, map[string]float64{
		"unauthorized_total connection=d outcome=replayed": 0,
		"unauthorized_total connection=d outcome=passed":   1,
	})
}

func TestUnreachableAPICounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c\n\t\tlb_retries 2"))
	a.Close()
	call(t, "GET", site+"/", nil)
	wantSeries(t, map[string]float64{
		"requests_total connection=c outcome=sent":    1,
		"requests_total connection=c outcome=refused": 0,
	})
}

func TestForbiddenRequestsCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c\n\t\tto 127.0.0.1:1")) // in the clear elsewhere
	call(t, "GET", site+"/", nil)
	wantSeries(t, map[string]float64{
		"requests_total connection=c outcome=sent":    0,
		"requests_total connection=c outcome=refused": 1,
	})
}

func TestRequestsOfTransportByHandCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	address := strings.TrimPrefix(a.URL, "http://")
	site := runSidecar(t, strings.Replace(crm(a, e, "", ""), "http_helper billing\n",
		"reverse_proxy "+address+" {\n\t\thealth_uri /up\n\t\ttransport http_helper {\n\t\t\tconnection billing\n\t\t}\n\t}\n", 1))
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/%2e%2e/", nil)
	wantSeries(t, map[string]float64{
		"requests_total connection=billing outcome=sent":    1,
		"requests_total connection=billing outcome=refused": 1,
	})
}

// Values survive reloads, a rejected one too; the series of a connection that is gone do not.
func TestMetricsAcrossReloads(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	first := inline(a, e, "name c\n\t\theader_up X-Config 1")
	site := runSidecar(t, first)
	call(t, "GET", site+"/", nil)
	loadCaddyfile(t, onPort(strings.Replace(first, "X-Config 1", "X-Config 2", 1), site))
	callAcrossReload(t, site+"/")
	if err := tryCaddyfile(onPort(inline(a, e, "name c\n\t\tallow_clients nonsense"), site)); err == nil {
		t.Fatal("the config was not rejected")
	}
	wantSeries(t, map[string]float64{
		"requests_total connection=c outcome=sent":               2,
		"token_requests_total connection=c result=ok":            1,
		"token_request_duration_seconds connection=c":            1,
		"unauthorized_total connection=c outcome=replayed":       0,
		"token_requests_total connection=c result=outage":        0,
		"requests_total connection=c outcome=no_token":           0,
		"unauthorized_total connection=c outcome=passed":         0,
		"requests_total connection=c outcome=kept":               0,
		"requests_total connection=c outcome=refused":            0,
		"token_requests_total connection=c result=configuration": 0,
	})

	loadCaddyfile(t, onPort(strings.Replace(first, "name c", "name d", 1), site))
	var names []string
	for name := range series(t) {
		names = append(names, name)
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "connection=c") }) {
		t.Errorf("series of a connection that is gone: %v", names)
	}
	// The token is the same one still.
	if _, there := series(t)["token_expiry_timestamp_seconds connection=d"]; !there {
		t.Errorf("the token of a renamed connection does not expire: %v", names)
	}
}
