package resolve

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// View shows URLs of a connection to people. Placeholders remain for values that people must not see.
type View struct {
	resolver *resolver
	spec     *Spec
	hidden   []string // the placeholders with a mark; the index is the number of the mark
}

// View returns a view of the connection's values as they are now. It makes no requests.
func (c *Connection) View() *View { return c.offlineResolver().view() }

func (r *resolver) view() *View { return &View{resolver: r, spec: r.spec} }

// BaseURL returns the base URL.
func (v *View) BaseURL() string { return v.url(v.spec.BaseURL) }

// TokenURL returns the token endpoint, or "" if the issuer's metadata are not known yet.
func (v *View) TokenURL() string {
	if v.spec.Issuer == nil {
		return v.url(v.spec.TokenURL)
	}
	return WithoutQuery(v.resolver.c.issuer.TokenEndpoint(v.resolver.c.Certificate != nil))
}

// tokenURLOrIssuer returns the token endpoint, or the issuer if its metadata are not known yet.
func (v *View) tokenURLOrIssuer() string {
	if known := v.TokenURL(); known != "" {
		return known
	}
	return v.url(v.spec.Issuer)
}

// Endpoint returns the token endpoint for people, as of the last token request. If its URL is not known,
// it returns the issuer.
func (c *Connection) Endpoint() string {
	if endpoint := c.endpoint.Load(); endpoint != nil {
		return *endpoint
	}
	return c.View().tokenURLOrIssuer()
}

// HiddenInHost returns the placeholders in base_url whose values people must not see, but can see in
// host.
func (c *Connection) HiddenInHost(host string) []string {
	v := c.View()
	var hidden []string
	for _, kind := range []string{placeholder.Param, placeholder.Config} {
		for _, key := range c.Spec.BaseURL.Keys(kind) {
			value, err := v.resolver.lookup(kind, key)
			if err == nil && !v.mayShow(kind, key) && strings.Contains(host, strings.ToLower(value)) {
				hidden = append(hidden, placeholderFor(kind, key))
			}
		}
	}
	return hidden
}

// Value returns a parameter's or config value. It is not there if people must not see it, or if it is not
// known without a request.
func (v *View) Value(kind, key string) (string, bool) {
	if !v.mayShow(kind, key) {
		return "", false
	}
	value, err := v.resolver.lookup(kind, key)
	if err != nil || v.hasSecret(value) {
		return "", false
	}
	return value, true
}

// hasSecret reports whether a secret of the connection is in a text.
func (v *View) hasSecret(text string) bool {
	return slices.ContainsFunc(v.resolver.connectionSecrets(), func(secret string) bool { return strings.Contains(text, secret) })
}

// url returns a URL without its query, or its template if it cannot be resolved offline or contains a
// secret.
func (v *View) url(t *placeholder.Template) string {
	u, err := t.ExpandURL(&placeholder.Values{Lookup: v.lookup, ReadFile: v.resolver.readFile, Unread: v.resolver.values.Unread})
	if err != nil {
		return WithoutQuery(t.String())
	}
	if v.hasSecret(u.Host + u.Path) {
		return WithoutQuery(t.String())
	}
	shown := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
	for i, hidden := range v.hidden {
		shown = strings.ReplaceAll(shown, mark(i), hidden)
	}
	return shown
}

// mark returns a value that takes the place of a hidden one until the URL is complete. It is valid
// everywhere in a URL, which a placeholder is not.
func mark(i int) string { return "http-helper-hidden-" + strconv.Itoa(i) + "-value" }

// WithoutQuery cuts off the query of a URL, which may contain secrets.
func WithoutQuery(written string) string {
	return written[:strings.IndexAny(written+"?", "?#")]
}

// lookup returns the value of a `{param.*}` or `{config.*}`, or a mark.
func (v *View) lookup(kind, key string) (string, error) {
	if v.mayShow(kind, key) {
		if value, err := v.resolver.lookup(kind, key); err == nil {
			return value, nil
		}
	}
	hidden := v.placeholder(kind, key)
	if !slices.Contains(v.hidden, hidden) {
		v.hidden = append(v.hidden, hidden)
	}
	return mark(slices.Index(v.hidden, hidden)), nil
}

// placeholder returns what stands for a value that is not shown: a text with placeholders that were left unread as it
// is written, and otherwise the placeholder.
func (v *View) placeholder(kind, key string) string {
	if kind == placeholder.Param && v.resolver.values.Unread && v.mayShow(kind, key) {
		if value := v.spec.ParameterValues[key]; value.File == nil && value.Value.Reads() {
			return value.Value.String()
		}
	}
	return placeholderFor(kind, key)
}

// placeholderFor returns the placeholder of a kind with a key.
func placeholderFor(kind, key string) string {
	return placeholder.Part{Kind: kind, Value: key}.String()
}

// mayShow reports whether people may see a value: one that is neither secret nor hidden, and depends on
// none that is.
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
		keys = config.Flow.flow.Parameters()
	}
	return !slices.ContainsFunc(keys, func(key string) bool { return !v.mayShow(placeholder.Param, key) })
}
