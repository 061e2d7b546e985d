package httphelper

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
)

const (
	maxAnswer = 1 << 20  // bytes, decompressed
	maxToken  = 16 << 10 // bytes

	minLife            = time.Second
	maxLife            = 24 * time.Hour
	defaultLife        = 5 * time.Minute
	defaultTokenField  = "/access_token"
	defaultExpiryField = "/expires_in"

	kindBearer = "Bearer"
	kindDPoP   = "DPoP"
)

// judge turns the answer of a token endpoint into a token or a *tokenError.
func (r *tokenRequest) judge(ctx context.Context, resp *http.Response, sent time.Time) (*grantedToken, error) {
	good := resp.StatusCode >= 200 && resp.StatusCode <= 299
	body, err := readAnswer(resp)
	switch {
	case err == nil:
	case !errors.Is(err, errUnreadableAnswer):
		return nil, networkFailure(ctx, tokenEndpoint, err)
	case good:
		return nil, configurationError("%s's answer is %v", tokenEndpoint, err)
	}
	answer := tokenAnswer{root: parseAnswer(body)}
	pointer := cmp.Or(r.tokenPointer, defaultTokenField)
	answer.beside, _ = jsonPointer(answer.root, pointer[:max(strings.LastIndexByte(pointer, '/'), 0)])
	if code := answer.text("error"); code != "" || !good {
		return nil, r.refused(resp, code)
	}
	return r.grant(answer, sent)
}

// errUnreadableAnswer marks answers that arrived but cannot be used, whatever they say.
var errUnreadableAnswer = errors.New("not readable")

type unreadable string

func (u unreadable) Error() string      { return string(u) }
func (unreadable) Is(target error) bool { return target == errUnreadableAnswer }

// readAnswer reads a bounded body. The limit counts before and after decompression, which is ours:
// what is wrong with a body that has arrived whole is no failure of the network.
func readAnswer(resp *http.Response) ([]byte, error) {
	body, err := readBounded(resp.Body)
	if err != nil || !isGzip(resp.Header.Get("Content-Encoding")) {
		return body, err
	}
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = readBounded(reader)
	}
	if err != nil && !errors.Is(err, errUnreadableAnswer) {
		return nil, unreadable("badly compressed")
	}
	return body, err
}

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if len(body) > maxAnswer {
		return nil, unreadable("larger than 1 MiB")
	}
	return body, err
}

// isGzip knows both names (RFC 9110 §8.4.1.3).
func isGzip(encoding string) bool {
	return strings.EqualFold(encoding, "gzip") || strings.EqualFold(encoding, "x-gzip")
}

// tokenAnswer is a token endpoint's answer: any JSON. A nil root is none.
type tokenAnswer struct {
	root   any
	beside any // the object that holds the token
}

// withoutMark takes off the byte order mark that some servers put before their JSON (RFC 8259 §8.1).
func withoutMark(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\ufeff")) }

// parseAnswer reads a JSON document, nil if it is none. Numbers stay as they are written, so that huge
// ones do no harm.
func parseAnswer(body []byte) any {
	decoder := json.NewDecoder(bytes.NewReader(withoutMark(body)))
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
func (a tokenAnswer) member(name string) any {
	for _, place := range []any{a.beside, a.root} {
		object, _ := place.(map[string]any)
		if value := object[name]; value != nil {
			return value
		}
	}
	return nil
}

// text returns a member that is a string, else "".
func (a tokenAnswer) text(name string) string {
	text, _ := a.member(name).(string)
	return text
}

// grant reads the token out of a successful answer (RFC 6749 §5.1, rules 4 to 6).
func (r *tokenRequest) grant(answer tokenAnswer, sent time.Time) (*grantedToken, error) {
	if answer.root == nil {
		return nil, configurationError("the token endpoint's answer is not JSON: check token_url")
	}
	token, err := r.tokenIn(answer)
	if err != nil {
		return nil, err
	}
	kind, err := r.kindOf(answer)
	if err != nil {
		return nil, err
	}
	granted := &grantedToken{value: token, kind: kind, sent: sent, key: r.dpop}
	if r.bindsCertificate(token) {
		granted.certificate = r.certificate
	}
	granted.lifetime, granted.hasExpiresIn = r.lifeIn(answer)
	granted.granted = r.scopesIn(answer)
	granted.missing = missingScopes(r.scopes, granted.granted)
	return granted, r.checkRequired(granted.missing)
}

func (r *tokenRequest) tokenIn(answer tokenAnswer) (string, error) {
	pointer := cmp.Or(r.tokenPointer, defaultTokenField)
	value, _ := jsonPointer(answer.root, pointer)
	token, _ := value.(string)
	switch {
	case token == "":
		return "", configurationError("the token endpoint's answer has no token at %s: check token_url and token_pointer", pointer)
	case len(token) > maxToken:
		return "", configurationError("the token endpoint's token is longer than 16 KiB")
	case strings.ContainsFunc(token, notInToken):
		return "", configurationError("the token endpoint's token has a character that may not stand in a header")
	}
	return token, nil
}

func notInToken(c rune) bool { return c <= 0x20 || c > 0x7e }

// kindOf checks that the token is of the kind that was asked for.
func (r *tokenRequest) kindOf(answer tokenAnswer) (string, error) {
	if r.dpop != nil {
		if !strings.EqualFold(answer.text("token_type"), kindDPoP) {
			return "", configurationError("the token endpoint's answer has another token_type than DPoP: the client cannot have DPoP-bound tokens")
		}
		return kindDPoP, nil
	}
	switch kind := answer.member("token_type").(type) {
	case nil:
		return kindBearer, nil
	case string:
		if kind == "" || strings.EqualFold(kind, kindBearer) {
			return kindBearer, nil
		}
	}
	return "", configurationError("the token endpoint's answer has another token_type than Bearer: check dpop and token_request_param")
}

// lifeIn returns how long the token lives, and whether the server said so.
func (r *tokenRequest) lifeIn(answer tokenAnswer) (life time.Duration, dated bool) {
	value, _ := jsonPointer(answer.root, cmp.Or(r.expiresInPointer, defaultExpiryField))
	seconds, ok := positiveSeconds(value)
	if !ok {
		return clampLife(cmp.Or(r.defaultLifetime, defaultLife)), false
	}
	if seconds >= maxLife.Seconds() {
		return maxLife, true
	}
	return clampLife(time.Duration(seconds * float64(time.Second))), true
}

func clampLife(life time.Duration) time.Duration {
	return min(max(life, minLife), maxLife)
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
func (r *tokenRequest) bindsCertificate(token string) bool {
	if confirmed, readable := confirmsCertificate(token); readable {
		return confirmed
	}
	return r.certificateProves
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
