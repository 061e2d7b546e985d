package oauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

const openIDPlace = "/.well-known/openid-configuration"

// foundIssuer is an issuer with the requests for its endpoints.
type foundIssuer struct {
	issuer        string
	allowInsecure bool
	now           func() time.Time
	remembered    Issuer
}

func (f *foundIssuer) find(ctx context.Context, client *http.Client, method string, certificate bool) (Endpoints, error) {
	f.remembered.Now = f.now
	return f.remembered.Endpoints(ctx, client, IssuerRequest{
		Issuer: f.issuer, AllowInsecure: f.allowInsecure, Method: method, WithCertificate: certificate,
	})
}

func findIn(t *testing.T, d *foundIssuer, method string, certificate bool) (Endpoints, error) {
	t.Helper()
	return d.find(t.Context(), NewClient(http.DefaultTransport), method, certificate)
}

func mustFind(t *testing.T, d *foundIssuer) Endpoints {
	t.Helper()
	found, err := findIn(t, d, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mustNotFind expects an *Error that says what.
func mustNotFind(t *testing.T, d *foundIssuer, class Class, say string) {
	t.Helper()
	_, err := findIn(t, d, "", false)
	if err == nil {
		t.Fatal("found")
	}
	if failure := AsError(err); failure.Class != class || !strings.Contains(failure.Error(), say) {
		t.Errorf("failure %+v lacks %q", failure, say)
	}
}

func TestWellKnownPlaces(t *testing.T) {
	for _, test := range []struct{ path, place string }{
		{"", oauthtest.MetadataPath},
		{"/", oauthtest.MetadataPath},
		{"/tenant/1", oauthtest.MetadataPath + "/tenant/1"},
		{"/tenant/", oauthtest.MetadataPath + "/tenant"},
		{"", openIDPlace},
		{"/tenant/1", "/tenant/1" + openIDPlace},
		{"/tenant/", "/tenant" + openIDPlace},
	} {
		issuer := oauthtest.NewIssuer(t, test.place, strings.Replace(oauthtest.PlainMetadata, `"ISSUER"`, `"ISSUER`+test.path+`"`, 1))
		found := mustFind(t, &foundIssuer{issuer: issuer.URL + test.path})
		if found.Token != issuer.URL+"/token" || found.Revocation != issuer.URL+"/revoke" {
			t.Errorf("%s: %+v", test.place, found)
		}
		for _, got := range issuer.All() {
			if got.Method != "GET" || got.Header.Get("Accept") != "application/json" || got.Header.Get("Authorization") != "" || got.Body != "" {
				t.Errorf("%+v", got)
			}
		}
	}
}

func TestMetadataAfterAByteOrderMark(t *testing.T) {
	mustFind(t, &foundIssuer{issuer: oauthtest.NewIssuerURL(t, "\ufeff"+oauthtest.PlainMetadata)})
}

func TestIssuerIsComparedExactly(t *testing.T) {
	for _, other := range []string{"ISSUER/", "ISSUER/x", "https://evil.example", "", "issuer"} {
		issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, strings.Replace(oauthtest.PlainMetadata, `"ISSUER"`, `"`+other+`"`, 1))
		mustNotFind(t, &foundIssuer{issuer: issuer.URL}, ClassConfiguration, "another issuer")
	}
	slash := oauthtest.NewIssuer(t, oauthtest.MetadataPath, strings.Replace(oauthtest.PlainMetadata, `"ISSUER"`, `"ISSUER/"`, 1))
	mustFind(t, &foundIssuer{issuer: slash.URL + "/"})
}

func TestDiscoveredEndpointsAreSafe(t *testing.T) {
	for _, bad := range []string{
		"http://auth.example/token", "ftp://auth.example/", "/token", "https://", "https://user:pw@auth.example/", "https://auth.example/#x", "::",
	} {
		for _, member := range []string{"token_endpoint", "revocation_endpoint"} {
			metadata := strings.Replace(oauthtest.PlainMetadata, `"issuer"`, `"`+member+`":"`+bad+`","issuer"`, 1)
			metadata = strings.Replace(metadata, `"`+member+`":"ISSUER`, `"other":"ISSUER`, 1)
			mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuerURL(t, metadata)}, ClassConfiguration, "endpoint")
			aliases := strings.Replace(oauthtest.PlainMetadata, `{`, `{"mtls_endpoint_aliases":{"`+member+`":"`+bad+`"},`, 1)
			mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuerURL(t, aliases)}, ClassConfiguration, "endpoint")
		}
	}
	// Another process may listen on loopback; an issuer that speaks https has no reason to go there.
	https := &foundIssuer{issuer: "https://auth.example"}
	if _, err := (IssuerRequest{Issuer: https.issuer}).parse([]byte(`{"issuer":"https://auth.example","token_endpoint":"http://127.0.0.1:1/token"}`)); err == nil || !strings.Contains(err.Error(), "http while") {
		t.Errorf("an endpoint on loopback of an issuer elsewhere: %v", err)
	}
	insecure := oauthtest.NewIssuerURL(t, strings.Replace(oauthtest.PlainMetadata, "ISSUER/token", "http://auth.example/token", 1))
	if found := mustFind(t, &foundIssuer{issuer: insecure, allowInsecure: true}); found.Token != "http://auth.example/token" {
		t.Errorf("found %+v", found)
	}
	mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuerURL(t, `{"issuer":"ISSUER"}`)}, ClassConfiguration, "token_endpoint")
}

