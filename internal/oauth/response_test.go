package oauth

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// parsed parses a response for r.
func parsed(r *Request, status int, body string, header ...string) (*Token, error) {
	return r.parseResponse(nilSafeContext, responseWith(status, body, header...), time.Now())
}

func responseWith(status int, body string, header ...string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: make(http.Header), Body: readCloser(body)}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

func mustGrant(t *testing.T, r *Request, body string) *Token {
	t.Helper()
	granted, err := parsed(r, 200, body)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return granted
}

func mustRefuse(t *testing.T, r *Request, body, say string) {
	t.Helper()
	granted, err := parsed(r, 200, body)
	if err == nil {
		t.Fatalf("%.200s: granted %+v", body, granted)
	}
	failure := AsError(err)
	if failure.Class != ClassConfiguration || failure.Status != 502 || failure.Transient {
		t.Errorf("%.200s: %+v", body, failure)
	}
	if !strings.Contains(failure.Error(), say) {
		t.Errorf("%.200s: message %q lacks %q", body, failure.Error(), say)
	}
}

func TestLifetime(t *testing.T) {
	const byDefault = 42 * time.Second
	tests := map[string]struct {
		life  time.Duration
		dated bool
	}{
		`3600`:                         {time.Hour, true},
		`"3600"`:                       {time.Hour, true},
		`" 3600 "`:                     {time.Hour, true},
		`90.5`:                         {90*time.Second + 500*time.Millisecond, true},
		`"90.5"`:                       {90*time.Second + 500*time.Millisecond, true},
		`3.6e3`:                        {time.Hour, true},
		`1`:                            {time.Second, true},
		`0.2`:                          {time.Second, true},
		`1e-300`:                       {time.Second, true},
		`86400`:                        {24 * time.Hour, true},
		`86401`:                        {24 * time.Hour, true},
		`9999999999999999999999`:       {24 * time.Hour, true},
		`"9999999999999999999999"`:     {24 * time.Hour, true},
		`1e999`:                        {24 * time.Hour, true},
		`"1e999"`:                      {24 * time.Hour, true},
		`null`:                         {byDefault, false},
		`""`:                           {byDefault, false},
		`" "`:                          {byDefault, false},
		`"soon"`:                       {byDefault, false},
		`"NaN"`:                        {byDefault, false},
		`"inf"`:                        {byDefault, false},
		`"0x10"`:                       {byDefault, false},
		`"1_0"`:                        {byDefault, false},
		`"60s"`:                        {byDefault, false},
		`"e"`:                          {byDefault, false},
		`true`:                         {byDefault, false},
		`[3600]`:                       {byDefault, false},
		`{"seconds":3600}`:             {byDefault, false},
		`5,"expires_in":60`:            {time.Minute, true},
		`1` + strings.Repeat("0", 400): {24 * time.Hour, true},
	}
	r := &Request{Auth: publicAuth, DefaultLifetime: byDefault}
	for expiresIn, want := range tests {
		granted := mustGrant(t, r, `{"access_token":"t","expires_in":`+expiresIn+`}`)
		if granted.Lifetime != want.life || granted.HasExpiresIn != want.dated {
			t.Errorf("expires_in %.40s: %v, %t; want %v, %t", expiresIn, granted.Lifetime, granted.HasExpiresIn, want.life, want.dated)
		}
	}
}

func TestDefaultLifetime(t *testing.T) {
	for configured, want := range map[time.Duration]time.Duration{
		0:                5 * time.Minute,
		time.Millisecond: time.Second,
		time.Minute:      time.Minute,
		48 * time.Hour:   24 * time.Hour,
	} {
		r := &Request{Auth: publicAuth, DefaultLifetime: configured}
		if granted := mustGrant(t, r, `{"access_token":"t"}`); granted.Lifetime != want || granted.HasExpiresIn {
			t.Errorf("default_lifetime %v: %v, %t", configured, granted.Lifetime, granted.HasExpiresIn)
		}
	}
}

