package integration

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// example is a Caddyfile of the documentation that was made to run on this machine. Its servers speak
// TLS as the real ones do.
type example struct {
	*world
	ca        *harness.CA
	caddyfile string
}

// newExample takes the Caddyfile below a heading of docs/examples.md.
func newExample(t *testing.T, heading string) *example {
	t.Helper()
	return newExampleOf(t, "docs/examples.md", heading)
}

// newExampleOf takes the Caddyfile below a heading of a page.
func newExampleOf(t *testing.T, page, heading string) *example {
	t.Helper()
	_, section, found := strings.Cut(readShipped(t, page), "\n## "+heading+"\n")
	block := fence.FindStringSubmatch(section)
	if !found || block == nil {
		t.Fatalf("%s has no Caddyfile below %q", page, heading)
	}
	ca := harness.NewCA(t)
	e := &example{world: newWorld(t, ca), ca: ca}
	_, port, _ := net.SplitHostPort(e.Addr)
	e.caddyfile = strings.NewReplacer(
		":8080 {", ":"+port+" {",
		"https://api.example.com", e.api.URL,
		"https://auth.example.com/oauth2/token", e.tokens.URL,
		"unix//run/http_helper/admin.sock", "unix/"+e.AdminSocket(),
		"unix/http_helper_admin.sock", "unix/"+e.AdminSocket(),
		"{env.HOME}/.config/http_helper", e.Dir,
		"/run/", e.Dir+"/",
	).Replace(block[1])
	return e
}

// run starts the example; each of the files contains the secret.
func (e *example) run(t *testing.T, secrets ...string) {
	t.Helper()
	e.provide(t, secrets...)
	e.Run(t, harness.Config{Whole: e.caddyfile, Env: []string{"SSL_CERT_FILE=" + e.ca.File}})
}

func (e *example) provide(t *testing.T, secrets ...string) {
	t.Helper()
	for _, file := range secrets {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(e.Dir, file)), 0o700); err != nil {
			t.Fatal(err)
		}
		e.File(t, file, secret)
	}
}

// wantReached makes a request, and checks where at an API it came out.
func (e *example) wantReached(t *testing.T, path, target string, header ...string) {
	t.Helper()
	wantStatus(t, e.Get(t, path, header...), http.StatusOK)
	equal(t, "what "+path+" becomes", e.api.Last(t).RequestURI, target)
}

func TestExampleOnALaptop(t *testing.T) {
	t.Parallel()
	e := newExample(t, "One service on a laptop")
	e.run(t, "client_secret")
	e.wantReached(t, "/orders/17", "/v2/orders/17")
	_, port, _ := net.SplitHostPort(e.Addr)
	res, err := e.Client.Get("http://localhost:" + port + "/orders/18")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	equal(t, "status by name", res.StatusCode, http.StatusOK)
}

func TestExampleBehindPaths(t *testing.T) {
	t.Parallel()
	e := newExample(t, "Several services behind paths")
	e.caddyfile = strings.Replace(e.caddyfile, "https://mail.example.com", e.api.URL+"/mail-api", 1)
	e.run(t, "secrets/orders_secret", "secrets/mail_secret")
	e.wantReached(t, "/orders/17", "/v2/17")
	e.wantReached(t, "/mail/send?now=1", "/mail-api/send?now=1")
	e.api.RespondWith(http.RedirectHandler("/v2/18", http.StatusFound))
	equal(t, "redirect", e.Get(t, "/orders/17").Header.Get("Location"), "/orders/18")
	wantStatus(t, e.Get(t, "/else"), http.StatusNotFound)
}

