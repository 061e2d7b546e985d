package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
)

// serveBare is a minimal proxy in Go: httputil.ReverseProxy and nothing else. Its arguments are address=URL, twice, and the
// file with the authority that it trusts.
func serveBare(args []string) error {
	authority, err := os.ReadFile(args[2]) //nolint:gosec // the benchmark itself names it
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	transport := &http.Transport{MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}
	failed := make(chan error)
	for _, arg := range args[:2] {
		address, api, _ := strings.Cut(arg, "=")
		target, err := url.Parse(api)
		if err != nil {
			return err
		}
		proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer "+accessToken)
		}}
		go func() { failed <- http.ListenAndServe(address, proxy) }() //nolint:gosec // on loopback, for minutes
	}
	return <-failed
}
