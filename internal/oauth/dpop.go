package oauth

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
)

// DPoPHeader is the field of a DPoP proof in a request.
const DPoPHeader = "DPoP"

const (
	dpopNonceHeader = "DPoP-Nonce"
	dpopJWTType     = "dpop+jwt"
	useDPoPNonce    = "use_dpop_nonce" // error code of a server that requires a nonce in the proof
	maxDPoPNonce    = 1 << 10          // bytes
)

// DPoPKey is a key that tokens are bound to (RFC 9449), with the nonces that servers have sent for its
// proofs. It is safe for concurrent use.
type DPoPKey struct {
	Thumbprint string // of the public key (RFC 7638)

	signer jose.Signer

	// A nonce is for the server that sent it, and a token endpoint and an API are two servers even at
	// one origin (RFC 9449 §9).
	tokenNonces, APINonces Nonces
}

// GenerateDPoPKey returns a new key.
func GenerateDPoPKey() (*DPoPKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a DPoP key: %w", err)
	}
	return newDPoPKey(&keys.SigningKey{Key: key, Alg: jose.ES256})
}

// ParseDPoPKey parses a private key, PEM or JWK. Its errors do not quote it.
func ParseDPoPKey(text string) (*DPoPKey, error) {
	key, err := keys.Parse([]byte(text), "", "")
	if err != nil {
		return nil, fmt.Errorf("dpop: %w", err)
	}
	return newDPoPKey(key)
}

func newDPoPKey(key *keys.SigningKey) (*DPoPKey, error) {
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(dpopJWTType)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.Alg, Key: key.Key}, options)
	if err != nil {
		return nil, errors.New("dpop: the key cannot sign")
	}
	thumbprint, err := key.Thumbprint()
	return &DPoPKey{signer: signer, Thumbprint: thumbprint}, err
}

// Proof returns the DPoP field of one request (RFC 9449 §4.2). accessToken is the token in the request, "" for a token
// request; nonce is the newest one of the server, "" if it has sent none. A proof must not be sent twice.
func (k *DPoPKey) Proof(method string, target *url.URL, accessToken, nonce string) (string, error) {
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": proofURL(target), "iat": time.Now().Unix()}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if accessToken != "" {
		hash := sha256.Sum256([]byte(accessToken))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(hash[:])
	}
	proof, err := jwt.Signed(k.signer).Claims(claims).Serialize()
	if err != nil {
		return "", errors.New("dpop: the key cannot sign")
	}
	return proof, nil
}

// sign adds a proof to a token request.
func (k *DPoPKey) sign(req *http.Request) error {
	proof, err := k.Proof(req.Method, req.URL, "", k.tokenNonces.Get(req.URL))
	if err != nil {
		return ConfigurationErrorf("%v", err)
	}
	req.Header.Set(DPoPHeader, proof)
	return nil
}

// WithDPoPProof returns a request to an API that has a new proof each time that net/http sends it: when
// a connection ends without a response, net/http sends the request again by itself, and the API may
// have seen the first proof. It changes the header of req.
func WithDPoPProof(req *http.Request, prove func() (string, error)) (*http.Request, error) {
	proof, err := prove()
	if err != nil {
		return nil, err
	}
	header := req.Header
	header.Set(DPoPHeader, proof)
	var sent atomic.Bool
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
		GetConn: func(string) {
			if !sent.CompareAndSwap(true, false) {
				return
			}
			if proof, err := prove(); err == nil {
				header.Set(DPoPHeader, proof)
			}
		},
	})), nil
}

// Nonces are the newest nonces of servers, by origin.
type Nonces struct {
	mu       sync.Mutex
	byOrigin map[string]string
}

// Set keeps the nonce in a response of the server at target for the next proof, and reports whether
// there is one (RFC 9449 §8).
func (n *Nonces) Set(target *url.URL, response http.Header) bool {
	nonce := NonceIn(response)
	if nonce == "" {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byOrigin == nil {
		n.byOrigin = make(map[string]string)
	}
	n.byOrigin[httpguard.Origin(target)] = nonce
	return true
}

// Get returns the newest nonce of the server at target, "" if it has sent none.
func (n *Nonces) Get(target *url.URL) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byOrigin[httpguard.Origin(target)]
}

// NonceIn returns the nonce in a response, "" if there is no usable one.
func NonceIn(response http.Header) string {
	nonce := response.Get(dpopNonceHeader)
	if len(nonce) > maxDPoPNonce || strings.ContainsFunc(nonce, notInToken) {
		return ""
	}
	return nonce
}

// proofURL returns the URL of a request for its proof: normalized, without query and fragment.
func proofURL(u *url.URL) string {
	return httpguard.Origin(u) + cmp.Or(u.EscapedPath(), "/")
}
