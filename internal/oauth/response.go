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
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/jsonpointer"
)

const (
	MaxResponseBytes = 1 << 20  // of a body, compressed or not
	maxToken         = 16 << 10 // bytes
	maxTokenType     = 64       // bytes of a token_type that may be shown

	minLifetime     = time.Second
	maxLifetime     = 24 * time.Hour
	defaultLifetime = 5 * time.Minute

	// The pointers of a Request without them.
	DefaultTokenPointer     = "/access_token"
	DefaultExpiresInPointer = "/expires_in"
)

// parseResponse returns the token in a token endpoint's response to a request sent at that time, or an
// *Error.
func (r *Request) parseResponse(ctx context.Context, resp *http.Response, sent time.Time) (*Token, error) {
	body, err := ReadBody(resp)
	if err != nil && !errors.Is(err, ErrUnreadable) {
		return nil, networkFailure(ctx, tokenEndpoint, err)
	}
	granted, err := r.parseWhole(resp, body, err, sent)
	if failure, ok := errors.AsType[*Error](err); ok {
		failure.Responded, failure.ServerStatus = true, resp.StatusCode
	}
	if granted != nil {
		granted.Status = resp.StatusCode
	}
	return granted, err
}

// parseWhole is parseResponse for a response that has arrived whole. unreadable says why its body cannot be
// used, or is nil.
func (r *Request) parseWhole(resp *http.Response, body []byte, unreadable error, sent time.Time) (*Token, error) {
	successful := resp.StatusCode >= 200 && resp.StatusCode <= 299
	if unreadable != nil && successful {
		return nil, ConfigurationErrorf("%s's response is %v", tokenEndpoint, unreadable)
	}
	parsed := response{root: parseBody(resp.Header, body)}
	pointer := cmp.Or(r.TokenPointer, DefaultTokenPointer)
	parsed.parent, _ = jsonpointer.Find(parsed.root, pointer[:max(strings.LastIndexByte(pointer, '/'), 0)])
	if code := parsed.text("error"); code != "" || !successful {
		return nil, r.errorFor(resp, code)
	}
	return r.parseToken(parsed, sent)
}

// ErrUnreadable is the error of ReadBody for a response that has arrived but cannot be used.
var ErrUnreadable = errors.New("not readable")

// unreadable is an ErrUnreadable that says why.
type unreadable string

func (u unreadable) Error() string      { return string(u) }
func (unreadable) Is(target error) bool { return target == ErrUnreadable }

// ReadBody reads the body of a response, of at most MaxResponseBytes before and after decompression. It
// decompresses the body itself, to distinguish a bad body, an ErrUnreadable, from a failure of the
// network.
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

// isGzip reports whether a content coding is gzip, by either of its names (RFC 9110 §8.4.1.3).
func isGzip(encoding string) bool {
	return strings.EqualFold(encoding, "gzip") || strings.EqualFold(encoding, "x-gzip")
}

// response is the body of a token endpoint's response.
type response struct {
	root   any // as decoded from JSON; nil: it cannot be read
	parent any // the object that has the token
}

// trimBOM removes the byte order mark that some servers put before their JSON (RFC 8259 §8.1).
func trimBOM(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\ufeff")) }

// ParseJSON decodes a JSON document. It returns nil for anything else. Numbers are decoded as
// json.Number, so that huge ones do no harm.
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

// parseBody decodes a token endpoint's response: JSON, or the form that some servers respond with.
func parseBody(header http.Header, body []byte) any {
	if root := ParseJSON(body); root != nil {
		return root
	}
	if mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type")); mediaType != "application/x-www-form-urlencoded" {
		return nil
	}
	return parseForm(string(body))
}

// parseForm decodes a form as if it were a JSON object of strings, or nil if it is none. A name that is
// there several times is an array, so it is no string.
func parseForm(body string) any {
	fields, err := url.ParseQuery(strings.TrimSpace(body))
	if err != nil {
		return nil
	}
	root := make(map[string]any, len(fields))
	for name, values := range fields {
		if len(values) == 1 {
			root[name] = values[0]
			continue
		}
		list := make([]any, len(values))
		for i, value := range values {
			list[i] = value
		}
		root[name] = list
	}
	return root
}

// member returns a member of the object that has the token, or else of the whole response.
func (p response) member(name string) any {
	for _, place := range []any{p.parent, p.root} {
		object, _ := place.(map[string]any)
		if value := object[name]; value != nil {
			return value
		}
	}
	return nil
}

