package httphelper

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// fakeIssuer serves metadata at one place. Its texts may contain ISSUER.
type fakeIssuer struct {
	*fakeEndpoint
	place    string
	metadata atomic.Value // string
	status   atomic.Int32
}

func newIssuer(t *testing.T, place, metadata string) *fakeIssuer {
	t.Helper()
	issuer := &fakeIssuer{place: place}
	issuer.metadata.Store(metadata)
	issuer.status.Store(200)
	issuer.fakeEndpoint = newEndpoint(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != place {
			http.NotFound(w, req)
			return
		}
		answering(int(issuer.status.Load()), strings.ReplaceAll(issuer.metadata.Load().(string), "ISSUER", issuer.URL))(w, req)
	})
	return issuer
}

const (
	oauthPlace    = "/.well-known/oauth-authorization-server"
	openIDPlace   = "/.well-known/openid-configuration"
	plainMetadata = `{"issuer":"ISSUER","token_endpoint":"ISSUER/token","revocation_endpoint":"ISSUER/revoke"}`
)

// foundIssuer is an issuer with the requests for its endpoints.
type foundIssuer struct {
	issuer        string
	allowInsecure bool
	now           func() time.Time
	remembered    issuer
}

func (f *foundIssuer) find(ctx context.Context, client *http.Client, method string, certificate bool) (endpoints, error) {
	f.remembered.now = f.now
	return f.remembered.endpoints(ctx, client, issuerRequest{
		issuer: f.issuer, allowInsecure: f.allowInsecure, method: method, withCertificate: certificate,
	})
}

func findIn(t *testing.T, d *foundIssuer, method string, certificate bool) (endpoints, error) {
	t.Helper()
	return d.find(t.Context(), newTokenClient(http.DefaultTransport), method, certificate)
}

