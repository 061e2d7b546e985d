package harness

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Timeout is how long the harness waits for anything before the test fails.
const Timeout = 30 * time.Second

// process is a child that ends with the test.
type process struct {
	cmd    *exec.Cmd
	output *log
	exited chan struct{} // closed when the child has ended
}

// log is what a child has written so far.
type log struct {
	mu     sync.Mutex
	buffer bytes.Buffer
	grown  chan struct{} // closed and replaced when the log grows
}

func newLog() *log { return &log{grown: make(chan struct{})} }

// Write implements io.Writer.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.grown)
	l.grown = make(chan struct{})
	return l.buffer.Write(p)
}

func (l *log) text() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String(), l.grown
}

// startProcess starts a child; its output goes to the test's log when the test fails.
func startProcess(tb testing.TB, cmd *exec.Cmd) *process {
	tb.Helper()
	p := newProcess(cmd)
	cmd.Stdout, cmd.Stderr = p.output, p.output
	p.start(tb)
	return p
}

func newProcess(cmd *exec.Cmd) *process {
	return &process{cmd: cmd, output: newLog(), exited: make(chan struct{})}
}

func (p *process) start(tb testing.TB) {
	tb.Helper()
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	tb.Cleanup(func() {
		p.stop()
		if tb.Failed() {
			tb.Logf("output of %s:\n%s", p.cmd.Path, tail(p.Logs(), 20_000))
		}
	})
}

// Logs returns everything that the process has written.
func (p *process) Logs() string {
	text, _ := p.output.text()
	return text
}

// WaitLog waits until the process has written a text.
func (p *process) WaitLog(tb testing.TB, want string) {
	tb.Helper()
	deadline := time.After(Timeout)
	for {
		text, grown := p.output.text()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-grown:
		case <-p.exited:
			tb.Fatalf("the process ended without writing %q", want)
		case <-deadline:
			tb.Fatalf("the process did not write %q", want)
		}
	}
}

// Pid returns the process's id.
func (p *process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *process) Exited() <-chan struct{} { return p.exited }

// Signal sends the process a signal.
func (p *process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Wait waits until the process has ended, and returns its exit status.
func (p *process) Wait(tb testing.TB) int {
	tb.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(Timeout):
		tb.Fatal("the process is still running")
		return -1
	}
}

// stop asks the process to end, and kills it when it does not.
func (p *process) stop() {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// waitReady calls check until it succeeds, the process ends or the time is over.
func (p *process) waitReady(tb testing.TB, what string, check func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		if err = check(ctx); err == nil {
			return
		}
		select {
		case <-p.exited:
			tb.Fatalf("%s ended while starting:\n%s", what, tail(p.Logs(), 5_000))
		case <-time.After(10 * time.Millisecond):
		}
	}
	tb.Fatalf("%s is not ready: %v", what, err)
}

func tail(text string, length int) string {
	if len(text) <= length {
		return text
	}
	return "…" + text[len(text)-length:]
}
