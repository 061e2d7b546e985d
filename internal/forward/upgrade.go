package forward

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// directUpgrade prepares a request that offers to switch to another protocol. Only HTTP/1.1 has such an
// offer (RFC 9110 §7.8).
func directUpgrade(out *http.Request) {
	if out.ProtoMajor != 1 || out.ProtoMinor == 0 {
		delete(out.Header, "Connection")
		delete(out.Header, "Upgrade")
	}
	spellWebsocketFields(out.Header)
}

// upgrade switches the protocols of the app's connection as the API's response says, and copies between
// both connections until one of them breaks, both have ended, or the config is unloaded.
func (p *Proxy) upgrade(q *Request, res *http.Response) error {
	api, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return errUpgrade
	}
	protocol := res.Header.Get("Upgrade")
	header := q.app.Header()
	addEndToEnd(header, res.Header)
	header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{protocol}
	spellWebsocketFields(header)
	q.app.WriteHeader(res.StatusCode)
	app, buffered, err := http.NewResponseController(&q.app).Hijack()
	if err != nil {
		return fmt.Errorf("switching the app's connection to %s: %w", protocol, err)
	}
	sent, _ := buffered.Peek(buffered.Reader.Buffered()) // by the app, without waiting for the response
	t := p.tunnels.add(app, api, strings.EqualFold(protocol, "websocket"))
	defer p.tunnels.remove(t)
	defer context.AfterFunc(q, t.end)()
	t.copy(io.MultiReader(bytes.NewReader(sent), app))
	return nil
}

// spellWebsocketFields spells the fields of a websocket handshake as RFC 6455 does, since some servers and
// clients distinguish case.
func spellWebsocketFields(header http.Header) {
	for field, values := range header {
		if name, ok := strings.CutPrefix(field, "Sec-Websocket-"); ok {
			delete(header, field)
			header["Sec-WebSocket-"+name] = values
		}
	}
}