func TestNoMetadata(t *testing.T) {
	for _, body := range []string{"", "<html>", "[]", `{"issuer":7}`} {
		mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuerURL(t, body)}, ClassConfiguration, "no metadata")
	}
	mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuer(t, "/elsewhere", oauthtest.PlainMetadata).URL}, ClassConfiguration, "no metadata")
	mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuerURL(t, oauthtest.PlainMetadata+strings.Repeat(" ", MaxResponseBytes))}, ClassConfiguration, "no metadata")
	for _, issuer := range []string{"", "::", "issuer", "https://auth.example/?x=1", "https://auth.example/#x"} {
		mustNotFind(t, &foundIssuer{issuer: issuer}, ClassConfiguration, "issuer")
	}
	redirecting := oauthtest.NewEndpoint(t, oauthtest.Responds(302, "", "Location", "https://evil.example/"))
	mustNotFind(t, &foundIssuer{issuer: redirecting.URL}, ClassConfiguration, "redirect")
}

// TestTellingDiscoveryFailure: a URL without metadata says less than one with a wrong response.
func TestTellingDiscoveryFailure(t *testing.T) {
	foreign := strings.Replace(oauthtest.PlainMetadata, `"ISSUER"`, `"https://other.example"`, 1)
	mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuer(t, openIDPlace, foreign).URL}, ClassConfiguration, "another issuer")
	mustNotFind(t, &foundIssuer{issuer: oauthtest.NewIssuer(t, oauthtest.MetadataPath, foreign).URL}, ClassConfiguration, "another issuer")
}

func TestIssuerOutage(t *testing.T) {
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, oauthtest.PlainMetadata)
	for _, status := range []int32{500, 503, 429} {
		issuer.Status.Store(status)
		mustNotFind(t, &foundIssuer{issuer: issuer.URL}, ClassOutage, "status")
	}
	issuer.Close()
	mustNotFind(t, &foundIssuer{issuer: issuer.URL}, ClassOutage, "the issuer cannot be reached: connection refused")
}

func TestMetadataAreCached(t *testing.T) {
	now := time.Now()
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, oauthtest.PlainMetadata)
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	asked := func(want int) {
		t.Helper()
		if got := len(issuer.All()); got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	}
	mustFind(t, d)
	now = now.Add(time.Hour - time.Second)
	mustFind(t, d)
	asked(1)
	now = now.Add(time.Second)
	issuer.Metadata.Store(strings.ReplaceAll(oauthtest.PlainMetadata, "/token", "/newer"))
	if found := mustFind(t, d); found.Token != issuer.URL+"/newer" {
		t.Errorf("found %+v", found)
	}
	asked(2)

	now = now.Add(2 * time.Hour)
	issuer.Status.Store(503)
	if found := mustFind(t, d); found.Token != issuer.URL+"/newer" {
		t.Errorf("found %+v", found)
	}
	failedAt := len(issuer.All())
	mustFind(t, d)
	asked(failedAt)
	now = now.Add(time.Minute)
	issuer.Status.Store(200)
	mustFind(t, d)
	asked(failedAt + 1)
}