func TestPointers(t *testing.T) {
	const body = `{
		"access_token": "top", "expires_in": 10, "": "empty name",
		"data": {"a/b": "slash", "m~n": "tilde", "tokens": [{"value": "first", "ttl": "20"}, {"value": "second"}]},
		"number": 7
	}`
	tests := []struct {
		token, expiresIn string
		value            string
		life             time.Duration
	}{
		{"", "", "top", 10 * time.Second},
		{"/access_token", "/expires_in", "top", 10 * time.Second},
		{"/data/a~1b", "/data/tokens/0/ttl", "slash", 20 * time.Second},
		{"/data/m~0n", "/data/none", "tilde", 5 * time.Minute},
		{"/data/tokens/1/value", "/data/tokens/9/ttl", "second", 5 * time.Minute},
	}
	for _, test := range tests {
		r := &Request{Auth: publicAuth, TokenPointer: test.token, ExpiresInPointer: test.expiresIn}
		if granted := mustGrant(t, r, body); granted.Value != test.value || granted.Lifetime != test.life {
			t.Errorf("%s, %s: %q, %v", test.token, test.expiresIn, granted.Value, granted.Lifetime)
		}
	}
	for _, pointer := range []string{"/nothing", "/data", "/data/tokens", "/data/tokens/2/value", "/data/tokens/-/value", "/data/tokens/00/value", "/number"} {
		mustRefuse(t, &Request{Auth: publicAuth, TokenPointer: pointer}, body, "no token at "+pointer)
	}
}

// TestMetadataBesideANestedToken: where a token is nested, its type and scopes are too.
func TestMetadataBesideANestedToken(t *testing.T) {
	r := &Request{Auth: publicAuth, TokenPointer: "/data/token", Scopes: []string{"a", "b"}}
	granted := mustGrant(t, r, `{"scope":"a b","data":{"token":"t","token_type":"bearer","scope":"a"}}`)
	if !reflect.DeepEqual(granted.Missing, []string{"b"}) {
		t.Errorf("missing %v", granted.Missing)
	}
	mustRefuse(t, r, `{"data":{"token":"t","token_type":"mac"}}`, "token_type")
	mustRefuse(t, r, `{"token_type":"mac","data":{"token":"t"}}`, "token_type")
}

func TestUnusableResponses(t *testing.T) {
	for body, say := range map[string]string{
		``:                                  "not JSON",
		`null`:                              "not JSON",
		`<html>`:                            "not JSON",
		`{"access_token":"t"}{}`:            "not JSON",
		`{"access_token":"t"`:               "not JSON",
		`access_token=t&token_type=bearer`:  "not JSON",
		`{}`:                                "no token at /access_token",
		`[]`:                                "no token",
		`"t"`:                               "no token",
		`{"access_token":""}`:               "no token",
		`{"access_token":null}`:             "no token",
		`{"access_token":7}`:                "no token",
		`{"access_token":["t"]}`:            "no token",
		`{"access_token":{"value":"t"}}`:    "no token",
		`{"Access_Token":"t"}`:              "no token",
		`{"access_token":"a b"}`:            "character",
		`{"access_token":" t"}`:             "character",
		`{"access_token":"t\n"}`:            "character",
		`{"access_token":"t\r\nX-Evil: 1"}`: "character",
		`{"access_token":"t\u0000"}`:        "character",
		`{"access_token":"t\u007f"}`:        "character",
		`{"access_token":"tö"}`:             "character",
		"{\"access_token\":\"t\xff\"}":      "character",
		`{"access_token":"` + strings.Repeat("t", maxToken+1) + `"}`: "16 KiB",
	} {
		mustRefuse(t, &Request{Auth: publicAuth}, body, say)
	}
}

