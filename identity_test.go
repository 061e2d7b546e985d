package httphelper

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// TestCredentialsMakeTheIdentity: clients of one id that prove it with other credentials never share
// a token, and the same credentials are the same however they are written.
func TestCredentialsMakeTheIdentity(t *testing.T) {
	dir := t.TempDir()
	certFile, certKey := keystest.WriteCertificate(t, dir, "first")
	otherCert, otherKey := keystest.WriteCertificate(t, t.TempDir(), "second")
	renewedCert, renewedKey := filepath.Join(dir, "renewed.crt"), filepath.Join(dir, "renewed.key")
	keystest.PutFile(t, renewedCert, keystest.GetFile(t, certFile))
	keystest.PutFile(t, renewedKey, keystest.GetFile(t, certKey))
	for _, name := range []string{"key1", "key2", "dpop1", "dpop2"} {
		keystest.PutFile(t, filepath.Join(dir, name), string(keystest.PEM(t, "ec256"))) // even of equal content: it may change
	}
	for _, name := range []string{"secret1", "secret2", "assertion1", "assertion2"} {
		keystest.PutFile(t, filepath.Join(dir, name), oauthtest.Secret)
	}
	t.Setenv("IDENTITY_KEY", string(keystest.PEM(t, "ec256")))
	t.Setenv("IDENTITY_OTHER_KEY", string(keystest.PEM(t, "ec384")))

	var different []string
	with := func(method string, options ...string) {
		for _, option := range options {
			different = append(different, "auth_method "+method+"\n"+option)
		}
	}
	for _, method := range []string{"client_secret_basic", "client_secret_post", "client_secret_jwt"} {
		with(method, "client_secret "+oauthtest.Secret, "client_secret "+oauthtest.Secret+"x", "client_secret_file $DIR/secret1", "client_secret_file $DIR/secret2")
	}
	const key = "client_key_file $DIR/key1\n"
	with("client_secret_jwt", "client_secret "+oauthtest.Secret+"\nsigning_alg HS512", "client_secret "+oauthtest.Secret+"\nkey_id a")
	with("private_key_jwt",
		key, "client_key_file $DIR/key2", "client_key {env.IDENTITY_KEY}", "client_key {env.IDENTITY_OTHER_KEY}",
		key+"key_id a", key+"key_id b", key+"signing_alg ES256", key+"assertion_audience a", key+"assertion_audience b", key+"assertion_lifetime 30s",
		"client_assertion_file $DIR/assertion1", "client_assertion_file $DIR/assertion2",
		key+"client_certificate "+certFile+" "+certKey, key+"client_certificate "+otherCert+" "+otherKey,
		key+"dpop", key+"dpop $DIR/dpop1", key+"dpop $DIR/dpop2")
	with("tls_client_auth", "client_certificate "+certFile+" "+certKey, "client_certificate "+renewedCert+" "+certKey, "client_certificate "+certFile+" "+renewedKey, "client_certificate "+otherCert+" "+otherKey)
	with("none", "", "dpop")
	equal := [][2]string{
		{key, "client_key {file.$DIR/key1}"},
		{"client_key {env.IDENTITY_KEY}", "client_key \"" + string(keystest.PEM(t, "ec256")) + "\""},
	}

	var all []string
	add := func(options string) string {
		name := fmt.Sprintf("c%d", len(all))
		all = append(all, "connection "+name+" {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\n"+
			strings.ReplaceAll(options, "$DIR", dir)+"\n}\n")
		return name
	}
	names := make(map[string]string)
	for _, options := range different {
		names[add(options)] = options
	}
	var pairs [][2]string
	for _, pair := range equal {
		pairs = append(pairs, [2]string{add("auth_method private_key_jwt\n" + pair[0]), add("auth_method private_key_jwt\n" + pair[1])})
	}
	loadCaddyfile(t, "{\n\thttp_helper {\n"+strings.Join(all, "")+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })

	active := activeApp().active
	seen := make(map[token.Key]string)
	for name, options := range names {
		id := active[name].values.TokenKey()
		if other, ok := seen[id]; ok {
			t.Errorf("these share tokens:\n%s\n\n%s", other, options)
		}
		seen[id] = options
	}
	for i, pair := range pairs {
		if active[pair[0]].values.TokenKey() != active[pair[1]].values.TokenKey() {
			t.Errorf("these do not share tokens: %q", equal[i])
		}
	}
}
