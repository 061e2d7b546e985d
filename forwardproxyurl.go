package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// ForwardProxyURL is what `network_proxy url` means in a transport of http_helper. Caddy's own module
// logs the URL with its password, and takes an unset variable in it for a connection that broke. This
// one stands in for it while a config is provisioned: there is no need to name it in one.
type ForwardProxyURL struct {
	// The forward proxy's URL: http, https, socks5 or socks5h, with a name and a password if it
	// wants them. `{env.*}` and `{file.*}` are understood, and read again for each request.
	URL string `json:"url,omitempty"`

	text text
}

// CaddyModule returns the Caddy module information.
func (ForwardProxyURL) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.network_proxy.http_helper",
		New: func() caddy.Module { return new(ForwardProxyURL) },
	}
}

// takeOverForwardProxy has a transport that is to be provisioned get its forward proxy's URL from
// ForwardProxyURL instead of Caddy's module. Other placeholders than ours are left to that.
func takeOverForwardProxy(t *reverseproxy.HTTPTransport) {
	var source struct{ From, URL string }
	if json.Unmarshal(t.NetworkProxyRaw, &source) != nil || source.From != "url" {
		return
	}
	if _, err := parseText(source.URL); err == nil {
		t.NetworkProxyRaw = caddyconfig.JSONModuleObject(ForwardProxyURL{URL: source.URL}, "from", "http_helper", nil)
	}
}

// Provision checks the URL as it is now.
func (p *ForwardProxyURL) Provision(caddy.Context) error {
	var err error
	if p.text, err = parseText(p.URL); err == nil {
		_, err = p.current()
	}
	return err
}

// ProxyFunc implements caddy.ProxyFuncProducer.
func (p *ForwardProxyURL) ProxyFunc() func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return p.current() }
}

// current is the URL as it is now. Errors do not quote it.
func (p *ForwardProxyURL) current() (*url.URL, error) {
	text, err := p.text.expand(nil)
	if err != nil {
		return nil, forwardProxyURLError{err}
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains(forwardProxySchemes, u.Scheme) {
		return nil, forwardProxyURLError{errForwardProxyURL}
	}
	return u, nil
}

var (
	forwardProxySchemes = []string{"http", "https", "socks5", "socks5h"}

	errForwardProxyURL = errors.New("it is not like http://proxy.example:3128 or http://name:password@proxy.example:3128; in name and password, percent-encode special characters")
)

// forwardProxyURLError is why there is no forward proxy to go through.
type forwardProxyURLError struct{ err error }

func (e forwardProxyURLError) Error() string { return fmt.Sprintf("network_proxy url: %v", e.err) }

var (
	_ caddy.Provisioner       = (*ForwardProxyURL)(nil)
	_ caddy.ProxyFuncProducer = (*ForwardProxyURL)(nil)
)
