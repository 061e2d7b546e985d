package resolve

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// View shows URLs of a connection to people. Values that they may not see stay placeholders.
type View struct {
	resolver *resolver
	spec     *Spec
	hidden   []string // the placeholders behind the marks, in order
}

// View reads a connection's values for people. Files are read, requests are not made.
func (c *Connection) View() *View { return c.offlineResolver().view() }

func (r *resolver) view() *View { return &View{resolver: r, spec: r.spec} }

// mark stands for a hidden value while a URL is put together: it is valid wherever a value is.
func mark(i int) string { return "http-helper-hidden-" + strconv.Itoa(i) + "-value" }

// TokenURL is the token endpoint, empty while it is not known.
func (v *View) TokenURL() string {
	if v.spec.Issuer == nil {
		return v.url(v.spec.TokenURL)
	}
	return WithoutQuery(v.resolver.c.issuer.TokenEndpoint(v.resolver.c.Certificate != nil))
}

// endpoint is the token endpoint, or the issuer that knows it.
func (v *View) endpoint() string {
	if known := v.TokenURL(); known != "" {
		return known
	}
	return v.url(v.spec.Issuer)
}

func (v *View) BaseURL() string { return v.url(v.spec.BaseURL) }

// ShownEndpoint is the token endpoint for people, as of the last token request.
func (c *Connection) ShownEndpoint() string {
	if endpoint := c.endpoint.Load(); endpoint != nil {
		return *endpoint
	}
	return c.View().endpoint()
}

// url is a URL of the connection, without its query. It is shown as its template when it cannot be
// resolved offline.
func (v *View) url(t *placeholder.Template) string {
	u, err := t.ExpandURL(&placeholder.Values{Lookup: v.lookup, ReadFile: v.resolver.readFile})
	if err != nil {
		return WithoutQuery(t.String())
	}
	if slices.ContainsFunc(v.resolver.connectionSecrets(), func(secret string) bool { return strings.Contains(u.Host+u.Path, secret) }) {
		return WithoutQuery(t.String())
	}
	shown := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	plain := shown.String()
	for i, placeholder := range v.hidden {
		plain = strings.ReplaceAll(plain, mark(i), placeholder)
	}
	return plain
}

// WithoutQuery cuts off a URL's query, which may hold secrets.
func WithoutQuery(written string) string {
	return written[:strings.IndexAny(written+"?", "?#")]
}

// lookup finds the value of a `{param.*}` or `{config.*}`, or a mark.
func (v *View) lookup(kind, key string) (string, error) {
	if v.mayShow(kind, key) {
		if value, err := v.resolver.lookup(kind, key); err == nil {
			return value, nil
		}
	}
	placeholder := "{" + kind + "." + key + "}"
	if !slices.Contains(v.hidden, placeholder) {
		v.hidden = append(v.hidden, placeholder)
	}
	return mark(slices.Index(v.hidden, placeholder)), nil
}

// mayShow reports whether people may see a value: one that is neither secret nor hidden, nor made of
// any that is.
func (v *View) mayShow(kind, key string) bool {
	if kind == placeholder.Param {
		return !v.spec.parameter(key).Password
	}
	config := v.spec.configValue(key)
	if config.Hidden || config.Password {
		return false
	}
	keys := config.Value.Keys(placeholder.Param)
	if config.Flow != nil {
		keys = config.Flow.Flow.Parameters()
	}
	return !slices.ContainsFunc(keys, func(key string) bool { return !v.mayShow(placeholder.Param, key) })
}
