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

// ProxyURL is what `network_proxy url` means in a transport of http_helper. Caddy's own module
// logs the URL with its password, and takes an unset variable in it for a connection that broke. This
// one stands in for it while a config is provisioned: there is no need to name it in one.
type ProxyURL struct {
	// The forward proxy's URL: http, https, socks5 or socks5h, with a name and a password if it
	// wants them. `{env.*}` and `{file.*}` are understood, and read again for each request.
	URL string `json:"url,omitempty"`

	text placeholder.Template
}

// CaddyModule returns the Caddy module information.
func (ProxyURL) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.network_proxy.http_helper",
		New: func() caddy.Module { return new(ProxyURL) },
	}
}

// replaceProxyModule has a transport that is to be provisioned get its forward proxy's URL from
// ForwardProxyURL instead of Caddy's module. Other placeholders than ours are left to that.
func replaceProxyModule(t *reverseproxy.HTTPTransport) {
	var source struct{ From, URL string }
	if json.Unmarshal(t.NetworkProxyRaw, &source) != nil || source.From != "url" {
		return
	}
	if _, err := placeholder.Parse(source.URL); err == nil {
		t.NetworkProxyRaw = caddyconfig.JSONModuleObject(ProxyURL{URL: source.URL}, "from", "http_helper", nil)
	}
}

// Provision checks the URL as it is now.
func (p *ProxyURL) Provision(caddy.Context) error {
	var err error
	if p.text, err = placeholder.Parse(p.URL); err == nil {
		_, err = p.current()
	}
	return err
}

// ProxyFunc implements caddy.ProxyFuncProducer.
func (p *ProxyURL) ProxyFunc() func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return p.current() }
}

// current is the URL as it is now. Errors do not quote it.
func (p *ProxyURL) current() (*url.URL, error) {
	text, err := p.text.Expand(nil)
	if err != nil {
		return nil, neterror.ProxyURLError{Err: err}
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains(proxySchemes, u.Scheme) {
		return nil, neterror.ProxyURLError{Err: errProxyURL}
	}
	return u, nil
}

var (
	proxySchemes = []string{"http", "https", "socks5", "socks5h"}

	errProxyURL = errors.New("it is not like http://proxy.example:3128 or http://name:password@proxy.example:3128; in name and password, percent-encode special characters")
)

var (
	_ caddy.Provisioner       = (*ProxyURL)(nil)
	_ caddy.ProxyFuncProducer = (*ProxyURL)(nil)
)
