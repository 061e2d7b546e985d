// Package docs_test loads and checks what the documentation shows.
package docs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-httphelper/caddy-httphelper"
)

// TestMain has the tests run in the root of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		panic(err)
	}
	m.Run()
}

// documents are all pages that people read.
func documents(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "connectors/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 10 {
		t.Fatalf("only %d pages", len(files))
	}
	return files
}

func readDocument(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// frames are what a block is part of, by the word behind `caddyfile`; none: it is a whole file.
var frames = map[string]string{
	"":           "%s",
	"site":       "{\n\tadmin off\n}\n\n:8080 {\n%s}\n",
	"global":     "{\n\tadmin off\n\thttp_helper {\n\tconnection a {\n\tbase_url https://api.example.com\n\ttoken_url https://auth.example.com/token\n\tclient_id a\n\tclient_secret {env.SECRET}\n}\n%s\n}\n}\n",
	"block":      "{\n\tadmin off\n}\n\n:8080 {\n\thttp_helper https://api.example.com {\n\ttoken_url https://auth.example.com/token\n\tclient_id a\n%s\n}\n}\n",
	"connection": "{\n\tadmin off\n\thttp_helper {\n\tconnection a {\n\tbase_url https://api.example.com\n\ttoken_url https://auth.example.com/token\n%s\n}\n}\n}\n",
}

// otherModules are options with modules that this test does not have. The integration tests adapt Caddyfiles
// that have them.
var otherModules = regexp.MustCompile(`\bstorage redis\b`)

var caddyfileFence = regexp.MustCompile("(?ms)^```caddyfile *(\\w*)\n(.*?)^```$")

// TestCaddyfilesInDocsLoad has every Caddyfile in the documentation loaded, as far as that is possible
// without starting it: the variables that it reads are set, and its files are there.
func TestCaddyfilesInDocsLoad(t *testing.T) {
	for _, file := range documents(t) {
		for i, block := range caddyfileFence.FindAllStringSubmatch(readDocument(t, file), -1) {
			t.Run(fmt.Sprintf("%s/%d", file, i+1), func(t *testing.T) {
				frame, ok := frames[block[1]]
				if !ok {
					t.Fatalf("a block cannot be part of %q", block[1])
				}
				text := block[2]
				if otherModules.MatchString(text) {
					t.Skip("this Caddy lacks a module of it")
				}
				if block[1] == "block" && !strings.Contains(text, "client_") {
					text += "client_secret {env.SECRET}\n"
				}
				loadDocumented(t, withFiles(t, fmt.Sprintf(frame, text)))
			})
		}
	}
}

// TestCaddyfilesInDocsAreFormatted as `caddy fmt` does it, so that Caddy does not warn about a copy.
func TestCaddyfilesInDocsAreFormatted(t *testing.T) {
	for _, file := range documents(t) {
		for _, block := range caddyfileFence.FindAllStringSubmatch(readDocument(t, file), -1) {
			if formatted := string(caddyfile.Format([]byte(block[2]))); strings.TrimSpace(formatted) != strings.TrimSpace(block[2]) {
				t.Errorf("%s: caddy fmt makes of a block\n%s", file, formatted)
			}
		}
	}
}

var (
	documentedEnv  = regexp.MustCompile(`\{env\.([A-Za-z0-9_]+)\}`)
	documentedPath = regexp.MustCompile(`(?:\{env\.(?:HOME|CREDENTIALS_DIRECTORY)\}|/(?:var/)?(?:run|etc))/[A-Za-z0-9_./-]+`)
)

// withFiles sets the variables of a Caddyfile, and puts files of the test's into the place of its own.
func withFiles(t *testing.T, caddyfile string) string {
	t.Helper()
	dir := t.TempDir()
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := documentedPair(t, ecKey)
	if strings.Contains(caddyfile, "_rsa_key.pem") {
		rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		certificate, key = documentedPair(t, rsaKey)
	}
	caddyfile = documentedPath.ReplaceAllStringFunc(caddyfile, func(path string) string {
		own := filepath.Join(dir, filepath.Base(path))
		content := "value"
		switch {
		case strings.HasSuffix(path, "_key.pem"):
			content = key
		case strings.HasSuffix(path, "_cert.pem"):
			content = certificate
		case strings.HasPrefix(filepath.Base(path), "token_key"):
			content = strings.Repeat("0f", 32)
		}
		if err := os.WriteFile(own, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return own
	})
	for _, match := range documentedEnv.FindAllStringSubmatch(caddyfile, -1) {
		value := "value"
		if strings.HasSuffix(match[1], "_PROXY") {
			value = "http://app:value@proxy.example:3128"
		}
		t.Setenv(match[1], value)
	}
	// Imports are relative to the Caddyfile.
	return strings.ReplaceAll(caddyfile, "import connectors/", "import "+absolute(t, "connectors")+"/")
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// documentedPair is a certificate for a key and the key, PEM.
func documentedPair(t *testing.T, private crypto.Signer) (certificate, key string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "docs"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", certDER), encode("PRIVATE KEY", keyDER)
}

func loadDocumented(t *testing.T, caddyfile string) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v\n%s", err, caddyfile)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(config); err != nil {
		t.Errorf("%v\n%s", err, caddyfile)
	}
}

// TestDocumentedCaddyfilesUseNoTCPAdmin keeps the examples from teaching an admin endpoint that the
// app can reach.
func TestDocumentedCaddyfilesUseNoTCPAdmin(t *testing.T) {
	for _, file := range documents(t) {
		for _, block := range caddyfileFence.FindAllStringSubmatch(readDocument(t, file), -1) {
			if block[1] == "" && !strings.Contains(block[2], "\tadmin unix/") && !strings.Contains(block[2], "\tadmin off") {
				t.Errorf("%s has a Caddyfile with an admin endpoint on TCP:\n%s", file, block[2])
			}
		}
	}
}

// TestTestsNamedInDocs looks for the tests that the documentation calls its proofs.
func TestTestsNamedInDocs(t *testing.T) {
	var sources strings.Builder
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".tools") {
			return filepath.SkipDir
		}
		if err == nil && strings.HasSuffix(path, "_test.go") {
			sources.WriteString(readDocument(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")
	for _, file := range documents(t) {
		for _, match := range named.FindAllStringSubmatch(readDocument(t, file), -1) {
			if !strings.Contains(sources.String(), "\nfunc "+match[1]+"(") {
				t.Errorf("%s names %s, which is not there", file, match[1])
			}
		}
	}
}