// TestDoubtfulMetadataAreFetchedAgain after a minute instead of an hour.
func TestDoubtfulMetadataAreFetchedAgain(t *testing.T) {
	now := time.Now()
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, oauthtest.PlainMetadata)
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	mustFind(t, d)
	issuer.Metadata.Store(strings.ReplaceAll(oauthtest.PlainMetadata, "/token", "/newer"))
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "/token"}, {59 * time.Second, "/token"}, {time.Second, "/newer"}} {
		d.remembered.Recheck()
		now = now.Add(step.after)
		if found := mustFind(t, d); found.Token != issuer.URL+step.want {
			t.Errorf("after %v: found %+v", step.after, found)
		}
	}
	now = now.Add(time.Hour - time.Second)
	asked := len(issuer.All())
	mustFind(t, d)
	if got := len(issuer.All()); got != asked {
		t.Errorf("%d requests without a doubt", got-asked)
	}
	d.remembered.Recheck() // a minute has long passed
	mustFind(t, d)
	if got := len(issuer.All()); got != asked+1 {
		t.Errorf("%d requests, want 1", got-asked)
	}
}

// TestMethodThatBecomesSupported is noticed soon.
func TestMethodThatBecomesSupported(t *testing.T) {
	now := time.Now()
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, strings.Replace(oauthtest.PlainMetadata, "{", `{"token_endpoint_auth_methods_supported":["none"],`, 1))
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	mustNotFind(t, d, ClassConfiguration, "list only none")
	issuer.Metadata.Store(oauthtest.PlainMetadata)
	mustNotFind(t, d, ClassConfiguration, "list only none")
	now = now.Add(time.Minute)
	mustFind(t, d)
}

// TestHangingIssuerLeavesTimeForTheTokenRequest: as long as older metadata serve, newer ones are not
// worth the whole token_timeout.
func TestHangingIssuerLeavesTimeForTheTokenRequest(t *testing.T) {
	now := time.Now()
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, oauthtest.PlainMetadata)
	d := &foundIssuer{issuer: issuer.URL, now: func() time.Time { return now }}
	mustFind(t, d)
	now = now.Add(time.Hour)
	var left time.Duration
	client := NewClient(roundTripperFunc(func(req *http.Request) (*http.Response, error) {
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
		t.Errorf("the issuer had %v to respond", left)
	}
}

// TestFailedDiscoveryIsNotRemembered: back-off is the token source's business.
func TestFailedDiscoveryIsNotRemembered(t *testing.T) {
	issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, oauthtest.PlainMetadata)
	d := &foundIssuer{issuer: issuer.URL}
	issuer.Status.Store(500)
	mustNotFind(t, d, ClassOutage, "500")
	issuer.Status.Store(200)
	mustFind(t, d)
}

func TestWaitingForDiscoveryEnds(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 2)
	endpoint := oauthtest.NewEndpoint(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := (&foundIssuer{issuer: endpoint.URL}).find(ctx, NewClient(http.DefaultTransport), "", false)
	if err != context.Canceled { //nolint:errorlint // the very error is promised
		t.Errorf("error %v", err)
	}
	if got := len(endpoint.All()); got != 1 {
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
		d := &foundIssuer{issuer: oauthtest.NewIssuerURL(t, strings.Replace(listing, "LIST", test.list, 1))}
		_, err := findIn(t, d, test.method, false)
		switch {
		case test.say == "" && err != nil:
			t.Errorf("%s, %q: %v", test.list, test.method, err)
		case test.say == "":
		case err == nil || AsError(err).Class != ClassConfiguration || !strings.Contains(err.Error(), test.say) || !strings.Contains(err.Error(), "auth_method"):
			t.Errorf("%s, %q: %v", test.list, test.method, err)
		case strings.Contains(err.Error(), "EVIL"):
			t.Errorf("the server is quoted: %v", err)
		}
	}
}

func TestMutualTLSAliases(t *testing.T) {
	const metadata = `{"issuer":"ISSUER","token_endpoint":"ISSUER/token","revocation_endpoint":"ISSUER/revoke",
		"mtls_endpoint_aliases":{"ALIAS":"https://mtls.example/alias"}}`
	for alias, want := range map[string]Endpoints{
		"token_endpoint":      {Token: "https://mtls.example/alias", Revocation: "/revoke"},
		"revocation_endpoint": {Token: "/token", Revocation: "https://mtls.example/alias"},
	} {
		d := &foundIssuer{issuer: oauthtest.NewIssuerURL(t, strings.Replace(metadata, "ALIAS", alias, 1))}
		if plain := mustFind(t, d); plain.Token != d.issuer+"/token" || plain.Revocation != d.issuer+"/revoke" {
			t.Errorf("without a certificate %+v", plain)
		}
		found, err := findIn(t, d, "", true)
		if err != nil || strings.TrimPrefix(found.Token, d.issuer) != want.Token || strings.TrimPrefix(found.Revocation, d.issuer) != want.Revocation {
			t.Errorf("with a certificate %+v, %v", found, err)
		}
	}
}

