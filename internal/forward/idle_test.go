package forward

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestBurstsReuseConnections: after many requests at a time, their connections wait for the next ones.
func TestBurstsReuseConnections(t *testing.T) {
	const burst = 100
	for name, test := range map[string]struct {
		options string
		opened  int64 // for the second burst
	}{
		"default": {`{}`, 0},
		"option":  {`{"keep_alive": {"max_idle_conns_per_host": 10}}`, burst - 10},
		"off":     {`{"keep_alive": {"enabled": false}}`, burst},
	} {
		t.Run(name, func(t *testing.T) {
			var opened atomic.Int64
			all := newBarrier(burst)
			api := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { all.wait() }))
			api.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			api.Start()
			defer api.Close()
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			defer cancel()
			transport, err := NewTransport(ctx, []byte(test.options), TransportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = transport.Cleanup() }()
			for _, want := range []int64{burst, burst + test.opened} {
				var requests sync.WaitGroup
				for range burst {
					requests.Go(func() {
						res, err := transport.Base.RoundTrip(requestTo(t, api.Listener.Addr().String(), nil))
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					})
				}
				requests.Wait()
				if got := opened.Load(); got != want {
					t.Errorf("%d connections were opened, want %d", got, want)
				}
			}
		})
	}
}

// barrier lets a number of callers go on together.
type barrier struct {
	number int

	mu     sync.Mutex
	came   int
	opened chan struct{}
}

func newBarrier(number int) *barrier { return &barrier{number: number, opened: make(chan struct{})} }

func (b *barrier) wait() {
	b.mu.Lock()
	opened := b.opened
	if b.came++; b.came%b.number == 0 {
		close(opened)
		b.opened = make(chan struct{})
	}
	b.mu.Unlock()
	<-opened
}
