package resolve

import (
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// fileSystem replaces readFile. Its files are not on disk, so that nothing else can read them.
type fileSystem struct {
	mu    sync.Mutex
	files map[string]string
	reads map[string]int // by path, those that failed included
}

// useFiles makes the package read its files from the file system until the test ends.
func useFiles(t *testing.T, files map[string]string) *fileSystem {
	t.Helper()
	f := &fileSystem{files: files, reads: make(map[string]int)}
	previous := readFile
	readFile = f.read
	t.Cleanup(func() { readFile = previous })
	return f
}

func (f *fileSystem) read(path string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads[path]++
	content, ok := f.files[path]
	if !ok {
		return "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return content, nil
}

// takeReads returns the reads since the last call.
func (f *fileSystem) takeReads() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	reads := f.reads
	f.reads = make(map[string]int)
	return reads
}

// secretFiles returns the content of every kind of file that a token request reads.
func secretFiles(t *testing.T) map[string]string {
	t.Helper()
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	return map[string]string{
		"/v/secret": oauthtest.Secret, "/v/key": string(keystest.PEM(t, "ec256")), "/v/keycert": string(keystest.CertificateFor(t, "ec256")), "/v/assertion": "header.payload.signature",
		"/v/cert": keystest.ReadFile(t, certFile), "/v/certkey": keystest.ReadFile(t, keyFile),
		"/v/dpop": string(keystest.PEM(t, "ec256")), "/v/header": "api-key-1", "/v/tenant": "acme", "/v/query": "api-key-2",
	}
}

// fileSpec returns a spec with all these files. The credentials of other methods are read too, if they
// are configured.
func fileSpec(t *testing.T, tokenURL string) *Spec {
	t.Helper()
	s := newSpec(t, "client_secret_basic")
	s.TokenURL = parse(t, tokenURL+"/{param.tenant}?key={file./v/query}")
	s.SecretFile, s.KeyFile, s.AssertionFile = parse(t, "/v/secret"), parse(t, "/v/key"), parse(t, "/v/assertion")
	s.KeyCertificateFile = parse(t, "/v/keycert")
	s.CertificateFile, s.CertificateKeyFile = parse(t, "/v/cert"), parse(t, "/v/certkey")
	s.DPoP, s.DPoPKeyFile = true, parse(t, "/v/dpop")
	s.TokenHeaders = []Field{{Name: "X-Api-Key", Value: *parse(t, "{file./v/header}")}}
	s.APIHeaders = []Field{{Name: "X-Api-Key", Value: *parse(t, "{file./v/header}")}, {Name: "X-Tenant", Value: *parse(t, "{param.tenant}")}}
	s.Parameters = []Parameter{{Key: "tenant"}}
	s.ParameterValues = map[string]ParameterValue{"tenant": {File: parse(t, "/v/tenant")}}
	return s
}

// wantReads wants one read of each file.
func wantReads(t *testing.T, got map[string]int, files map[string]string) {
	t.Helper()
	want := make(map[string]int)
	for path := range files {
		want[path] = 1
	}
	if !maps.Equal(got, want) {
		t.Errorf("reads %v, want one of each file", got)
	}
}

// TestTokenRequestReadsFilesOnce: the request, its fingerprint, the secrets to redact and the endpoint
// for people come from one pass, whether or not there is a token.
func TestTokenRequestReadsFilesOnce(t *testing.T) {
	const token = `{"access_token":"t1","token_type":"DPoP","expires_in":60}`
	for name, test := range map[string]struct {
		status  int // of the token endpoint; 0: it gets no request
		body    string
		missing string // file
	}{
		"token":           {status: http.StatusOK, body: token},
		"DPoP key gone":   {status: http.StatusOK, body: token, missing: "/v/dpop"}, // the last one is good for a moment
		"failing":         {status: http.StatusInternalServerError, body: "{}"},
		"refusing":        {status: http.StatusUnauthorized, body: `{"error":"invalid_client"}`},
		"no secret":       {missing: "/v/secret"},
		"no key":          {missing: "/v/key"},
		"no assertion":    {missing: "/v/assertion"},
		"no certificate":  {missing: "/v/cert"},
		"no cert. key":    {missing: "/v/certkey"},
		"no header value": {missing: "/v/header"},
		"no parameter":    {missing: "/v/tenant"},
		"no query value":  {missing: "/v/query"},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(test.status, test.body))
			files := secretFiles(t)
			fileSystem := useFiles(t, maps.Clone(files))
			c := newConnection(t, fileSpec(t, endpoint.URL))
			delete(fileSystem.files, test.missing)
			fileSystem.takeReads()

			if _, _, err := fetch(t, c); (err == nil) != (test.status == http.StatusOK) {
				t.Error(err)
			}
			if test.status == 0 && len(endpoint.All()) > 0 {
				t.Error("a token request without a file that it needs")
			}
			wantReads(t, fileSystem.takeReads(), files)

			// The log of a failure shows the endpoint.
			want := endpoint.URL + "/acme"
			if test.missing == "/v/tenant" || test.missing == "/v/query" {
				want = endpoint.URL + "/{param.tenant}"
			}
			if shown := c.Endpoint(); shown != want {
				t.Errorf("the endpoint is shown as %s, want %s", shown, want)
			}
			if reads := fileSystem.takeReads(); len(reads) > 0 {
				t.Errorf("the endpoint for people reads %v", reads)
			}
		})
	}
}

// TestFingerprintReadsFilesOnce, and changes with each of them.
func TestFingerprintReadsFilesOnce(t *testing.T) {
	files := secretFiles(t)
	fileSystem := useFiles(t, maps.Clone(files))
	c := newConnection(t, fileSpec(t, "https://auth.example"))
	fileSystem.takeReads()
	before := c.Fingerprint()
	wantReads(t, fileSystem.takeReads(), files)

	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "second")
	changes := map[string]string{
		"/v/key": string(keystest.PEM(t, "ec384")), "/v/dpop": string(keystest.PEM(t, "ec521")),
		"/v/keycert": string(keystest.CertificateFor(t, "ec256")),
		"/v/cert":    keystest.ReadFile(t, certFile), "/v/certkey": keystest.ReadFile(t, keyFile),
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if path == "/v/certkey" {
			continue // is replaced with the certificate
		}
		changed := maps.Clone(files)
		changed[path] += "x"
		if content := changes[path]; content != "" {
			changed[path] = content
		}
		switch path {
		case "/v/cert":
			changed["/v/certkey"] = changes["/v/certkey"]
		case "/v/key":
			changed["/v/keycert"] = string(keystest.CertificateFor(t, "ec384"))
		}
		fileSystem.files = changed
		if c.Fingerprint() == before {
			t.Errorf("%s has changed, but not the fingerprint", path)
		}
		fileSystem.files = maps.Clone(files)
		if c.Fingerprint() != before {
			t.Errorf("another fingerprint after %s was restored", path)
		}
	}
}
