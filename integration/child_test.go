package integration

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// child is a process that ends with the test.
type child struct {
	*exec.Cmd
	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{} // closed when it has ended
}

func startChild(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{Cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c, c
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-c.done
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd.Path, c.logs())
		}
	})
	return c
}

// Write implements io.Writer.
func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *child) logs() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// awaitResponse makes requests until the API responds. It fails when the process in between has ended.
func (w *world) awaitResponse(t *testing.T, ended <-chan struct{}, logs func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := w.Do(req)
		if err == nil {
			wantStatus(t, response, http.StatusOK)
			return
		}
		select {
		case <-ended:
			t.Fatalf("it has ended:\n%s", logs())
		case <-ctx.Done():
			t.Fatalf("no response: %v\n%s", err, logs())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
