package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

func TestServerSentEventsArriveAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	next := make(chan string)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			fmt.Fprintf(rw, "data: %s\n\n", event)
			_ = http.NewResponseController(rw).Flush()
		}
	}))
	w.Run(t, w.inline(options{}))
	got := make(chan *http.Response, 1)
	go func() {
		res, err := w.Client.Get(w.URL + "/events")
		if err != nil {
			t.Error(err)
		}
		got <- res
	}()
	next <- "1"
	res := <-got
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "event", line, fmt.Sprintf("data: %d\n", i+1))
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			next <- fmt.Sprint(i + 2) // only after the one before has arrived
		}
	}
	close(next)
}

func TestWebsockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	upgrader := websocket.Upgrader{}
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			messageType, message, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(messageType, append([]byte("echo "), message...)) != nil {
				return
			}
		}
	}))
	w.Run(t, w.inline(options{base: "/v2"}))
	w.Get(t, "/")     // not an upgrade, but it takes a token
	w.tokens.Revoke() // so that the upgrade is replayed
	conn, res, err := websocket.DefaultDialer.Dial("ws://"+w.Addr+"/socket?x=1", nil)
	if err != nil {
		t.Fatalf("%v: %v", err, res)
	}
	defer conn.Close()
	for i := range 3 {
		message := fmt.Sprintf("message %d", i)
		if err := conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
			t.Fatal(err)
		}
		_, got, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "message", string(got), "echo "+message)
	}
	conn.Close()
	eventually(t, "the API's side recorded", func() bool { return w.api.Last(t).RequestURI == "/v2/socket?x=1" })
	equal(t, "Authorization", w.api.Last(t).Header.Get("Authorization"), "Bearer token-2")
}

// TestWebsocketsEndWithTheirConfig: after a reload nobody would know of them, so both sides are told that the
// server goes away.
func TestWebsocketsEndWithTheirConfig(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]string{"by itself": "", "by reverse_proxy": "use_reverse_proxy"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			atTheAPI := make(chan error, 1)
			upgrader := websocket.Upgrader{}
			w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				conn, err := upgrader.Upgrade(rw, r, nil)
				if err != nil {
					return
				}
				defer conn.Close()
				_ = conn.WriteMessage(websocket.TextMessage, []byte("hello"))
				_, _, err = conn.ReadMessage()
				atTheAPI <- err
			}))
			config := w.inline(options{directive: option})
			w.Run(t, config)
			conn, res, err := websocket.DefaultDialer.Dial("ws://"+w.Addr+"/socket", nil)
			if err != nil {
				t.Fatalf("%v: %v", err, res)
			}
			defer conn.Close()
			if _, _, err := conn.ReadMessage(); err != nil {
				t.Fatal(err)
			}
			config.Options += "\ngrace_period 1s\n"
			if err := w.Reload(config); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(harness.Timeout))
			if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("the app got %v", err)
			}
			if err := <-atTheAPI; !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("the API got %v", err)
			}
			equal(t, "token requests", len(w.tokens.Requests()), 1)
		})
	}
}

func TestExpect100Continue(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{directive: "transport http {\nexpect_continue_timeout 5s\n}"})
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%d", len(body))
	}))
	w.wantOK(t)
	for name, revoke := range map[string]bool{"accepted at once": false, "after a replay": true} {
		t.Run(name, func(t *testing.T) {
			if revoke {
				w.tokens.Revoke()
			}
			conn, err := net.Dial("tcp", w.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(harness.Timeout))
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 200000\r\nConnection: close\r\n\r\n")
			reader := bufio.NewReader(conn)
			res, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusContinue {
				t.Fatalf("status %d before the body was sent", res.StatusCode)
			}
			// Larger than the replay buffer: it must not be read before the API accepts it.
			if _, err := conn.Write(randomBody(200_000)); err != nil {
				t.Fatal(err)
			}
			for res.StatusCode == http.StatusContinue {
				if res, err = http.ReadResponse(reader, nil); err != nil {
					t.Fatal(err)
				}
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			equal(t, "status", res.StatusCode, http.StatusOK)
			equal(t, "length", string(text), "200000")
		})
	}
}

func TestEarlyHints(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	hinted := make(chan struct{})
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "</style.css>; rel=preload")
		rw.WriteHeader(http.StatusEarlyHints)
		select {
		case <-hinted: // the hint arrived before the response was made
			rw.WriteHeader(http.StatusOK)
		case <-r.Context().Done():
		}
	}))
	w.Run(t, w.inline(options{}))
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints && header.Get("Link") != "" {
			close(hinted)
		}
		return nil
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, w.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response := w.MustDo(t, req)
	wantStatus(t, response, http.StatusOK)
}

func TestACancelledRequestEndsAtTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	arrived, ended := make(chan struct{}), make(chan struct{})
	w.api.RespondWith(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	}))
	w.Run(t, w.inline(options{}))
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = w.Do(req) }()
	<-arrived
	cancel()
	select {
	case <-ended:
	case <-time.After(harness.Timeout):
		t.Error("the API still works for a client that has left")
	}
}

// endless reads as a given number of zeros.
func endless(length int64) io.Reader { return io.LimitReader(zeros{}, length) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestLargeBodiesInConstantMemory sends far more in both directions than the sidecar may keep in memory.
func TestLargeBodiesInConstantMemory(t *testing.T) {
	const (
		size  = 512 << 20
		grows = 96 << 20 // the race detector's own needs included
	)
	w := newWorld(t, nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.Copy(rw, endless(size))
		}
	}))
	w.Run(t, w.inline(options{}))
	wantStatus(t, w.Send(t, http.MethodPost, "/", randomBody(1<<20)), http.StatusOK)
	_, before := w.ResidentMemory(t)

	req, err := http.NewRequest(http.MethodPost, w.URL+"/", endless(size))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	response := w.MustDo(t, req)
	wantStatus(t, response, http.StatusOK)
	equal(t, "uploaded", w.api.Last(t).BodyLength, int64(size))

	res, err := w.Client.Get(w.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	downloaded, err := io.Copy(io.Discard, res.Body)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "downloaded", downloaded, int64(size))
	if _, peak := w.ResidentMemory(t); peak-before > grows {
		t.Errorf("memory grew from %d to %d MiB", before>>20, peak>>20)
	}
}
