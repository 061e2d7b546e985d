package httphelper

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// boundTo hands out tokens that are bound to the certificate as it is.
func boundTo(l *keys.Certificate) func(context.Context, int) (*oauth.Token, error) {
	return func(_ context.Context, call int) (*oauth.Token, error) {
		certificate, err := l.Load()
		if err != nil {
			return nil, err
		}
		t := tokentest.Token(call, time.Hour)
		t.Certificate = certificate
		return t, nil
	}
}

// quietOwner is not interested in files that cannot be used.
type quietOwner struct{}

func (quietOwner) WarnUnusable(error) {}

// watchedConnection has a source whose fetcher is f, and watches a certificate.
func watchedConnection(t *testing.T, f *tokentest.Fetcher) *activeConnection {
	t.Helper()
	c := new(activeConnection)
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	c.values = &resolve.Connection{Certificate: &keys.Certificate{CertFile: certFile, KeyFile: keyFile}}
	c.values.Certificate.Last.Owner = quietOwner{}
	c.clients.certified = new(httptransport.ByCertificate)
	f.SetRespond(boundTo(c.values.Certificate))
	c.tokens.source = token.NewSource()
	user := &token.User{Name: "billing", Fetcher: f}
	c.tokens.source.Attach(user)
	c.tokens.source.Start(user)
	c.watchCertificate()
	t.Cleanup(func() { close(c.watching) })
	return c
}

// TestBoundTokenIsReplacedWithItsCertificate in the background: the request that finds it out goes
// on with the token in hand, and none is fetched without a request.
func TestBoundTokenIsReplacedWithItsCertificate(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		c := watchedConnection(t, f)
		first := tokentest.MustToken(t, c.tokens.source)
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.tokens.source, "token-1")
		tokentest.WantCalls(t, f, 1)

		keystest.WriteCertificate(t, filepath.Dir(c.values.Certificate.CertFile), "second")
		time.Sleep(2 * certificatePause)
		tokentest.WantCalls(t, f, 1)
		if tokentest.MustToken(t, c.tokens.source).Value != first.Value {
			t.Error("the request had to wait for a newer token")
		}
		tokentest.WantCalls(t, f, 2)
		if second := tokentest.MustToken(t, c.tokens.source); second.Certificate.Leaf.Subject.CommonName != "second" {
			t.Errorf("bound to %v", second.Certificate.Leaf.Subject)
		}
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.tokens.source, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

// TestBoundTokenStays while its certificate does, whoever has loaded it, and while that cannot be
// read.
func TestBoundTokenStays(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		c := watchedConnection(t, f)
		f.SetRespond(boundTo(&keys.Certificate{CertFile: c.values.Certificate.CertFile, KeyFile: c.values.Certificate.KeyFile})) // of a config before
		tokentest.MustToken(t, c.tokens.source)
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.tokens.source, "token-1")
		keystest.PutFile(t, c.values.Certificate.KeyFile, "")
		time.Sleep(2 * keys.ReplacementTime)
		tokentest.WantToken(t, c.tokens.source, "token-1")
		tokentest.WantCalls(t, f, 1)
	})
}

// TestUnboundTokenStays when the certificate changes: only tokens that are bound to it depend on it.
func TestUnboundTokenStays(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		c := watchedConnection(t, f)
		f.SetRespond(nil)
		tokentest.MustToken(t, c.tokens.source)
		keystest.WriteCertificate(t, filepath.Dir(c.values.Certificate.CertFile), "second")
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.tokens.source, "token-1")
		tokentest.WantCalls(t, f, 1)
	})
}

// TestWatchEndsWithTheConnection, and is for those that have a certificate.
func TestWatchEndsWithTheConnection(t *testing.T) {
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	const connection = "connection %s {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\nclient_secret s3cret\n%s\n}\n"
	loadCaddyfile(t, "{\n\thttp_helper {\n"+fmt.Sprintf(connection, "with", "client_certificate "+certFile+" "+keyFile)+
		fmt.Sprintf(connection, "without", "")+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	active := activeApp().active
	if active["without"].watching != nil {
		t.Error("a certificate that is not there is watched")
	}
	watching := active["with"].watching
	if watching == nil {
		t.Fatal("the certificate is not watched")
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	<-watching // else the test never ends
}
