package harness

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Keys that a person may press.
const (
	Enter = "\r"
	CtrlC = "\x03"
	CtrlD = "\x04"
	CtrlU = "\x15" // deletes what was typed
)

// Terminal is a process on a pseudo-terminal, with the screen that a person sees. What goes to
// standard output is redirected, and standard error where the command says so.
type Terminal struct {
	*process

	master *os.File
	before unix.Termios
	drawn  chan struct{} // closed when nothing more will be drawn

	mu       sync.Mutex
	emulator *vt.Emulator
	written  strings.Builder
	changed  chan struct{} // closed and replaced when something is drawn
}

// OpenTerminal starts a command on a terminal of this size.
func OpenTerminal(tb testing.TB, cmd *exec.Cmd, columns, rows uint16) *Terminal {
	tb.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		tb.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Cols: columns, Rows: rows}); err != nil {
		tb.Fatal(err)
	}
	t := &Terminal{
		process: newProcess(cmd), master: master, drawn: make(chan struct{}),
		emulator: vt.NewEmulator(int(columns), int(rows)), changed: make(chan struct{}),
	}
	t.before = t.settings(tb)
	cmd.Stdin, cmd.Stdout = tty, t.output
	if cmd.Stderr == nil {
		cmd.Stderr = tty
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	repliesForwarded := make(chan struct{})
	tb.Cleanup(func() { // after the process has ended
		<-t.drawn
		_ = t.emulator.InputPipe().(interface{ Close() error }).Close()
		<-repliesForwarded
		_ = master.Close()
		if tb.Failed() {
			tb.Logf("the screen:\n%s", t.Screen())
		}
	})
	t.start(tb)
	_ = tty.Close()
	go t.draw()
	go func() {
		defer close(repliesForwarded)
		t.forwardReplies()
	}()
	return t
}

// draw puts what the process writes on the screen, until no process has the terminal open any more.
func (t *Terminal) draw() {
	defer close(t.drawn)
	buffer := make([]byte, 4096)
	for {
		n, err := t.master.Read(buffer)
		if err != nil {
			return
		}
		t.mu.Lock()
		t.written.Write(buffer[:n])
		_, _ = t.emulator.Write(buffer[:n])
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
	}
}

// forwardReplies passes the terminal's own replies to queries on to the process.
func (t *Terminal) forwardReplies() {
	buffer := make([]byte, 4096)
	for {
		n, err := t.emulator.Read(buffer)
		if err != nil {
			return
		}
		_, _ = t.master.Write(buffer[:n])
	}
}

// Screen is what a person sees now, without blank lines at the end.
func (t *Terminal) Screen() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimRight(t.emulator.String(), " \n")
}

// Written is everything that was ever written to the terminal, as it was written.
func (t *Terminal) Written() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written.String()
}

// Type presses keys.
func (t *Terminal) Type(tb testing.TB, keys ...string) {
	tb.Helper()
	for _, key := range keys {
		if _, err := t.master.WriteString(key); err != nil {
			tb.Fatal(err)
		}
	}
}

// WaitScreen waits until a person sees all of the texts.
func (t *Terminal) WaitScreen(tb testing.TB, texts ...string) {
	tb.Helper()
	for _, text := range texts {
		t.wait(tb, text, strings.Contains)
	}
	// All of them at once: what came first may have gone.
	screen := t.Screen()
	for _, text := range texts {
		if !strings.Contains(screen, text) {
			tb.Fatalf("%q is not on the screen any more", text)
		}
	}
}

// WaitScreenEnd waits until a text is the last on the screen.
func (t *Terminal) WaitScreenEnd(tb testing.TB, text string) {
	tb.Helper()
	t.wait(tb, text, strings.HasSuffix)
}

// wait waits until has finds a text on the screen.
func (t *Terminal) wait(tb testing.TB, text string, has func(screen, text string) bool) {
	tb.Helper()
	deadline := time.After(Timeout)
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if has(t.Screen(), text) {
			return
		}
		select {
		case <-changed:
		case <-t.drawn:
			if has(t.Screen(), text) {
				return
			}
			tb.Fatalf("the process ended without %q on the screen", text)
		case <-deadline:
			tb.Fatalf("%q is not on the screen", text)
		}
	}
}

// Ended waits until the process has ended and everything is drawn, and returns its exit status.
func (t *Terminal) Ended(tb testing.TB) int {
	tb.Helper()
	status := t.Wait(tb)
	<-t.drawn
	return status
}

// WaitHidden waits until the terminal does not show what is typed.
func (t *Terminal) WaitHidden(tb testing.TB) {
	tb.Helper()
	for deadline := time.Now().Add(Timeout); t.settings(tb).Lflag&unix.ECHO != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("the terminal shows what is typed")
		}
	}
}

// Restored reports whether the terminal is as it was before the process.
func (t *Terminal) Restored(tb testing.TB) bool {
	tb.Helper()
	return t.settings(tb) == t.before
}

func (t *Terminal) settings(tb testing.TB) unix.Termios {
	tb.Helper()
	settings, err := unix.IoctlGetTermios(int(t.master.Fd()), unix.TCGETS)
	if err != nil {
		tb.Fatal(os.NewSyscallError("TCGETS", err))
	}
	return *settings
}