func TestExampleTenants(t *testing.T) {
	t.Parallel()
	e := newExample(t, "Several tenants")
	const host = "https://{param.instance}.acme.example"
	e.caddyfile = strings.NewReplacer("base_url "+host, "base_url "+e.api.URL+"/{param.instance}",
		"token_url "+host, "token_url "+e.tokens.Base+"/{param.instance}").Replace(e.caddyfile)
	e.run(t, "secrets/emea_secret", "secrets/apac_secret")
	for _, tenant := range []string{"emea", "apac"} {
		e.wantReached(t, "/contacts", "/"+tenant+"/api/contacts", "X-Tenant", tenant)
		if got := e.api.Last(t).Header.Get("X-Tenant"); got != "" {
			t.Errorf("the API is told of the tenant: %q", got)
		}
	}
	equal(t, "token requests", e.tokens.Count(), 2)
	wantSidecarError(t, e.Get(t, "/contacts", "X-Tenant", "other"), http.StatusBadRequest, "http_request_error")
	wantSidecarError(t, e.Get(t, "/contacts"), http.StatusBadRequest, "http_request_error")
}

func TestExampleGRPC(t *testing.T) {
	t.Parallel()
	e := newExample(t, "gRPC")
	api := startGRPC(t, e.ca, e.tokens)
	e.caddyfile = strings.Replace(e.caddyfile, "https://grpc.example.com", "https://"+api.addr, 1)
	e.run(t, "secrets/client_secret")
	conn, err := grpc.NewClient(e.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
	defer cancel()
	if _, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
}

func TestExampleMesh(t *testing.T) {
	t.Parallel()
	e := newExample(t, "A mesh with cleartext inside")
	inside := harness.NewAPI(t, nil, e.tokens)
	e.caddyfile = strings.Replace(e.caddyfile, "http://orders.internal.example", inside.URL, 1)
	e.run(t, "secrets/client_secret")
	wantStatus(t, e.Get(t, "/17"), http.StatusOK)
	equal(t, "request", inside.Last(t).RequestURI, "/v2/17")
	e.WaitLog(t, "allow_insecure permits to send secrets or tokens where others can read them")
}

func TestExampleUnixSocket(t *testing.T) {
	t.Parallel()
	e := newExample(t, "A sidecar for one user or group, on a unix socket")
	socket := filepath.Join(e.Dir, "http_helper", "orders.sock")
	e.provide(t, "secrets/client_secret", "http_helper/any") // the socket's directory must be there
	cmd := exec.Command(harness.Caddy(t), "run", "--config", e.File(t, "Caddyfile", e.caddyfile), "--adapter", "caddyfile")
	cmd.Env = []string{"SSL_CERT_FILE=" + e.ca.File, "HOME=" + e.Dir}
	harness.Background(t, cmd)
	client := harness.UnixClient(t, socket)
	var response *harness.Response
	eventually(t, "the socket responds", func() bool {
		var err error
		response, err = harness.Get(client, "http://orders/17")
		return err == nil
	})
	equal(t, "body", response.Text, "hello")
	equal(t, "request", e.api.Last(t).RequestURI, "/v2/17")
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "permissions", info.Mode().Perm(), 0o660)
}

// TestRecipeStandIn is an SDK that fetches a token first, of the sidecar itself.
func TestRecipeStandIn(t *testing.T) {
	t.Parallel()
	e := newExampleOf(t, "docs/recipes.md", "An SDK that insists on fetching a token")
	e.run(t, "secrets/client_secret")
	token := e.Send(t, http.MethodPost, "/oauth2/token", []byte("grant_type=client_credentials"), "Authorization", "Basic YW55OmFueQ==")
	wantStatus(t, token, http.StatusOK)
	equal(t, "Content-Type", token.Header.Get("Content-Type"), "application/json")
	var fields struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
	}
	if err := json.Unmarshal([]byte(token.Text), &fields); err != nil {
		t.Fatal(err)
	}
	equal(t, "token requests for the stand-in", e.tokens.Count(), 0)
	e.wantReached(t, "/orders/17", "/v2/orders/17", "Authorization", fields.TokenType+" "+fields.AccessToken)
	if sent := e.api.Last(t).Header.Get("Authorization"); strings.Contains(sent, fields.AccessToken) {
		t.Errorf("the API got the stand-in's token: %q", sent)
	}
}
