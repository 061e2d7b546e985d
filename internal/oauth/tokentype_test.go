package oauth

import (
	"strings"
	"testing"
)

func TestTokenTypesOfTheService(t *testing.T) {
	r := &Request{Auth: publicAuth, TokenTypes: []string{"BearerToken", "Application Access Token"}}
	for _, kind := range []string{"BearerToken", "bearertoken", "APPLICATION ACCESS TOKEN", "Bearer", "bearer"} {
		granted := mustGrant(t, r, `{"access_token":"t","token_type":"`+kind+`"}`)
		if got := granted.HeaderPrefix(); got != "Bearer " {
			t.Errorf("%s is sent as %q", kind, got)
		}
	}
	for _, kind := range []string{`"mac"`, `"Bearer Token"`, `"DPoP"`, `["BearerToken"]`, `7`} {
		mustRefuse(t, r, `{"access_token":"t","token_type":`+kind+`}`, "token_types")
	}
}

// TestTokenTypesAreNotOfBoundTokens: a token that is bound to a key has only one type.
func TestTokenTypesAreNotOfBoundTokens(t *testing.T) {
	r := &Request{Auth: publicAuth, DPoP: newTestDPoPKey(t), TokenTypes: []string{"BearerToken"}}
	mustRefuse(t, r, `{"access_token":"t","token_type":"BearerToken"}`, "(BearerToken) than DPoP")
}

func TestTheErrorNamesTheTokenType(t *testing.T) {
	const token = "a-long-enough-token"
	for kind, shown := range map[string]bool{
		"BearerToken":                 true,
		"Application Access Token":    true,
		"mac_1.0-x":                   true,
		strings.Repeat("x", 64):       true,
		strings.Repeat("x", 65):       false,
		"Bearer, mac":                 false,
		"<b>":                         false,
		"bear\u00ebr":                 false,
		"":                            false,
		token:                         false,
		"long-enough":                 false,
		"a secret of the client":      false,
		"of the client":               false,
		"has a secret of the client.": false,
	} {
		r := &Request{Auth: publicAuth, Secrets: []string{"a secret of the client"}}
		if kind == "" {
			r.DPoP = newTestDPoPKey(t)
		}
		_, err := parsed(r, 200, `{"access_token":"`+token+`","token_type":"`+kind+`"}`)
		if err == nil {
			t.Errorf("%q is accepted", kind)
		} else if text := err.Error(); strings.Contains(text, "("+kind+")") != shown || !shown && kind != "" && strings.Contains(text, kind) {
			t.Errorf("%q: %s", kind, text)
		}
	}
}
