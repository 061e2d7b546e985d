package httptransport

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

var (
	proxySchemes = []string{"http", "https", "socks5", "socks5h"}

	errProxyURL = errors.New("it is not like http://proxy.example:3128 or http://name:password@proxy.example:3128; in name and password, percent-encode special characters")
)

// ProxyURL is the forward proxy of `network_proxy url` in a transport of http_helper. It replaces Caddy's
// own module when a config is provisioned; a config need not name it. Unlike that module it keeps the
// URL, which may contain a password, out of logs, and says which variable is unset.
type ProxyURL struct {
	// The URL of the forward proxy: http, https, socks5 or socks5h, with a user name and a password
	// if it requires them. `{env.*}` and `{file.*}` are replaced for each request.
	URL string `json:"url,omitempty"`

	template placeholder.Template
}

// CaddyModule returns the Caddy module information.
func (ProxyURL) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.network_proxy.http_helper",
		New: func() caddy.Module { return new(ProxyURL) },
	}
}

// Provision parses the URL and checks its current value.
func (p *ProxyURL) Provision(caddy.Context) error {
	var err error
	if p.template, err = placeholder.Parse(p.URL); err == nil {
		_, err = p.current()
	}
	return err
}

// ProxyFunc implements caddy.ProxyFuncProducer.
func (p *ProxyURL) ProxyFunc() func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return p.current() }
}

// current returns the current URL. Its errors do not quote it.
func (p *ProxyURL) current() (*url.URL, error) {
	text, err := p.template.Expand(nil)
	if err != nil {
		return nil, neterror.ProxyURLError{Err: err}
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains(proxySchemes, u.Scheme) {
		return nil, neterror.ProxyURLError{Err: errProxyURL}
	}
	return u, nil
}

// replaceProxyModule replaces Caddy's module for `network_proxy url`, and for the older option
// forward_proxy_url, by ProxyURL in a transport that is to be provisioned. A URL with placeholders that
// ProxyURL does not know is left to Caddy's module.
func replaceProxyModule(t *reverseproxy.HTTPTransport) {
	source := struct{ From, URL string }{"url", t.ForwardProxyURL}
	if source.URL == "" && json.Unmarshal(t.NetworkProxyRaw, &source) != nil || source.From != "url" {
		return
	}
	if _, err := placeholder.Parse(source.URL); err == nil {
		t.ForwardProxyURL = ""
		t.NetworkProxyRaw = caddyconfig.JSONModuleObject(ProxyURL{URL: source.URL}, "from", "http_helper", nil)
	}
}

// Interface guards
var (
	_ caddy.Provisioner       = (*ProxyURL)(nil)
	_ caddy.ProxyFuncProducer = (*ProxyURL)(nil)
)