// text returns a member that is a string, or else "".
func (p response) text(name string) string {
	text, _ := p.member(name).(string)
	return text
}

// parseToken returns the token in a successful response (RFC 6749 §5.1, rules 4 to 6).
func (r *Request) parseToken(p response, sent time.Time) (*Token, error) {
	if p.root == nil {
		return nil, ConfigurationErrorf("the token endpoint's response is not JSON: check token_url")
	}
	value, err := r.tokenIn(p)
	if err != nil {
		return nil, err
	}
	if err := r.checkType(p, value); err != nil {
		return nil, err
	}
	granted := &Token{Value: value, Sent: sent}
	r.Bind(granted)
	r.setLifetime(granted, p)
	granted.Granted = r.grantedScopes(p)
	granted.Missing = missingScopes(r.Scopes, granted.Granted)
	return granted, r.checkRequired(granted.Missing)
}

// tokenIn returns the token's value, which must be usable in a header.
func (r *Request) tokenIn(p response) (string, error) {
	pointer := cmp.Or(r.TokenPointer, DefaultTokenPointer)
	value, _ := jsonpointer.Find(p.root, pointer)
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

// checkType checks that the token has the requested type.
func (r *Request) checkType(p response, token string) error {
	value, text := p.member("token_type"), p.text("token_type")
	switch {
	case r.DPoP != nil && !strings.EqualFold(text, typeDPoP):
		return ConfigurationErrorf("the token endpoint's response has another token_type%s than DPoP: the client cannot have DPoP-bound tokens", r.named(text, token))
	case r.DPoP == nil && value != nil && value != "" && !r.isBearer(text):
		return ConfigurationErrorf("the token endpoint's response has another token_type%s than Bearer: if it is one of bearer tokens, give it to token_types, else check dpop and token_request_param", r.named(text, token))
	}
	return nil
}

// isBearer reports whether a token_type means bearer tokens.
func (r *Request) isBearer(tokenType string) bool {
	return strings.EqualFold(tokenType, typeBearer) || slices.ContainsFunc(r.TokenTypes, func(name string) bool { return strings.EqualFold(tokenType, name) })
}

// named returns a token_type in brackets for an error, or "" if it may not be shown: it is short, and
// reveals nothing of the token or a known secret.
func (r *Request) named(tokenType, token string) string {
	known := *r
	known.Secrets, known.redactor = append([]string{token}, r.Secrets...), nil
	if tokenType == "" || len(tokenType) > maxTokenType || strings.ContainsFunc(tokenType, notInTokenType) || known.revealsSecret(tokenType) {
		return ""
	}
	return " (" + tokenType + ")"
}

func notInTokenType(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(" _.-", c)
}

// setLifetime sets how long the token lives (rule 5).
func (r *Request) setLifetime(t *Token, p response) {
	value, _ := jsonpointer.Find(p.root, cmp.Or(r.ExpiresInPointer, DefaultExpiresInPointer))
	seconds, ok := secondsIn(value)
	t.Default = clampLifetime(cmp.Or(r.DefaultLifetime, defaultLifetime))
	t.Lifetime, t.HasExpiresIn, t.Ending = t.Default, ok, ok && seconds <= 0
	if ok {
		t.Lifetime = clampLifetime(time.Duration(min(max(seconds, 0), maxLifetime.Seconds()) * float64(time.Second)))
	}
}

func clampLifetime(lifetime time.Duration) time.Duration {
	return min(max(lifetime, minLifetime), maxLifetime)
}

// secondsIn returns the value of a number or numeric string, infinity if it is too large.
func secondsIn(value any) (seconds float64, ok bool) {
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
	return seconds, err == nil || errors.Is(err, strconv.ErrRange)
}

// Bind sets what a token that the request has yielded is bound to: the DPoP key, and the certificate.
func (r *Request) Bind(t *Token) {
	t.DPoP = r.DPoP
	if r.bindsCertificate(t.Value) {
		t.Certificate = r.Certificate
	}
}

// bindsCertificate reports whether the token is bound to the client certificate (RFC 8705 §3). A JWT
// says whether it is (§3.1); any other token is assumed to be bound if the certificate proved the client.
func (r *Request) bindsCertificate(token string) bool {
	var claims struct {
		Confirmation struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return r.CertificateProves
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return r.CertificateProves
	}
	return claims.Confirmation.Thumbprint != ""
}
