package integration

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// openssl runs the command, and returns what it writes.
func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", args[0], err, output)
	}
	return string(output)
}

// makeRSACertificate has openssl make a key and a certificate for it in the sidecar's directory.
func makeRSACertificate(t *testing.T, w *world) {
	t.Helper()
	openssl(t, w.Dir, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "1", "-subj", "/CN=app")
}

// TestEntraAssertionFitsItsCertificate has openssl, which knows nothing of the sidecar, check the assertion of
// the ready connector in the way of Entra ID: the certificate's digest finds the certificate, and its key the
// signature right.
func TestEntraAssertionFitsItsCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	makeRSACertificate(t, w)
	connector, err := os.ReadFile(filepath.Join("..", "connectors", "microsoft-entra-certificate.caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("https://{param.cloud}/{param.tenant}/oauth2/v2.0/token", "$TOKENS", "https://{param.api}", "$API").Replace(string(connector))
	w.Run(t, w.expand(options{}, harness.Config{
		Options: "http_helper {\n" + here + `
			connection entra microsoft-entra-certificate {
				client_id app
				parameter tenant t
				parameter api a
				additional_scopes https://api.example/.default
				client_key_file $DIR/key.pem
				client_key_certificate $DIR/cert.pem
				signing_alg PS256
			}
		}`,
		Site: "http_helper entra",
	}))
	w.wantOK(t)
	form := w.tokens.Only(t).Form()
	equal(t, "type", form.Get("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	equal(t, "scope", form.Get("scope"), "https://api.example/.default")
	header, claims := decodeJWT(t, form.Get("client_assertion"))
	parts := strings.Split(form.Get("client_assertion"), ".")
	w.File(t, "signed", parts[0]+"."+parts[1])
	w.File(t, "signature", string(decode64(t, parts[2])))
	w.File(t, "public.pem", openssl(t, w.Dir, "x509", "-in", "cert.pem", "-noout", "-pubkey"))
	verified := openssl(t, w.Dir, "dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32", "-verify", "public.pem", "-signature", "signature", "signed")
	equal(t, "openssl says", strings.TrimSpace(verified), "Verified OK")

	equal[any](t, "alg", header["alg"], "PS256")
	equal[any](t, "typ", header["typ"], "JWT")
	thumbprint, _ := header["x5t#S256"].(string)
	_, fingerprint, _ := strings.Cut(openssl(t, w.Dir, "x509", "-in", "cert.pem", "-noout", "-fingerprint", "-sha256"), "=")
	equal(t, "x5t#S256", strings.ToUpper(hex.EncodeToString(decode64(t, thumbprint))), strings.ReplaceAll(strings.TrimSpace(fingerprint), ":", ""))
	equal[any](t, "iss", claims["iss"], "app")
	equal[any](t, "sub", claims["sub"], "app")
	equal[any](t, "aud", claims["aud"], w.tokens.URL)
}

func decode64(t *testing.T, text string) []byte {
	t.Helper()
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func decodeJWT(t *testing.T, text string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 || json.Unmarshal(decode64(t, parts[0]), &header) != nil || json.Unmarshal(decode64(t, parts[1]), &claims) != nil {
		t.Fatalf("%q is no JWT", text)
	}
	return header, claims
}

// TestOIDCProviderTakesAnAssertionWithACertificate: it knows the client's key by the certificate, and takes the
// assertion under either typ.
func TestOIDCProviderTakesAnAssertionWithACertificate(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"JWT", "client-authentication+jwt"} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			w := &world{Sidecar: harness.New(t), api: harness.NewAPI(t, nil, nil)}
			makeRSACertificate(t, w)
			server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{Scopes: []string{"a", "b"}, Clients: []map[string]any{
				introspector, oidcClient("app", "private_key_jwt", map[string]any{"jwks": certificateSet(t, filepath.Join(w.Dir, "cert.pem")), "token_endpoint_auth_signing_alg": "PS256"}),
			}})
			w.tokens = server.TokenEndpoint
			w.Run(t, w.inline(options{
				service:    "auth_method private_key_jwt\nassertion_typ " + typ,
				secretLine: "client_key_file $DIR/key.pem\nclient_key_certificate $DIR/cert.pem\nsigning_alg PS256",
			}))
			wantStatus(t, w.Get(t, "/"), http.StatusOK)
			response := server.Introspect(t, "introspector", longSecret, harness.Bearer(w.api.Last(t).Header))
			equal[any](t, "client", response["client_id"], "app")
			header, _ := decodeJWT(t, w.tokens.Only(t).Form().Get("client_assertion"))
			equal[any](t, "typ", header["typ"], typ)
			if header["x5t#S256"] == nil {
				t.Errorf("the header is %v", header)
			}
		})
	}
}

// TestSPIFFE has the ready connector for Keycloak send the SVID that another program writes into a file and
// replaces.
func TestSPIFFE(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	connector, err := os.ReadFile(filepath.Join("..", "connectors", "keycloak-spiffe.caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("https://{param.host}/realms/{param.realm}/protocol/openid-connect/token", "$TOKENS", "https://{param.api}", "$API").Replace(string(connector))
	w.File(t, "svid.jwt", "first.jwt.svid")
	w.Run(t, w.expand(options{}, harness.Config{
		Options: "http_helper {\n" + here + `
			connection billing keycloak-spiffe {
				client_id spiffe://example.org/billing
				client_assertion_file $DIR/svid.jwt
				parameter host h
				parameter realm r
				parameter api a
			}
		}`,
		Site: "http_helper billing",
	}))
	w.wantOK(t)
	w.File(t, "svid.jwt", "second.jwt.svid")
	w.tokens.Revoke()
	w.wantOK(t)
	var sent []string
	for _, request := range w.tokens.Requests() {
		form := request.Form()
		equal(t, "type", form.Get("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe")
		equal(t, "client_id", form.Get("client_id"), "spiffe://example.org/billing")
		sent = append(sent, form.Get("client_assertion"))
	}
	equal(t, "assertions", strings.Join(sent, " "), "first.jwt.svid second.jwt.svid")
}
