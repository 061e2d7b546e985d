package console

import (
	"net/http"
)

// contentPolicy has a page load from nowhere but the console, run no inline script and no inline style, and
// be shown in no other page.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// maxBody bounds a form.
const maxBody = 1 << 20

// guard refuses requests that no page of the console's has made, and those to other hosts: a page of
// another site may have its name resolved to this address. Every response has the header fields that keep
// a page to itself.
func guard(allowed hosts, next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "This request comes from a page of another site.", http.StatusForbidden)
	}))
	checked := crossOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range securityHeaders {
			w.Header().Set(name, value)
		}
		if !allowed.allow(r.Host) {
			http.Error(w, "The console is not served under this host. If it should be, start it with --allow-host and that name.", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		checked.ServeHTTP(w, r)
	})
}

var securityHeaders = map[string]string{
	"Content-Security-Policy":      contentPolicy,
	"Cache-Control":                "no-store",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
