package httphelper

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/oauth2"
)

// preview describes the token request of a connection that is not in use: its secrets in words, and
// what is hidden as placeholders. It makes no request.
func (s *connectionSpec) preview() (string, error) {
	v := (&resolvedConnection{spec: s, logger: zap.NewNop()}).view()
	if err := errors.Join(v.checkURL("base_url", s.baseURL), v.checkURL("token_url", s.tokenURL)); err != nil {
		return "", err
	}
	return v.tokenRequest()
}

// checkURL checks a URL, unless its author has left values to the environment.
func (v *urlView) checkURL(option string, t *text) error {
	if t == nil || len(t.keys(kindEnv))+len(t.keys(kindFile)) > 0 {
		return nil
	}
	_, err := v.spec.insecureURLs.expand(option, *t, lookupValues(v.lookup))
	return err
}

// tokenRequest describes the token request: its secrets in words, and what is hidden as
// placeholders.
func (v *urlView) tokenRequest() (string, error) {
	s := v.spec
	credentials, err := v.credentials()
	if err != nil {
		return "", err
	}
	request := &tokenRequest{scopes: v.spec.requestedScopes, grantType: s.grantType, separator: s.scopeSeparator, params: make(url.Values)}
	for _, p := range v.spec.params {
		for _, value := range p.values {
			request.params.Add(p.name, v.text(value))
		}
	}
	for _, resource := range v.spec.resources {
		request.resources = append(request.resources, v.text(resource))
	}
	fields := request.fields(credentials)
	endpoint := v.tokenURL()
	if v.spec.issuer != nil {
		endpoint = "the token endpoint of " + v.url(v.spec.issuer)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  POST %s\n", endpoint)
	if credentials.style == oauth2.AuthStyleInHeader {
		fmt.Fprintf(&b, "  Authorization: Basic with %s and %s\n", v.text(*v.spec.clientID), credentials.secret)
	} else {
		fields.Set("client_id", v.text(*v.spec.clientID))
		if credentials.secret != "" {
			fields.Set("client_secret", credentials.secret)
		}
	}
	for _, header := range v.spec.tokenHeaders {
		fmt.Fprintf(&b, "  %s: the connector's\n", header.name) // it may be a key
	}
	fmt.Fprintf(&b, "  fields (%s):\n", s.requestFormat)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			fmt.Fprintf(&b, "    %s = %s\n", name, value)
		}
	}
	return b.String(), nil
}

// credentials stand for the client's in the description of a token request.
func (v *urlView) credentials() (credentials, error) {
	if v.spec.method.signs {
		return assertionCredentials("(signed, a new one each time)"), nil
	}
	auth, err := v.spec.method.make(authMaterial{secret: "(the client secret)"})
	if err != nil {
		return credentials{}, err
	}
	return auth.credentials("")
}

// text is a text for people. Values that they may not see stay placeholders.
func (v *urlView) text(t text) string {
	var b strings.Builder
	for _, p := range t.parts {
		value := p.String()
		switch {
		case p.kind == "":
			value = p.value
		case (p.kind == kindParam || p.kind == kindConfig) && v.mayShow(p.kind, p.value):
			if known, err := v.r.lookup(p.kind, p.value); err == nil {
				value = known
			}
		}
		b.WriteString(value)
	}
	return b.String()
}