// roundTripperFunc is an http.RoundTripper that is a function.
type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestIssuerUnderConcurrency uses everything of an issuer at once, while its metadata are fetched again
// and again and its identifier changes. It is of use with the race detector.
func TestIssuerUnderConcurrency(t *testing.T) {
	first, second := oauthtest.NewIssuerURL(t, oauthtest.PlainMetadata), oauthtest.NewIssuerURL(t, oauthtest.PlainMetadata)
	issuer, client := new(Issuer), NewClient(http.DefaultTransport)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			identifier := first
			if i == 0 {
				identifier = second
			}
			for range 20 {
				found, err := issuer.Endpoints(t.Context(), client, IssuerRequest{Issuer: identifier})
				if err != nil || found.Token != identifier+"/token" {
					t.Errorf("%s: %+v, %v", identifier, found, err)
				}
				issuer.Recheck()
				_ = issuer.TokenEndpoint(false)
			}
		})
	}
	group.Wait()
}

// TestIssuerThatChangesMeanwhile has another issuer requested while the metadata of the first cannot be
// fetched again: the first must get neither the metadata of the other nor none.
func TestIssuerThatChangesMeanwhile(t *testing.T) {
	first, second := oauthtest.NewIssuerURL(t, oauthtest.PlainMetadata), oauthtest.NewIssuerURL(t, oauthtest.PlainMetadata)
	now := time.Now()
	issuer, client := &Issuer{Now: func() time.Time { return now }}, NewClient(http.DefaultTransport)
	endpointsOf := func(client *http.Client, identifier string) {
		found, err := issuer.Endpoints(t.Context(), client, IssuerRequest{Issuer: identifier})
		if err != nil || found.Token != identifier+"/token" {
			t.Errorf("%s: %+v, %v", identifier, found, err)
		}
	}
	endpointsOf(client, first)
	now = now.Add(2 * metadataLifetime)
	endpointsOf(NewClient(roundTripperFunc(func(*http.Request) (*http.Response, error) {
		endpointsOf(client, second)
		return nil, errors.New("unreachable")
	})), first)
}

// TestTheErrorNamesTheIssuer that was found, if it is a short plain URL and reveals no secret.
func TestTheErrorNamesTheIssuer(t *testing.T) {
	const plain = "https://auth.example/tenant"
	for found, shown := range map[string]bool{
		plain:                         true,
		plain + "/":                   true,
		"http://127.0.0.1:8080":       true,
		"https://login.example/{tid}": true, // as Microsoft Entra ID writes it
		"https://auth.example/" + strings.Repeat("x", 235): true,
		"https://auth.example/" + strings.Repeat("x", 236): false,
		"https://joe:pw@auth.example":                      false,
		plain + "?x=1":                                     false,
		plain + "?":                                        false,
		plain + "#x":                                       false,
		"https://auth.example/a b":                         false,
		"https://auth.example/%00/../x":                    false,
		"https://auth.example/\\u00e4":                     false,
		"https://auth.example/\\u0007":                     false,
		"ftp://auth.example":                               false,
		"auth.example":                                     false,
		"":                                                 false,
		"https://auth.example/s3cret-of-the-client":        false,
		"https://auth.example/?s3cret-of-the-client":       false,
	} {
		issuer := oauthtest.NewIssuer(t, oauthtest.MetadataPath, `{"issuer":"`+strings.ReplaceAll(found, `\\`, `\`)+`","token_endpoint":"ISSUER/token"}`)
		r := IssuerRequest{Issuer: issuer.URL, Secrets: func() []string { return []string{"s3cret-of-the-client"} }}
		_, err := new(Issuer).Endpoints(t.Context(), NewClient(http.DefaultTransport), r)
		if err == nil {
			t.Fatalf("%s: found", found)
		}
		if text := err.Error(); strings.Contains(text, "("+found+")") != shown || !strings.Contains(text, "another issuer") || !shown && strings.Contains(text, "(") {
			t.Errorf("%s: %s", found, text)
		}
	}
}