func TestUsableResponses(t *testing.T) {
	for _, body := range []string{
		`{"access_token":"` + strings.Repeat("t", maxToken) + `"}`,
		"\n\t {\"access_token\":\"!~\"} \r\n",
		`{"access_token":"t","token_type":"bearer"}`,
		`{"access_token":"t","token_type":"BEARER"}`,
		`{"access_token":"t","token_type":""}`,
		`{"access_token":"t","token_type":null}`,
		`{"access_token":"t","error":""}`,
		`{"access_token":"t","error":null}`,
		`{"access_token":"old","access_token":"t"}`,
		`{"access_token":"t","refresh_token":"r","x":{"access_token":7}}`,
		`{"access_token":"t","padding":"` + strings.Repeat("x", MaxResponseBytes-38) + `"}`,
	} {
		mustGrant(t, &Request{Auth: publicAuth}, body)
	}
	for _, status := range []int{200, 201, 203, 299} {
		if _, err := parsed(&Request{Auth: publicAuth}, status, oauthtest.GoodResponse); err != nil {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestTokenType(t *testing.T) {
	for _, kind := range []string{`"mac"`, `"DPoP"`, `"N_A"`, `"Bearer "`, `7`, `["Bearer"]`} {
		mustRefuse(t, &Request{Auth: publicAuth}, `{"access_token":"t","token_type":`+kind+`}`, "token_type")
	}
	key, err := GenerateDPoPKey()
	if err != nil {
		t.Fatal(err)
	}
	bound := &Request{Auth: publicAuth, DPoP: key}
	for _, kind := range []string{`"Bearer"`, `"mac"`, `""`, `null`, `7`} {
		mustRefuse(t, bound, `{"access_token":"t","token_type":`+kind+`}`, "DPoP")
	}
	granted := mustGrant(t, bound, `{"access_token":"t","token_type":"dpop"}`)
	if granted.HeaderPrefix() != "DPoP " || granted.DPoP != key {
		t.Errorf("granted %+v", granted)
	}
	if granted := mustGrant(t, &Request{Auth: publicAuth}, oauthtest.GoodResponse); granted.HeaderPrefix() != "Bearer " || granted.DPoP != nil {
		t.Errorf("granted %+v", granted)
	}
}

func TestGrantedScopes(t *testing.T) {
	requested := []string{"a", "b", "c,d"}
	tests := map[string]struct{ granted, missing []string }{
		`"a b c,d"`:            {[]string{"a", "b", "c,d"}, nil},
		`"c,d b a"`:            {[]string{"c,d", "b", "a"}, nil},
		`"a,b"`:                {[]string{"a", "b"}, []string{"c,d"}},
		`"a, b"`:               {[]string{"a", "b"}, []string{"c,d"}},
		`" a  b\tc,d "`:        {[]string{"a", "b", "c,d"}, nil},
		`["a","b","c,d"]`:      {[]string{"a", "b", "c,d"}, nil},
		`["b"]`:                {[]string{"b"}, []string{"a", "c,d"}},
		`["a b",7,null,"a"]`:   {[]string{"a", "b"}, []string{"c,d"}},
		`"A extra"`:            {[]string{"A", "extra"}, []string{"a", "b", "c,d"}},
		`"a \u0007 b \"x\" ä"`: {[]string{"a", "b"}, []string{"c,d"}},
		`"\u0007"`:             {[]string{}, []string{"a", "b", "c,d"}},
		`"a leak-s3cret-ed"`:   {[]string{"a"}, []string{"b", "c,d"}},
		`""`:                   {nil, nil},
		`"  "`:                 {nil, nil},
		`","`:                  {nil, nil},
		`[]`:                   {nil, nil},
		`[""]`:                 {nil, nil},
		`null`:                 {nil, nil},
		`true`:                 {nil, nil},
	}
	r := &Request{Auth: publicAuth, Scopes: requested, Secrets: []string{"s3cret"}}
	for scope, want := range tests {
		granted := mustGrant(t, r, `{"access_token":"t","scope":`+scope+`}`)
		if !reflect.DeepEqual(granted.Granted, want.granted) || !reflect.DeepEqual(granted.Missing, want.missing) {
			t.Errorf("scope %s: granted %#v, missing %#v", scope, granted.Granted, granted.Missing)
		}
	}
}

func TestRequiredScopes(t *testing.T) {
	r := &Request{Auth: publicAuth, Scopes: []string{"a", "b", "c"}, Required: []string{"b", "c"}}
	mustGrant(t, r, `{"access_token":"t","scope":"a"}`)
	r.RequireGranted = true
	mustRefuse(t, r, `{"access_token":"t","scope":"a b"}`, `"c"`)
	mustRefuse(t, r, `{"access_token":"t","scope":"a"}`, `"b"`)
	mustGrant(t, r, `{"access_token":"t","scope":"c b"}`)
	mustGrant(t, r, `{"access_token":"t","scope":""}`)
	mustGrant(t, r, `{"access_token":"t"}`)
}

// TestScopesAreNotTakenForSecrets: a requested scope is not a secret, even if it is a piece
// of one.
func TestScopesAreNotTakenForSecrets(t *testing.T) {
	r := &Request{Auth: publicAuth, Scopes: []string{"read-write"}, Secrets: []string{"my-read-write-key", "write"}}
	if granted := mustGrant(t, r, `{"access_token":"t","scope":"read-write"}`); granted.Missing != nil {
		t.Errorf("missing %v", granted.Missing)
	}
}

func TestResponseSize(t *testing.T) {
	tooLarge := `{"access_token":"t","padding":"` + strings.Repeat("x", MaxResponseBytes) + `"}`
	zipped := gzipped(t, tooLarge)
	tests := map[string]http.HandlerFunc{
		"plain":              oauthtest.Responds(200, tooLarge),
		"gzip bomb":          oauthtest.Responds(200, zipped, "Content-Encoding", "gzip"),
		"bomb not requested": oauthtest.Responds(200, zipped, "Content-Encoding", "GZIP"),
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			r := basicRequest(oauthtest.NewEndpoint(t, handler).URL)
			if name == "bomb not requested" {
				r.Headers = http.Header{"Accept-Encoding": {"identity"}}
			}
			if failure := failOnce(t, r); failure.Class != ClassConfiguration || !strings.Contains(failure.Message, "larger than 1 MiB") {
				t.Errorf("failure %+v", failure)
			}
		})
	}
}

// endless is a body that never ends. It counts what is read.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func (*endless) Close() error { return nil }

func TestEndlessResponse(t *testing.T) {
	body := new(endless)
	if _, err := ReadBody(&http.Response{Body: body}); !errors.Is(err, ErrUnreadable) || body.read > 2*MaxResponseBytes {
		t.Errorf("read %d bytes: %v", body.read, err)
	}
}

// TestCompressedResponses of servers that compress although this was not requested. What is wrong with
// a complete response is not a network error.
func TestCompressedResponses(t *testing.T) {
	zipped := gzipped(t, oauthtest.GoodResponse)
	for _, encoding := range []string{"gzip", "GZIP", "x-gzip"} {
		r := basicRequest(oauthtest.NewEndpoint(t, oauthtest.Responds(200, zipped, "Content-Encoding", encoding)).URL)
		r.Headers = http.Header{"Accept-Encoding": {"identity"}}
		if granted := fetchOnce(t, r); granted.Value != "tok-1" {
			t.Errorf("granted %+v", granted)
		}
	}
	damaged := strings.Replace(zipped, zipped[len(zipped)-8:], "checksum", 1)
	for name, body := range map[string]string{
		"not compressed": oauthtest.GoodResponse, "empty": "", "half": zipped[:len(zipped)/2], "no end": zipped[:len(zipped)-4], "damaged": damaged, "header only": zipped[:10],
	} {
		for status, want := range map[int]Class{200: ClassConfiguration, 400: ClassConfiguration, 500: ClassOutage} {
			r := basicRequest(oauthtest.NewEndpoint(t, oauthtest.Responds(status, body, "Content-Encoding", "gzip")).URL)
			r.Headers = http.Header{"Accept-Encoding": {"identity"}}
			failure := failOnce(t, r)
			if failure.Class != want || status == 200 && !strings.Contains(failure.Message, "compressed") || status != 200 && !strings.Contains(failure.Message, fmt.Sprint(status)) {
				t.Errorf("%s, %d: %+v", name, status, failure)
			}
		}
	}
}

// TestAByteOrderMarkIsPassedOver, as RFC 8259 §8.1 permits.
func TestAByteOrderMarkIsPassedOver(t *testing.T) {
	if granted := mustGrant(t, &Request{Auth: publicAuth}, "\ufeff"+`{"access_token":"t"}`); granted.Value != "t" {
		t.Errorf("granted %+v", granted)
	}
	mustRefuse(t, &Request{Auth: publicAuth}, "\ufeff\ufeff"+`{"access_token":"t"}`, "not JSON")
}

// TestOversizedErrorsCountByStatus: what a failing server says at length does not matter.
func TestOversizedErrorsCountByStatus(t *testing.T) {
	body := `{"error":"invalid_client","padding":"` + strings.Repeat("x", MaxResponseBytes) + `"}`
	_, err := parsed(&Request{}, 500, body)
	if failure := AsError(err); failure.Class != ClassOutage || failure.Status != 503 || failure.Code != "" {
		t.Errorf("failure %+v", failure)
	}
}

func TestCertificateBoundTokens(t *testing.T) {
	jwt := func(payload string) string {
		return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
	}
	certificate := new(tls.Certificate)
	bound := func(proves bool, token string, want bool) {
		t.Helper()
		granted := mustGrant(t, &Request{Auth: publicAuth, Certificate: certificate, CertificateProves: proves}, `{"access_token":"`+token+`"}`)
		if (granted.Certificate == certificate) != want || (granted.Certificate == nil) == want {
			t.Errorf("%v, %s: bound to %v", proves, token, granted.Certificate)
		}
	}
	for token, want := range map[string]bool{
		jwt(`{"cnf":{"x5t#S256":"abc"}}`): true,
		jwt(`{"cnf":{"x5t#S256":""}}`):    false,
		jwt(`{"cnf":{"jkt":"abc"}}`):      false,
		jwt(`{"cnf":"abc"}`):              false,
		jwt(`{}`):                         false,
		jwt(`[`):                          false,
		"opaque":                          false,
		"a.b.c":                           false,
		"a.!.c":                           false,
	} {
		bound(false, token, want)
	}
	// Where the certificate was the proof, so is a token that does not say.
	bound(true, "opaque", true)
	bound(true, "a.!.c", true)
	bound(true, jwt(`{"cnf":{"x5t#S256":"abc"}}`), true)
	bound(true, jwt(`{}`), false)
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	if _, err := writer.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return zipped.String()
}

// FuzzTokenResponse: whatever a token endpoint says, the token can stand in a header, its life is
// within bounds, and no message quotes the response.
func FuzzTokenResponse(f *testing.F) {
	for _, body := range []string{
		oauthtest.GoodResponse, `{"access_token":"t","expires_in":"1e999","scope":["a","b c"]}`, `{"error":"invalid_client"}`,
		`{"access_token":"a.eyJjbmYiOnsieDV0I1MyNTYiOiJ4In19.c","token_type":"DPoP"}`, `[[[`, `{"data":[{"t":"x"}]}`,
	} {
		f.Add(200, body, "/access_token", "5")
	}
	f.Add(429, "", "/data/0/t", "Wed, 21 Oct 2015 07:28:00 GMT")
	f.Fuzz(func(t *testing.T, status int, body, pointer, retryAfter string) {
		r := &Request{Auth: publicAuth, Scopes: []string{"a"}, TokenPointer: pointer, Secrets: []string{"s3cret"}}
		granted, err := parsed(r, status, body, "Retry-After", retryAfter)
		if err != nil {
			checkFailure(t, AsError(err))
			return
		}
		if granted.Value == "" || len(granted.Value) > maxToken || strings.ContainsFunc(granted.Value, notInToken) {
			t.Errorf("token %q", granted.Value)
		}
		if granted.Lifetime < time.Second || granted.Lifetime > 24*time.Hour {
			t.Errorf("life %v", granted.Lifetime)
		}
		for _, scope := range granted.Granted {
			if !IsScope(scope) || strings.Contains(scope, "s3cret") {
				t.Errorf("scope %q", scope)
			}
		}
	})
}

func checkFailure(t *testing.T, failure *Error) {
	t.Helper()
	if failure.Status != 502 && failure.Status != 503 || (failure.Class == ClassConfiguration) != (failure.Status == 502) {
		t.Errorf("failure %+v", failure)
	}
	if failure.RetryAfter < 0 || failure.RetryAfter > MaxRetryAfter {
		t.Errorf("retry after %v", failure.RetryAfter)
	}
	if len(failure.Code) > MaxErrorCode || strings.ContainsFunc(failure.Code, notInErrorCode) || strings.Contains(failure.Code, "s3cret") {
		t.Errorf("code %q", failure.Code)
	}
}

// TestNothingLeftOfALife: the token is about to end, unless the server means nothing by it (rule 5).
func TestNothingLeftOfALife(t *testing.T) {
	r := &Request{Auth: publicAuth, DefaultLifetime: time.Minute}
	for _, expiresIn := range []string{`0`, `-1`, `-0.5`, `-1e999`, `1e-999`, `"0"`, `" -7 "`} {
		granted := mustGrant(t, r, `{"access_token":"t","expires_in":`+expiresIn+`}`)
		if !granted.Ending || !granted.HasExpiresIn || granted.Lifetime != time.Second || granted.Default != time.Minute {
			t.Errorf("expires_in %s: %+v", expiresIn, granted)
		}
	}
	for _, expiresIn := range []string{`1`, `0.2`, `1e999`, `null`, `"soon"`} {
		if granted := mustGrant(t, r, `{"access_token":"t","expires_in":`+expiresIn+`}`); granted.Ending {
			t.Errorf("expires_in %s: %+v", expiresIn, granted)
		}
	}
}
