package oauthtest

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// Issuer serves metadata at one path. In them, ISSUER means the URL of the server.
type Issuer struct {
	*Endpoint
	Metadata atomic.Value // string
	Status   atomic.Int32
}

// NewIssuer starts an issuer that serves metadata at path.
func NewIssuer(t *testing.T, path, metadata string) *Issuer {
	t.Helper()
	issuer := new(Issuer)
	issuer.Metadata.Store(metadata)
	issuer.Status.Store(200)
	issuer.Endpoint = NewEndpoint(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != path {
			http.NotFound(w, req)
			return
		}
		Responds(int(issuer.Status.Load()), strings.ReplaceAll(issuer.Metadata.Load().(string), "ISSUER", issuer.URL))(w, req)
	})
	return issuer
}

// MetadataPath is where an issuer without a path has its metadata (RFC 8414 §3), and PlainMetadata are the
// simplest ones.
const (
	MetadataPath  = "/.well-known/oauth-authorization-server"
	PlainMetadata = `{"issuer":"ISSUER","token_endpoint":"ISSUER/token","revocation_endpoint":"ISSUER/revoke"}`
)

// NewIssuerURL starts an issuer with its metadata at MetadataPath, and returns its URL.
func NewIssuerURL(t *testing.T, metadata string) string {
	t.Helper()
	return NewIssuer(t, MetadataPath, metadata).URL
}
