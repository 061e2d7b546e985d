package resolve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Preview describes the token request of a connection that is not in use, for people. It names secrets
// instead of showing them, shows placeholders for hidden values, and makes no request. It reads neither the
// environment nor files: whoever may describe a connection need not see what is in them.
func (s *Spec) Preview() (string, error) {
	v := (&Connection{Spec: *s, Client: noRequests, logger: zap.NewNop()}).View()
	v.resolver.readNothing()
	if err := errors.Join(v.checkURL("base_url", s.BaseURL), v.checkURL("token_url", s.TokenURL)); err != nil {
		return "", err
	}
	return v.tokenRequest()
}

// noRequests returns a client that makes no requests. A helper flow that makes none has a result even so.
func noRequests(*tls.Certificate) *http.Client {
	return oauth.NewClient(&http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no requests are made for a preview")
	}})
}

// checkURL checks a URL that depends on no environment variable and no file.
func (v *View) checkURL(option string, t *placeholder.Template) error {
	if t == nil || t.Reads() {
		return nil
	}
	_, err := v.spec.InsecureURLs.Expand(option, *t, &placeholder.Values{Lookup: v.lookup})
	return err
}

// tokenRequest describes the token request.
func (v *View) tokenRequest() (string, error) {
	s := v.spec
	auth, err := v.authParams()
	if err != nil {
		return "", err
	}
	request := &oauth.Request{ClientID: v.text(*s.ClientID), SendClientID: s.SendClientID, Scopes: s.RequestedScopes, GrantType: s.GrantType, Separator: s.ScopeSeparator, Params: make(url.Values)}
	for _, p := range s.Params {
		request.Params.Add(p.Name, v.text(p.Value))
	}
	for _, resource := range s.Resources {
		request.Resources = append(request.Resources, v.text(resource))
	}
	fields := request.Fields(auth)
	endpoint := v.TokenURL()
	if v.spec.Issuer != nil {
		endpoint = "the token endpoint of " + v.url(v.spec.Issuer)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  POST %s\n", endpoint)
	if auth.Style == oauth2.AuthStyleInHeader {
		fmt.Fprintf(&b, "  Authorization: Basic with %s and %s\n", request.ClientID, auth.Secret)
	} else {
		fields.Set("client_id", request.ClientID)
		if auth.Secret != "" {
			fields.Set("client_secret", auth.Secret)
		}
	}
	for _, header := range v.spec.TokenHeaders {
		fmt.Fprintf(&b, "  %s: the connector's\n", header.Name) // it may be a key
	}
	fmt.Fprintf(&b, "  fields (%s):\n", s.RequestFormat)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			fmt.Fprintf(&b, "    %s = %s\n", name, value)
		}
	}
	return b.String(), nil
}

// authParams returns descriptions of the client's credentials.
func (v *View) authParams() (oauth.AuthParams, error) {
	if v.spec.Method.Signs {
		return oauth.AssertionParams("(signed, a new one each time)", v.spec.ClientAssertionType), nil
	}
	auth, err := v.spec.Method.New(oauth.Credentials{Secret: "(the client secret)"})
	if err != nil {
		return oauth.AuthParams{}, err
	}
	return auth("")
}

// text expands a template for people. Placeholders remain for values that they must not see.
func (v *View) text(t placeholder.Template) string {
	shown := placeholder.Template{Parts: slices.Clone(t.Parts)}
	for i, p := range t.Parts {
		if p.Kind != placeholder.Param && p.Kind != placeholder.Config {
			continue
		}
		value := v.placeholder(p.Kind, p.Value)
		if v.mayShow(p.Kind, p.Value) {
			if known, err := v.resolver.lookup(p.Kind, p.Value); err == nil {
				value = known
			}
		}
		shown.Parts[i] = placeholder.Part{Value: value}
	}
	return shown.String()
}
