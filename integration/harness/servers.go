package harness

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each real server listens on a unix socket, and a TokenEndpoint in front of it passes requests on
// unchanged: so its requests are counted, its port is the kernel's choice, it speaks TLS, and it
// can be restarted behind the same address.

// passTo hands requests on to the server on a socket.
func passTo(tb testing.TB, socket string) http.Handler {
	client := UnixClient(tb, socket)
	return &httputil.ReverseProxy{
		Transport: client.Transport,
		ErrorLog:  discardLog,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: r.In.Host})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
			r.Out.Header.Del("X-Client-Certificate")
			if r.In.TLS != nil && len(r.In.TLS.PeerCertificates) > 0 {
				block := &pem.Block{Type: "CERTIFICATE", Bytes: r.In.TLS.PeerCertificates[0].Raw}
				r.Out.Header.Set("X-Client-Certificate", url.PathEscape(string(pem.EncodeToMemory(block))))
			}
		},
	}
}

func socketDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// waitServer waits until a server responds to a path on its socket.
func (p *process) waitServer(tb testing.TB, what, socket, path string) {
	tb.Helper()
	client := UnixClient(tb, socket)
	p.waitReady(tb, what, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server"+path, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
}

// OIDCProvider is a running oidc-provider.
type OIDCProvider struct {
	*TokenEndpoint
	Issuer string

	socket  string
	process *process
}

// OIDCConfig is the configuration that oidc-provider/server.mjs describes.
type OIDCConfig struct {
	Clients   []map[string]any `json:"clients"`
	TTL       int              `json:"ttl,omitempty"`
	Scopes    []string         `json:"scopes,omitempty"`
	Resources []string         `json:"resources,omitempty"`
	DPoPNonce bool             `json:"dpopNonce,omitempty"`
	Socket    string           `json:"socket"`
	Issuer    string           `json:"issuer"`
}

// StartOIDCProvider runs oidc-provider until the test ends; with a CA it is reached over TLS.
func StartOIDCProvider(tb testing.TB, ca *CA, config OIDCConfig) *OIDCProvider {
	tb.Helper()
	p := &OIDCProvider{TokenEndpoint: NewTokenEndpoint(tb, ca), socket: filepath.Join(socketDir(tb), "oidc.sock")}
	p.Issuer = p.Base
	p.URL = p.Base + "/token"
	p.RespondWith(passTo(tb, p.socket))
	p.Restart(tb, config)
	return p
}

// Restart ends the server, if it runs, and runs it with another configuration at the same address.
func (p *OIDCProvider) Restart(tb testing.TB, config OIDCConfig) {
	tb.Helper()
	dir := filepath.Join(Root(), "integration", "oidc-provider")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider")); err != nil {
		tb.Fatal("oidc-provider is not installed: run integration/run.sh, or `npm ci` in integration/oidc-provider")
	}
	p.Stop()
	config.Socket, config.Issuer = p.socket, p.Issuer
	text, err := json.Marshal(config)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("node", "server.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OIDC="+string(text))
	p.process = startProcess(tb, cmd)
	p.process.waitServer(tb, "oidc-provider", p.socket, "/.well-known/openid-configuration")
}

// Stop ends the server.
func (p *OIDCProvider) Stop() {
	if p.process != nil {
		p.process.stop()
	}
	_ = os.Remove(p.socket)
}

// Introspect returns what the server knows of a token. It authenticates as a client with a secret in the body.
func (p *OIDCProvider) Introspect(tb testing.TB, clientID, secret, token string) map[string]any {
	tb.Helper()
	return postForm(tb, UnixClient(tb, p.socket), "http://oidc/token/introspection", url.Values{
		"client_id": {clientID}, "client_secret": {secret}, "token": {token},
	})
}

// Hydra is a running Ory Hydra.
type Hydra struct {
	*TokenEndpoint

	admin *http.Client
}