func mustFind(t *testing.T, d *foundIssuer) endpoints {
	t.Helper()
	found, err := findIn(t, d, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mustNotFind expects a tokenError that says what.
func mustNotFind(t *testing.T, d *foundIssuer, class failureClass, say string) {
	t.Helper()
	_, err := findIn(t, d, "", false)
	if err == nil {
		t.Fatal("found")
	}
	if failure := asTokenError(err); failure.class != class || !strings.Contains(failure.Error(), say) {
		t.Errorf("failure %+v lacks %q", failure, say)
	}
}

func TestWellKnownPlaces(t *testing.T) {
	for _, test := range []struct{ path, place string }{
		{"", oauthPlace},
		{"/", oauthPlace},
		{"/tenant/1", oauthPlace + "/tenant/1"},
		{"/tenant/", oauthPlace + "/tenant"},
		{"", openIDPlace},
		{"/tenant/1", "/tenant/1" + openIDPlace},
		{"/tenant/", "/tenant" + openIDPlace},
	} {
		issuer := newIssuer(t, test.place, strings.Replace(plainMetadata, `"ISSUER"`, `"ISSUER`+test.path+`"`, 1))
		found := mustFind(t, &foundIssuer{issuer: issuer.URL + test.path})
		if found.Token != issuer.URL+"/token" || found.Revocation != issuer.URL+"/revoke" {
			t.Errorf("%s: %+v", test.place, found)
		}
		for _, got := range issuer.all() {
			if got.method != "GET" || got.header.Get("Accept") != "application/json" || got.header.Get("Authorization") != "" || got.body != "" {
				t.Errorf("%+v", got)
			}
		}
	}
}

func TestMetadataAfterAByteOrderMark(t *testing.T) {
	mustFind(t, &foundIssuer{issuer: newIssuerURL(t, "\ufeff"+plainMetadata)})
}

func TestIssuerIsComparedExactly(t *testing.T) {
	for _, other := range []string{"ISSUER/", "ISSUER/x", "https://evil.example", "", "issuer"} {
		issuer := newIssuer(t, oauthPlace, strings.Replace(plainMetadata, `"ISSUER"`, `"`+other+`"`, 1))
		mustNotFind(t, &foundIssuer{issuer: issuer.URL}, classConfiguration, "another issuer")
	}
	slash := newIssuer(t, oauthPlace, strings.Replace(plainMetadata, `"ISSUER"`, `"ISSUER/"`, 1))
	mustFind(t, &foundIssuer{issuer: slash.URL + "/"})
}

func TestDiscoveredEndpointsAreSafe(t *testing.T) {
	for _, bad := range []string{
		"http://auth.example/token", "ftp://auth.example/", "/token", "https://", "https://user:pw@auth.example/", "https://auth.example/#x", "::",
	} {
		for _, member := range []string{"token_endpoint", "revocation_endpoint"} {
			metadata := strings.Replace(plainMetadata, `"issuer"`, `"`+member+`":"`+bad+`","issuer"`, 1)
			metadata = strings.Replace(metadata, `"`+member+`":"ISSUER`, `"other":"ISSUER`, 1)
			mustNotFind(t, &foundIssuer{issuer: newIssuerURL(t, metadata)}, classConfiguration, "endpoint")
			aliases := strings.Replace(plainMetadata, `{`, `{"mtls_endpoint_aliases":{"`+member+`":"`+bad+`"},`, 1)
			mustNotFind(t, &foundIssuer{issuer: newIssuerURL(t, aliases)}, classConfiguration, "endpoint")
		}
	}
	// Another process may listen on loopback; an issuer that speaks https has no reason to go there.
	https := &foundIssuer{issuer: "https://auth.example"}
	if _, err := (issuerRequest{issuer: https.issuer}).parse([]byte(`{"issuer":"https://auth.example","token_endpoint":"http://127.0.0.1:1/token"}`)); err == nil || !strings.Contains(err.Error(), "http while") {
		t.Errorf("an endpoint on loopback of an issuer elsewhere: %v", err)
	}
	insecure := newIssuerURL(t, strings.Replace(plainMetadata, "ISSUER/token", "http://auth.example/token", 1))
	if found := mustFind(t, &foundIssuer{issuer: insecure, allowInsecure: true}); found.Token != "http://auth.example/token" {
		t.Errorf("found %+v", found)
	}
	mustNotFind(t, &foundIssuer{issuer: newIssuerURL(t, `{"issuer":"ISSUER"}`)}, classConfiguration, "token_endpoint")
}

func newIssuerURL(t *testing.T, metadata string) string {
	t.Helper()
	return newIssuer(t, oauthPlace, metadata).URL
}

func TestNoMetadata(t *testing.T) {
	for _, body := range []string{"", "<html>", "[]", `{"issuer":7}`} {
		mustNotFind(t, &foundIssuer{issuer: newIssuerURL(t, body)}, classConfiguration, "no metadata")
	}
	mustNotFind(t, &foundIssuer{issuer: newIssuer(t, "/elsewhere", plainMetadata).URL}, classConfiguration, "no metadata")
	mustNotFind(t, &foundIssuer{issuer: newIssuerURL(t, plainMetadata+strings.Repeat(" ", maxAnswer))}, classConfiguration, "no metadata")
	for _, issuer := range []string{"", "::", "issuer", "https://auth.example/?x=1", "https://auth.example/#x"} {
		mustNotFind(t, &foundIssuer{issuer: issuer}, classConfiguration, "issuer")
	}
	redirecting := newEndpoint(t, answering(302, "", "Location", "https://evil.example/"))
	mustNotFind(t, &foundIssuer{issuer: redirecting.URL}, classConfiguration, "redirect")
}

// TestTellingDiscoveryFailure: a place that holds nothing says less than one that answers wrongly.
func TestTellingDiscoveryFailure(t *testing.T) {
	foreign := strings.Replace(plainMetadata, `"ISSUER"`, `"https://other.example"`, 1)
	mustNotFind(t, &foundIssuer{issuer: newIssuer(t, openIDPlace, foreign).URL}, classConfiguration, "another issuer")
	mustNotFind(t, &foundIssuer{issuer: newIssuer(t, oauthPlace, foreign).URL}, classConfiguration, "another issuer")
}

func TestIssuerOutage(t *testing.T) {
	issuer := newIssuer(t, oauthPlace, plainMetadata)
	for _, status := range []int32{500, 503, 429} {
		issuer.status.Store(status)
		mustNotFind(t, &foundIssuer{issuer: issuer.URL}, classOutage, "status")
	}
	issuer.Close()
	mustNotFind(t, &foundIssuer{issuer: issuer.URL}, classOutage, "the issuer cannot be reached: connection refused")
}

func TestMetadataAreCached(t *testing.T) {
	now := time.Now()
	issuer := newIssuer(t, oauthPlace, plainMetadata)
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	asked := func(want int) {
		t.Helper()
		if got := len(issuer.all()); got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	}
	mustFind(t, d)
	now = now.Add(time.Hour - time.Second)
	mustFind(t, d)
	asked(1)
	now = now.Add(time.Second)
	issuer.metadata.Store(strings.ReplaceAll(plainMetadata, "/token", "/newer"))
	if found := mustFind(t, d); found.Token != issuer.URL+"/newer" {
		t.Errorf("found %+v", found)
	}
	asked(2)

	now = now.Add(2 * time.Hour)
	issuer.status.Store(503)
	if found := mustFind(t, d); found.Token != issuer.URL+"/newer" {
		t.Errorf("found %+v", found)
	}
	failedAt := len(issuer.all())
	mustFind(t, d)
	asked(failedAt)
	now = now.Add(time.Minute)
	issuer.status.Store(200)
	mustFind(t, d)
	asked(failedAt + 1)
}

// TestDoubtfulMetadataAreFetchedAgain after a minute instead of an hour.
func TestDoubtfulMetadataAreFetchedAgain(t *testing.T) {
	now := time.Now()
	issuer := newIssuer(t, oauthPlace, plainMetadata)
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	mustFind(t, d)
	issuer.metadata.Store(strings.ReplaceAll(plainMetadata, "/token", "/newer"))
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "/token"}, {59 * time.Second, "/token"}, {time.Second, "/newer"}} {
		d.remembered.recheck()
		now = now.Add(step.after)
		if found := mustFind(t, d); found.Token != issuer.URL+step.want {
			t.Errorf("after %v: found %+v", step.after, found)
		}
	}
	now = now.Add(time.Hour - time.Second)
	asked := len(issuer.all())
	mustFind(t, d)
	if got := len(issuer.all()); got != asked {
		t.Errorf("%d requests without a doubt", got-asked)
	}
	d.remembered.recheck() // a minute has long passed
	mustFind(t, d)
	if got := len(issuer.all()); got != asked+1 {
		t.Errorf("%d requests, want 1", got-asked)
	}
}

