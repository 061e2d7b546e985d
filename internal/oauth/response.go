package oauth

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/jsonpointer"
)

const (
	MaxResponseBytes = 1 << 20  // bytes, decompressed
	maxToken         = 16 << 10 // bytes

	minLifetime             = time.Second
	maxLifetime             = 24 * time.Hour
	defaultLifetime         = 5 * time.Minute
	DefaultTokenPointer     = "/access_token"
	DefaultExpiresInPointer = "/expires_in"

	typeBearer = "Bearer"
	TypeDPoP   = "DPoP"
)

// parseResponse turns the answer of a token endpoint into a token or a *Error.
func (r *Request) parseResponse(ctx context.Context, resp *http.Response, sent time.Time) (*Token, error) {
	good := resp.StatusCode >= 200 && resp.StatusCode <= 299
	body, err := ReadBody(resp)
	switch {
	case err == nil:
	case !errors.Is(err, ErrUnreadable):
		return nil, networkFailure(ctx, tokenEndpoint, err)
	case good:
		return nil, ConfigurationErrorf("%s's response is %v", tokenEndpoint, err)
	}
	answer := response{root: ParseJSON(body)}
	pointer := cmp.Or(r.TokenPointer, DefaultTokenPointer)
	answer.beside, _ = jsonpointer.Find(answer.root, pointer[:max(strings.LastIndexByte(pointer, '/'), 0)])
	if code := answer.text("error"); code != "" || !good {
		return nil, r.errorFor(resp, code)
	}
	return r.parseToken(answer, sent)
}

// ErrUnreadable marks answers that arrived but cannot be used, whatever they say.
var ErrUnreadable = errors.New("not readable")

type unreadable string

func (u unreadable) Error() string      { return string(u) }
func (unreadable) Is(target error) bool { return target == ErrUnreadable }

// ReadBody reads a bounded body. The limit counts before and after decompression, which is ours:
// what is wrong with a body that has arrived whole is no failure of the network.
func ReadBody(resp *http.Response) ([]byte, error) {
	body, err := readBounded(resp.Body)
	if err != nil || !isGzip(resp.Header.Get("Content-Encoding")) {
		return body, err
	}
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = readBounded(reader)
	}
	if err != nil && !errors.Is(err, ErrUnreadable) {
		return nil, unreadable("badly compressed")
	}
	return body, err
}

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxResponseBytes+1))
	if len(body) > MaxResponseBytes {
		return nil, unreadable("larger than 1 MiB")
	}
	return body, err
}

// isGzip knows both names (RFC 9110 §8.4.1.3).
func isGzip(encoding string) bool {
	return strings.EqualFold(encoding, "gzip") || strings.EqualFold(encoding, "x-gzip")
}

// response is a token endpoint's answer: any JSON. A nil root is none.
type response struct {
	root   any
	beside any // the object that holds the token
}

