package httphelper

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// urlView shows URLs of a connection to people. Values that they may not see stay placeholders.
type urlView struct {
	r      *resolver
	spec   *connectionSpec
	hidden []string // the placeholders behind the marks, in order
}

// view reads a connection's values for people. Files are read, requests are not made.
func (c *resolvedConnection) view() *urlView { return c.offlineResolver().view() }

func (r *resolver) view() *urlView { return &urlView{r: r, spec: r.spec} }

// mark stands for a hidden value while a URL is put together: it is valid wherever a value is.
func mark(i int) string { return "http-helper-hidden-" + strconv.Itoa(i) + "-value" }

// tokenURL is the token endpoint, empty while it is not known.
func (v *urlView) tokenURL() string {
	if v.spec.issuer == nil {
		return v.url(v.spec.tokenURL)
	}
	return withoutQuery(v.r.c.issuer.tokenEndpoint(v.r.c.certificate != nil))
}

// endpoint is the token endpoint, or the issuer that knows it.
func (v *urlView) endpoint() string {
	if known := v.tokenURL(); known != "" {
		return known
	}
	return v.url(v.spec.issuer)
}

func (v *urlView) baseURL() string { return v.url(v.spec.baseURL) }

// shownEndpoint is the token endpoint for people, as of the last token request.
func (c *resolvedConnection) shownEndpoint() string {
	if endpoint := c.endpoint.Load(); endpoint != nil {
		return *endpoint
	}
	return c.view().endpoint()
}

// url is a URL of the connection, without its query. It is shown as its template when it cannot be
// resolved offline.
func (v *urlView) url(t *text) string {
	u, err := t.expandURL(&valueSource{lookup: v.lookup, readFile: v.r.readFile})
	if err != nil {
		return withoutQuery(t.String())
	}
	if slices.ContainsFunc(v.r.connectionSecrets(), func(secret string) bool { return strings.Contains(u.Host+u.Path, secret) }) {
		return withoutQuery(t.String())
	}
	shown := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	plain := shown.String()
	for i, placeholder := range v.hidden {
		plain = strings.ReplaceAll(plain, mark(i), placeholder)
	}
	return plain
}

// withoutQuery cuts off a URL's query, which may hold secrets.
func withoutQuery(written string) string {
	return written[:strings.IndexAny(written+"?", "?#")]
}

// lookup finds the value of a `{param.*}` or `{config.*}`, or a mark.
func (v *urlView) lookup(kind, key string) (string, error) {
	if v.mayShow(kind, key) {
		if value, err := v.r.lookup(kind, key); err == nil {
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
func (v *urlView) mayShow(kind, key string) bool {
	if kind == kindParam {
		return !v.spec.parameter(key).password
	}
	config := v.spec.configValue(key)
	if config.hidden || config.password {
		return false
	}
	keys := config.value.keys(kindParam)
	if config.flow != nil {
		keys = config.flow.flow.parameters()
	}
	return !slices.ContainsFunc(keys, func(key string) bool { return !v.mayShow(kindParam, key) })
}
