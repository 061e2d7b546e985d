package oauthtest

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// Issuer serves metadata at one place. Its texts may contain ISSUER.
type Issuer struct {
	*Endpoint
	place    string
	Metadata atomic.Value // string
	Status   atomic.Int32
}

func NewIssuer(t *testing.T, place, metadata string) *Issuer {
	t.Helper()
	issuer := &Issuer{place: place}
	issuer.Metadata.Store(metadata)
	issuer.Status.Store(200)
	issuer.Endpoint = NewEndpoint(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != place {
			http.NotFound(w, req)
			return
		}
		Responds(int(issuer.Status.Load()), strings.ReplaceAll(issuer.Metadata.Load().(string), "ISSUER", issuer.URL))(w, req)
	})
	return issuer
}

const (
	OauthPlace    = "/.well-known/oauth-authorization-server"
	PlainMetadata = `{"issuer":"ISSUER","token_endpoint":"ISSUER/token","revocation_endpoint":"ISSUER/revoke"}`
)

func NewIssuerURL(t *testing.T, metadata string) string {
	t.Helper()
	return NewIssuer(t, OauthPlace, metadata).URL
}
