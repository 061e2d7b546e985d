package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// BrowserOptions say how a browser differs from one that was just installed.
type BrowserOptions struct {
	// HostRules map names to addresses, as Chromium's --host-resolver-rules does:
	// "MAP evil.example 127.0.0.1, MAP * ~NOTFOUND".
	HostRules string

	NoScript      bool     // pages run no JavaScript of their own
	Dark          bool     // the user prefers dark colors
	Width, Height int      // of the window. Default: 1280×800
	Flags         []string // further flags, as name or name=value
}

// Browser is a running Chromium with one tab and a profile of its own. It ends with the test.
type Browser struct {
	ctx     context.Context
	options BrowserOptions

	mu       sync.Mutex
	problems []string
}

// OpenBrowser starts Chromium. Without it the test fails: what only a browser shows must not go untested.
func OpenBrowser(tb testing.TB, options BrowserOptions) *Browser {
	tb.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		tb.Fatal("chromium is not installed: run integration/run.sh install, or install Debian's package chromium")
	}
	profile, err := os.MkdirTemp("", "browser")
	if err != nil {
		tb.Fatal(err)
	}
	if options.Width == 0 {
		options.Width, options.Height = 1280, 800
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options.flags(path, profile)...)
	ctx, closeTab := chromedp.NewContext(allocator)
	b := &Browser{ctx: ctx, options: options}
	tb.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // closes the browser, and waits for it
		closeTab()
		stop()
		_ = os.RemoveAll(profile)
		if tb.Failed() {
			tb.Logf("problems of pages: %q", b.Problems())
		}
	})
	b.start(tb)
	return b
}

// browserStart is how long a browser may take to start, on a machine that does much else.
const browserStart = 2 * time.Minute

func (o BrowserOptions) flags(path, profile string) []chromedp.ExecAllocatorOption {
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.WSURLReadTimeout(browserStart), chromedp.UserDataDir(profile), chromedp.WindowSize(o.Width, o.Height),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
	}
	names := []string{
		"disable-background-networking", "disable-component-update", "disable-default-apps", "disable-extensions", "disable-sync",
		"disable-dev-shm-usage", "no-proxy-server", "metrics-recording-only", "password-store=basic", "force-color-profile=srgb",
	}
	if o.HostRules != "" {
		names = append(names, "host-resolver-rules="+o.HostRules)
	}
	for _, flag := range append(names, o.Flags...) {
		name, value, ok := strings.Cut(flag, "=")
		if ok {
			options = append(options, chromedp.Flag(name, value))
			continue
		}
		options = append(options, chromedp.Flag(name, true))
	}
	return options
}

// start starts the process with an empty tab. Not by Run: the first context that the tab is used with ends
// the browser with it.
func (b *Browser) start(tb testing.TB) {
	tb.Helper()
	chromedp.ListenTarget(b.ctx, b.note)
	started := make(chan error, 1)
	go func() { started <- chromedp.Run(b.ctx, b.emulate()...) }()
	select {
	case err := <-started:
		if err != nil {
			tb.Fatalf("starting chromium: %v", err)
		}
	case <-time.After(browserStart):
		tb.Fatal("chromium does not start")
	}
}

// emulate are the options that a tab has, not the process.
func (b *Browser) emulate() []chromedp.Action {
	actions := []chromedp.Action{emulation.SetScriptExecutionDisabled(b.options.NoScript)}
	if b.options.Dark {
		dark := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}
		actions = append(actions, emulation.SetEmulatedMedia().WithFeatures(dark))
	}
	if b.options.Width < narrowestWindow {
		actions = append(actions, emulation.SetDeviceMetricsOverride(int64(b.options.Width), int64(b.options.Height), 1, false))
	}
	return actions
}

// narrowestWindow is how narrow Chromium makes a window. A narrower one is emulated.
const narrowestWindow = 500

// note remembers what a page complains about.
func (b *Browser) note(event any) {
	var problem string
	switch event := event.(type) {
	case *cdplog.EventEntryAdded:
		if event.Entry.Level == cdplog.LevelError {
			problem = fmt.Sprintf("%s %s", event.Entry.Text, event.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		problem = event.ExceptionDetails.Error()
	}
	if problem == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, problem)
}

// Problems are the errors that pages have caused so far: exceptions of their scripts, violations of their
// policies, requests that failed.
func (b *Browser) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.problems)
}

// Run has the tab carry out actions of chromedp; one that fails, or takes too long, fails the test.
func (b *Browser) Run(tb testing.TB, actions ...chromedp.Action) {
	tb.Helper()
	if err := b.Try(actions...); err != nil {
		tb.Fatalf("the browser: %v", err)
	}
}

// Try is Run for actions that may fail.
func (b *Browser) Try(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(b.ctx, Timeout)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// Open opens a page, and returns when it has loaded.
func (b *Browser) Open(tb testing.TB, url string) {
	tb.Helper()
	b.Run(tb, chromedp.Navigate(url))
}

// Text returns the text that a person sees of the page's first element that matches a CSS selector. It
// waits until there is one.
func (b *Browser) Text(tb testing.TB, selector string) string {
	tb.Helper()
	var text string
	b.Run(tb, chromedp.Text(selector, &text, chromedp.ByQuery))
	return text
}

// Script evaluates JavaScript in the page, also with NoScript, and returns its value as text. It waits for a
// promise.
func (b *Browser) Script(tb testing.TB, script string) string {
	tb.Helper()
	var value any
	await := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
	b.Run(tb, chromedp.Evaluate(script, &value, await))
	return fmt.Sprint(value)
}

// Screenshot writes a picture of the whole page to a PNG file.
func (b *Browser) Screenshot(tb testing.TB, file string) {
	tb.Helper()
	var picture []byte
	b.Run(tb, chromedp.FullScreenshot(&picture, 100)) // a quality of 100 means PNG
	if err := os.WriteFile(file, picture, 0o600); err != nil {
		tb.Fatal(err)
	}
}