// trimBOM takes off the byte order mark that some servers put before their JSON (RFC 8259 §8.1).
func trimBOM(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\ufeff")) }

// ParseJSON reads a JSON document, nil if it is none. Numbers stay as they are written, so that huge
// ones do no harm.
func ParseJSON(body []byte) any {
	decoder := json.NewDecoder(bytes.NewReader(trimBOM(body)))
	decoder.UseNumber()
	var root any
	if decoder.Decode(&root) != nil {
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil
	}
	return root
}

// member returns a member of the object that holds the token, else of the whole answer.
func (a response) member(name string) any {
	for _, place := range []any{a.beside, a.root} {
		object, _ := place.(map[string]any)
		if value := object[name]; value != nil {
			return value
		}
	}
	return nil
}

// text returns a member that is a string, else "".
func (a response) text(name string) string {
	text, _ := a.member(name).(string)
	return text
}

// parseToken reads the token out of a successful answer (RFC 6749 §5.1, rules 4 to 6).
func (r *Request) parseToken(answer response, sent time.Time) (*Token, error) {
	if answer.root == nil {
		return nil, ConfigurationErrorf("the token endpoint's response is not JSON: check token_url")
	}
	token, err := r.tokenIn(answer)
	if err != nil {
		return nil, err
	}
	kind, err := r.tokenType(answer)
	if err != nil {
		return nil, err
	}
	granted := &Token{Value: token, Type: kind, Sent: sent, DPoP: r.DPoP}
	if r.bindsCertificate(token) {
		granted.Certificate = r.Certificate
	}
	granted.Lifetime, granted.HasExpiresIn = r.lifetime(answer)
	granted.Granted = r.grantedScopes(answer)
	granted.Missing = missingScopes(r.Scopes, granted.Granted)
	return granted, r.checkRequired(granted.Missing)
}

func (r *Request) tokenIn(answer response) (string, error) {
	pointer := cmp.Or(r.TokenPointer, DefaultTokenPointer)
	value, _ := jsonpointer.Find(answer.root, pointer)
	token, _ := value.(string)
	switch {
	case token == "":
		return "", ConfigurationErrorf("the token endpoint's response has no token at %s: check token_url and token_pointer", pointer)
	case len(token) > maxToken:
		return "", ConfigurationErrorf("the token endpoint's token is longer than 16 KiB")
	case strings.ContainsFunc(token, notInToken):
		return "", ConfigurationErrorf("the token endpoint's token has a character that is not allowed in a header")
	}
	return token, nil
}

func notInToken(c rune) bool { return c <= 0x20 || c > 0x7e }

// tokenType checks that the token is of the kind that was asked for.
func (r *Request) tokenType(answer response) (string, error) {
	if r.DPoP != nil {
		if !strings.EqualFold(answer.text("token_type"), TypeDPoP) {
			return "", ConfigurationErrorf("the token endpoint's response has another token_type than DPoP: the client cannot have DPoP-bound tokens")
		}
		return TypeDPoP, nil
	}
	switch kind := answer.member("token_type").(type) {
	case nil:
		return typeBearer, nil
	case string:
		if kind == "" || strings.EqualFold(kind, typeBearer) {
			return typeBearer, nil
		}
	}
	return "", ConfigurationErrorf("the token endpoint's response has another token_type than Bearer: check dpop and token_request_param")
}

// lifetime returns how long the token lives, and whether the server said so.
func (r *Request) lifetime(answer response) (life time.Duration, dated bool) {
	value, _ := jsonpointer.Find(answer.root, cmp.Or(r.ExpiresInPointer, DefaultExpiresInPointer))
	seconds, ok := positiveSeconds(value)
	if !ok {
		return clampLifetime(cmp.Or(r.DefaultLifetime, defaultLifetime)), false
	}
	if seconds >= maxLifetime.Seconds() {
		return maxLifetime, true
	}
	return clampLifetime(time.Duration(seconds * float64(time.Second))), true
}

func clampLifetime(life time.Duration) time.Duration {
	return min(max(life, minLifetime), maxLifetime)
}

// positiveSeconds reads a number or a numeric string. One that is too large is infinite.
func positiveSeconds(value any) (seconds float64, ok bool) {
	var text string
	switch value := value.(type) {
	case json.Number:
		text = value.String()
	case string:
		text = strings.TrimSpace(value)
	}
	// ParseFloat also reads "inf", "nan" and hexadecimal numbers.
	if strings.Trim(text, "0123456789+-.eE") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrRange) && math.IsInf(seconds, 1) {
		err = nil
	}
	return seconds, err == nil && seconds > 0
}

// bindsCertificate reports whether the token is bound to the client certificate (RFC 8705 §3). A
// JWT says so itself; any other is taken to be if the certificate was the proof of the client.
func (r *Request) bindsCertificate(token string) bool {
	if confirmed, readable := confirmsCertificate(token); readable {
		return confirmed
	}
	return r.CertificateProves
}

// confirmsCertificate reports whether a token is a JWT that can be read, and whether that names a
// certificate (RFC 8705 §3.1).
func confirmsCertificate(token string) (confirmed, readable bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false, false
	}
	var claims struct {
		Confirmation struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return false, false
	}
	return claims.Confirmation.Thumbprint != "", true
}
