package httphelper

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// display shows URLs of a connection to people. Values that they may not see stay placeholders, and
// nobody is contacted.
type display struct {
	*resolver
	hidden []string // the placeholders behind the marks, in order
}

// display reads a connection's values for people. Files are read, requests are not made.
func (c *activeConnection) display() *display {
	return &display{resolver: c.resolver(canceled)}
}

// mark stands for a hidden value while a URL is put together: it is valid wherever a value is.
func mark(i int) string { return "http-helper-hidden-" + strconv.Itoa(i) + "-value" }

// tokenURL is the token endpoint, empty while it is not known.
func (d *display) tokenURL() string {
	if d.c.texts.issuer == nil {
		return d.url(d.c.texts.tokenURL, d.c.service.TokenURL)
	}
	return withoutQuery(d.c.issuers.tokenEndpoint(d.c.certificate != nil))
}

// shownEndpoint is the token endpoint for people, or the issuer that knows it.
func (c *activeConnection) shownEndpoint() string {
	d := c.display()
	if known := d.tokenURL(); known != "" {
		return known
	}
	return d.url(c.texts.issuer, c.service.Issuer)
}

// url is a URL of the connection, without its query. It is shown as it is written when it cannot be
// worked out here.
func (d *display) url(t *text, written string) string {
	u, err := t.expandURL(d.lookup)
	if err != nil {
		return withoutQuery(written)
	}
	if slices.ContainsFunc(d.c.secrets(), func(secret string) bool { return strings.Contains(u.Host+u.Path, secret) }) {
		return withoutQuery(written)
	}
	shown := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	plain := shown.String()
	for i, placeholder := range d.hidden {
		plain = strings.ReplaceAll(plain, mark(i), placeholder)
	}
	return plain
}

// withoutQuery cuts a URL's query off, which may hold secrets.
func withoutQuery(written string) string {
	return written[:strings.IndexAny(written+"?", "?#")]
}

// lookup finds the value of a `{param.*}` or `{config.*}`, or a mark.
func (d *display) lookup(kind, key string) (string, error) {
	if d.mayShow(kind, key) {
		if value, err := d.resolver.lookup(kind, key); err == nil {
			return value, nil
		}
	}
	placeholder := "{" + kind + "." + key + "}"
	if !slices.Contains(d.hidden, placeholder) {
		d.hidden = append(d.hidden, placeholder)
	}
	return mark(slices.Index(d.hidden, placeholder)), nil
}

// mayShow tells whether people may see a value: one that is neither secret nor hidden, nor made of
// any that is.
func (d *display) mayShow(kind, key string) bool {
	connector := d.c.connector
	if kind == kindParam {
		param, _ := connector.parameter(key)
		return param.Type != typePassword
	}
	config, _ := connector.configValue(key)
	if config.Hidden || config.Type == typePassword {
		return false
	}
	keys := d.c.texts.values[key].keys(kindParam)
	if config.Flow != "" {
		keys = connector.flow(config.Flow).flow.parameters()
	}
	return !slices.ContainsFunc(keys, func(key string) bool { return !d.mayShow(kindParam, key) })
}
