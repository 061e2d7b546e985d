package httphelper

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// boundTo hands out tokens that are bound to the certificate as it is.
func boundTo(l *certificateLoader) func(context.Context, int) (*grantedToken, error) {
	return func(_ context.Context, call int) (*grantedToken, error) {
		certificate, err := l.load()
		if err != nil {
			return nil, err
		}
		token := tokenFor(call, time.Hour)
		token.certificate = certificate
		return token, nil
	}
}

// watchedConnection has a source whose fetcher is f, and watches a certificate.
func watchedConnection(t *testing.T, f *fakeFetcher) *activeConnection {
	t.Helper()
	c := new(activeConnection)
	c.values = &resolvedConnection{certificate: newLoader(t)}
	c.clients.certified = new(certificateTransports)
	f.answers(boundTo(c.values.certificate))
	c.tokens.source, _ = startSource(t, f)
	c.watchCertificate()
	t.Cleanup(func() { close(c.watching) })
	return c
}

// TestBoundTokenIsReplacedWithItsCertificate in the background: the request that finds it out goes
// on with the token in hand, and none is fetched without a request.
func TestBoundTokenIsReplacedWithItsCertificate(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := new(fakeFetcher)
		c := watchedConnection(t, f)
		first := mustToken(t, c.tokens.source)
		time.Sleep(2 * certificatePause)
		wantToken(t, c.tokens.source, "token-1")
		wantCalls(t, f, 1)

		writeCertificate(t, filepath.Dir(c.values.certificate.certFile), "second")
		time.Sleep(2 * certificatePause)
		wantCalls(t, f, 1)
		if mustToken(t, c.tokens.source).value != first.value {
			t.Error("the request had to wait for a newer token")
		}
		wantCalls(t, f, 2)
		if second := mustToken(t, c.tokens.source); second.certificate.Leaf.Subject.CommonName != "second" {
			t.Errorf("bound to %v", second.certificate.Leaf.Subject)
		}
		time.Sleep(2 * certificatePause)
		wantToken(t, c.tokens.source, "token-2")
		wantCalls(t, f, 2)
	})
}

// TestBoundTokenStays while its certificate does, whoever has loaded it, and while that cannot be
// read.
func TestBoundTokenStays(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := new(fakeFetcher)
		c := watchedConnection(t, f)
		f.answers(boundTo(&certificateLoader{certFile: c.values.certificate.certFile, keyFile: c.values.certificate.keyFile})) // of a config before
		mustToken(t, c.tokens.source)
		time.Sleep(2 * certificatePause)
		wantToken(t, c.tokens.source, "token-1")
		putFile(t, c.values.certificate.keyFile, "")
		time.Sleep(2 * replacementTime)
		wantToken(t, c.tokens.source, "token-1")
		wantCalls(t, f, 1)
	})
}

// TestUnboundTokenStays when the certificate changes: only tokens that are bound to it depend on it.
func TestUnboundTokenStays(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := new(fakeFetcher)
		c := watchedConnection(t, f)
		f.answers(nil)
		mustToken(t, c.tokens.source)
		writeCertificate(t, filepath.Dir(c.values.certificate.certFile), "second")
		time.Sleep(2 * certificatePause)
		wantToken(t, c.tokens.source, "token-1")
		wantCalls(t, f, 1)
	})
}

// TestWatchEndsWithTheConnection, and is for those that have a certificate.
func TestWatchEndsWithTheConnection(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), "first")
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

func TestOutdatedTokenThatIsGone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := new(fakeFetcher)
		s, _ := startSource(t, f)
		old := mustToken(t, s)
		old.certificate = new(tls.Certificate)
		if err := s.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.outdate(old)
		wantToken(t, s, "token-2")
		wantCalls(t, f, 2)
	})
}

// TestOutdatedTokenOfAWarmSource is replaced without a request.
func TestOutdatedTokenOfAWarmSource(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := new(fakeFetcher)
		s, _ := startSource(t, f, warm)
		wantCalls(t, f, 1)
		s.outdate(s.peek())
		wantCalls(t, f, 2)
	})
}
