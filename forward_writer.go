package httphelper

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// responseWriter unmasks for the app what was masked for reverse_proxy. It keeps an API from speaking in our
// name in an informational response, such as 103 early hints, which goes straight from its connection
// to the app.
type responseWriter struct {
	caddyhttp.ResponseWriterWrapper

	request *forwardRequest
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if status < http.StatusOK && status != http.StatusSwitchingProtocols {
		dropOwnProxyStatus(w.Header())
	} else {
		w.request.unmask()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

var _ http.ResponseWriter = (*responseWriter)(nil)