// HydraClient is a client of Hydra's.
type HydraClient struct {
	ID         string   `json:"client_id"`
	Secret     string   `json:"client_secret,omitempty"`
	AuthMethod string   `json:"token_endpoint_auth_method"`
	GrantTypes []string `json:"grant_types"`
	Scope      string   `json:"scope,omitempty"`
	Audience   []string `json:"audience,omitempty"`
	JWKS       any      `json:"jwks,omitempty"`
	SigningAlg string   `json:"token_endpoint_auth_signing_alg,omitempty"`
}

// StartHydra runs Hydra, with its data in memory, until the test ends; with a CA it is reached over
// TLS. Name and value of environment variables follow as NAME=value.
func StartHydra(tb testing.TB, ca *CA, env ...string) *Hydra {
	tb.Helper()
	dir := socketDir(tb)
	public, admin := filepath.Join(dir, "public.sock"), filepath.Join(dir, "admin.sock")
	h := &Hydra{TokenEndpoint: NewTokenEndpoint(tb, ca), admin: UnixClient(tb, admin)}
	h.URL = h.Base + "/oauth2/token"
	h.RespondWith(passTo(tb, public))

	cmd := exec.Command(hydraProgram.build(tb), "serve", "all", "--dev")
	cmd.Dir = dir
	cmd.Env = append([]string{
		"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "DSN=memory", "SQA_OPT_OUT=true", "LOG_LEVEL=warn",
		"SECRETS_SYSTEM=a-secret-of-the-tests", "URLS_SELF_ISSUER=" + h.Base,
		"SERVE_PUBLIC_HOST=unix:" + public, "SERVE_ADMIN_HOST=unix:" + admin,
	}, env...)
	startProcess(tb, cmd).waitServer(tb, "Hydra", admin, "/health/ready")
	return h
}

// Register makes a client known, or replaces what is known of it.
func (h *Hydra) Register(tb testing.TB, client HydraClient) {
	tb.Helper()
	if client.GrantTypes == nil {
		client.GrantTypes = []string{"client_credentials"}
	}
	text, err := json.Marshal(client)
	if err != nil {
		tb.Fatal(err)
	}
	path := "http://hydra/admin/clients"
	if h.send(tb, http.MethodPost, path, text) == http.StatusConflict {
		if status := h.send(tb, http.MethodPut, path+"/"+url.PathEscape(client.ID), text); status != http.StatusOK {
			tb.Fatalf("Hydra responded %d to a changed client", status)
		}
	}
}

func (h *Hydra) send(tb testing.TB, method, address string, body []byte) (status int) {
	tb.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(string(body)))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := h.admin.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 && res.StatusCode != http.StatusConflict {
		tb.Fatalf("Hydra responded %d", res.StatusCode)
	}
	return res.StatusCode
}

// Introspect returns what the server knows of a token.
func (h *Hydra) Introspect(tb testing.TB, token string) map[string]any {
	tb.Helper()
	return postForm(tb, h.admin, "http://hydra/admin/oauth2/introspect", url.Values{"token": {token}})
}

func postForm(tb testing.TB, client *http.Client, address string, form url.Values) map[string]any {
	tb.Helper()
	res, err := client.PostForm(address, form)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		tb.Fatalf("status %d of %s", res.StatusCode, address)
	}
	var response map[string]any
	if err := json.NewDecoder(res.Body).Decode(&response); err != nil {
		tb.Fatal(err)
	}
	return response
}

// StartGoOAuth2 runs a go-oauth2 server with one client until the test ends. It does not decode id
// and secret inside the Basic header.
func StartGoOAuth2(tb testing.TB, id, secret string) *TokenEndpoint {
	tb.Helper()
	socket := filepath.Join(socketDir(tb), "oauth2.sock")
	endpoint := NewTokenEndpoint(tb, nil)
	endpoint.URL = endpoint.Base + "/token"
	endpoint.RespondWith(passTo(tb, socket))
	cmd := exec.Command(goOAuth2Program.build(tb), "-socket", socket, "-id", id, "-secret", secret)
	startProcess(tb, cmd).waitServer(tb, "go-oauth2", socket, "/token")
	return endpoint
}
