// Package console is the page in the browser of `caddy http-helper console`: it shows the connections of a
// running sidecar, and has the dialogs that describe a new connection and a new connector.
//
// The files are in three layers. A request passes guard.go, which knows addresses and header fields, then
// session.go, which knows who has opened the console, and only then a page. The pages know neither; what
// they need of the sidecar is in sidecar.go, and nothing else is ever asked of it.
package console

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// IdleLimit is how long a console goes on when nobody uses it.
const IdleLimit = 30 * time.Minute

// ErrIdle is the error of a console that ended because nobody used it.
var ErrIdle = errors.New("nobody has used the console for 30 minutes")

// Options say what a console shows, and to whom.
type Options struct {
	AllowHosts []Host // that requests may be addressed to besides the listener's address

	// Admin returns the client of the sidecar's admin endpoint. It is called for each request: a sidecar
	// that is started later, or anew, is found.
	Admin func() (*adminapi.Client, error)

	// File is the configuration file with the connectors, and Adapter the name of its adapter. Without a
	// file the connectors are those of the sidecar.
	File, Adapter string

	Configuration draft.Configuration // what the dialogs need of the configuration's types

	saveDir string // where connections are saved; absolute, or empty: nowhere
}

// SaveIn has the console save connections in a directory.
func (o *Options) SaveIn(dir string) error {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	o.saveDir = absolute
	return draft.CheckDir(absolute)
}

// Server serves the console to those who have opened its URL.
type Server struct {
	sessions *sessions
	handler  http.Handler
	origin   string // of the URL that is printed
}

// New returns a console that is reached at the address of a listener, which must be a loopback address.
func New(listening net.Addr, options Options) *Server {
	sessions := newSessions()
	mux := http.NewServeMux()
	newPages(options).register(mux)
	return &Server{
		sessions: sessions,
		handler:  guard(hostsOf(listening, options.AllowHosts), sessions.protect(mux)),
		origin:   "http://" + listening.String(),
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// NewURL returns a URL that opens the console once. The one before it opens nothing any more.
func (s *Server) NewURL() string { return s.origin + s.sessions.newTicketPath() }

// Bounds of a connection. A page may have to wait for the sidecar, so there is none for responses.
const (
	headerTimeout = 10 * time.Second
	keepAlive     = time.Minute
	maxHeader     = 64 << 10
	goodbye       = time.Second
)

// Serve serves the console until ctx ends or, with ErrIdle, nobody has used it for a while.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       keepAlive,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // nothing outlives the console
	}
	go func() { cancel(s.sessions.awaitIdle(ctx)) }()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer stop()
	if server.Shutdown(last) != nil {
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) { // the listener is closed then, even if it had not begun to serve
		return err
	}
	if err := context.Cause(ctx); errors.Is(err, ErrIdle) {
		return err
	}
	return nil
}