// TestMethodThatBecomesSupported is noticed soon.
func TestMethodThatBecomesSupported(t *testing.T) {
	now := time.Now()
	issuer := newIssuer(t, oauthPlace, strings.Replace(plainMetadata, "{", `{"token_endpoint_auth_methods_supported":["none"],`, 1))
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	mustNotFind(t, d, classConfiguration, "list only none")
	issuer.metadata.Store(plainMetadata)
	mustNotFind(t, d, classConfiguration, "list only none")
	now = now.Add(time.Minute)
	mustFind(t, d)
}

// TestHangingIssuerLeavesTimeForTheTokenRequest: as long as older metadata serve, newer ones are not
// worth the whole token_timeout.
func TestHangingIssuerLeavesTimeForTheTokenRequest(t *testing.T) {
	now := time.Now()
	issuer := newIssuer(t, oauthPlace, plainMetadata)
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	mustFind(t, d)
	now = now.Add(time.Hour)
	var left time.Duration
	client := newTokenClient(roundTripperFunc(func(req *http.Request) (*http.Response, error) {
		deadline, _ := req.Context().Deadline()
		left = time.Until(deadline)
		return nil, context.DeadlineExceeded
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if found, err := d.find(ctx, client, "", false); err != nil || found.Token != issuer.URL+"/token" {
		t.Errorf("found %+v, %v", found, err)
	}
	if left <= 0 || left > 10*time.Second {
		t.Errorf("the issuer had %v to answer", left)
	}
}

// TestFailedDiscoveryIsNotRemembered: back-off is the token source's business.
func TestFailedDiscoveryIsNotRemembered(t *testing.T) {
	issuer := newIssuer(t, oauthPlace, plainMetadata)
	d := &foundIssuer{issuer: issuer.URL}
	issuer.status.Store(500)
	mustNotFind(t, d, classOutage, "500")
	issuer.status.Store(200)
	mustFind(t, d)
}

func TestWaitingForDiscoveryEnds(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 2)
	endpoint := newEndpoint(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := (&foundIssuer{issuer: endpoint.URL}).find(ctx, newTokenClient(http.DefaultTransport), "", false)
	if err != context.Canceled { //nolint:errorlint // the very error is promised
		t.Errorf("error %v", err)
	}
	if got := len(endpoint.all()); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

func TestSupportedMethods(t *testing.T) {
	const listing = `{"issuer":"ISSUER","token_endpoint":"ISSUER/token","token_endpoint_auth_methods_supported":LIST}`
	for _, test := range []struct{ list, method, say string }{
		{`["client_secret_post","private_key_jwt"]`, "client_secret_post", ""},
		{`["client_secret_post","private_key_jwt"]`, "private_key_jwt", ""},
		{`["client_secret_post","EVIL","private_key_jwt"]`, "", "client_secret_post, private_key_jwt"},
		{`["client_secret_post","EVIL","private_key_jwt"]`, "none", "client_secret_post, private_key_jwt"},
		{`["self_signed_tls_client_auth"]`, "tls_client_auth", ""},
		{`["tls_client_auth"]`, "tls_client_auth", ""},
		{`["EVIL"]`, "", "no method"},
		{`[]`, "", ""},
		{`null`, "client_secret_basic", ""},
		{`null`, "client_secret_post", "no methods, which means client_secret_basic"},
		{`["self_signed_tls_client_auth"]`, "none", "list only tls_client_auth"},
	} {
		d := &foundIssuer{issuer: newIssuerURL(t, strings.Replace(listing, "LIST", test.list, 1))}
		_, err := findIn(t, d, test.method, false)
		switch {
		case test.say == "" && err != nil:
			t.Errorf("%s, %q: %v", test.list, test.method, err)
		case test.say == "":
		case err == nil || asTokenError(err).class != classConfiguration || !strings.Contains(err.Error(), test.say) || !strings.Contains(err.Error(), "auth_method"):
			t.Errorf("%s, %q: %v", test.list, test.method, err)
		case strings.Contains(err.Error(), "EVIL"):
			t.Errorf("the server is quoted: %v", err)
		}
	}
}

func TestMutualTLSAliases(t *testing.T) {
	const metadata = `{"issuer":"ISSUER","token_endpoint":"ISSUER/token","revocation_endpoint":"ISSUER/revoke",
		"mtls_endpoint_aliases":{"ALIAS":"https://mtls.example/alias"}}`
	for alias, want := range map[string]endpoints{
		"token_endpoint":      {Token: "https://mtls.example/alias", Revocation: "/revoke"},
		"revocation_endpoint": {Token: "/token", Revocation: "https://mtls.example/alias"},
	} {
		d := &foundIssuer{issuer: newIssuerURL(t, strings.Replace(metadata, "ALIAS", alias, 1))}
		if plain := mustFind(t, d); plain.Token != d.issuer+"/token" || plain.Revocation != d.issuer+"/revoke" {
			t.Errorf("without a certificate %+v", plain)
		}
		found, err := findIn(t, d, "", true)
		if err != nil || strings.TrimPrefix(found.Token, d.issuer) != want.Token || strings.TrimPrefix(found.Revocation, d.issuer) != want.Revocation {
			t.Errorf("with a certificate %+v, %v", found, err)
		}
	}
}

// TestAliasesAreForClientsWithACertificate, whatever their method.
func TestAliasesAreForClientsWithACertificate(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), "first")
	plain, mutual := newEndpoint(t, answering(200, goodAnswer)), newEndpoint(t, answering(200, goodAnswer))
	issuer := newIssuerURL(t, `{"issuer":"ISSUER","token_endpoint":"`+plain.URL+`","mtls_endpoint_aliases":{"token_endpoint":"`+mutual.URL+`"}}`)
	connection := "connection %s {\nbase_url http://127.0.0.1:1\nissuer " + issuer + "\nclient_id app\nclient_secret s3cret\n%s\n}\n"
	loadCaddyfile(t, "{\n\thttp_helper {\n"+fmt.Sprintf(connection, "without", "")+
		fmt.Sprintf(connection, "with", "client_certificate "+certFile+" "+keyFile)+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	for name, endpoint := range map[string]*fakeEndpoint{"without": plain, "with": mutual} {
		if err := activeApp().active[name].refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		endpoint.only(t)
	}
}
