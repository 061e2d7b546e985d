package httphelper

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// answerWriter shows the app what was hidden from reverse_proxy. It keeps an API from speaking in our
// name in an informational answer, such as 103 early hints, which goes straight from its connection
// to the app.
type answerWriter struct {
	caddyhttp.ResponseWriterWrapper

	grant *grant
}

// WriteHeader implements http.ResponseWriter.
func (w *answerWriter) WriteHeader(status int) {
	if status < http.StatusOK && status != http.StatusSwitchingProtocols {
		dropOwnProxyStatus(w.Header())
	} else {
		w.grant.showEchoes()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

var _ http.ResponseWriter = (*answerWriter)(nil)
