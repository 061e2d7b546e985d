package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Config is a Caddyfile in parts.
type Config struct {
	Options string   // inside the global options, beside the admin endpoint
	Site    string   // inside the site that the app calls
	More    string   // further sites
	Env     []string // of the process, as NAME=value; counts at start only
	Hosts   string   // the content of /etc/hosts; it needs root. Empty: the machine's
	Whole   string   // the whole Caddyfile, instead of the parts
	Program string   // the path of another sidecar than Caddy returns
}

// Sidecar is a running Caddy with the plugin.
type Sidecar struct {
	*process
	Dir    string // the process's own directory: working directory, home, admin socket
	Addr   string // host:port of the site that the app calls
	URL    string // the same as a URL, without a path
	Client *http.Client

	admin *http.Client
}

// New prepares a sidecar: its directory and its address are known before it runs.
func New(tb testing.TB) *Sidecar {
	tb.Helper()
	// Not tb.TempDir: the path of a unix socket has 107 characters at most, and tests have long names.
	dir, err := os.MkdirTemp("", "sidecar")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Sidecar{Dir: dir, Addr: "127.0.0.1:" + Port(tb)}
	s.URL = "http://" + s.Addr
	s.Client = NewClient(tb)
	s.admin = UnixClient(tb, s.AdminSocket())
	return s
}

// NewClient returns a client that shares nothing with others and follows no redirects.
func NewClient(tb testing.TB) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       2 * Timeout,
	}
}

// UnixClient returns a client that connects to a unix socket, whatever the host of the URL.
func UnixClient(tb testing.TB, path string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		// A reload replaces the admin endpoint, and its idle connections die.
		DisableKeepAlives: true,
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: Timeout}
}

// AdminSocket is the path of the admin endpoint's unix socket.
func (s *Sidecar) AdminSocket() string { return filepath.Join(s.Dir, "admin.sock") }

// Caddyfile puts the parts together.
func (s *Sidecar) Caddyfile(config Config) string {
	if config.Whole != "" {
		return chooseForwarding(config.Whole)
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	return chooseForwarding(fmt.Sprintf("{\n\tadmin unix/%s\n%s\n}\n:%s {\n\tbind 127.0.0.1\n%s\n}\n%s\n",
		s.AdminSocket(), config.Options, port, config.Site, config.More))
}

// forwardBy is the environment variable that has all directives http_helper forward by reverse_proxy, if it
// is "reverse_proxy". So the same tests try both ways.
const forwardBy = "FORWARD_BY"

// chooseForwarding adds use_reverse_proxy to the directives of a Caddyfile if the environment says so.
func chooseForwarding(caddyfile string) string {
	if os.Getenv(forwardBy) != "reverse_proxy" || strings.Contains(caddyfile, "use_reverse_proxy") {
		return caddyfile
	}
	lines := strings.Split(caddyfile, "\n")
	for i, line := range lines {
		argument, ok := strings.CutPrefix(strings.TrimSpace(line), "http_helper ")
		switch {
		case !ok || argument == "{": // the latter is the global option
		case strings.HasSuffix(argument, " {"):
			lines[i] += "\nuse_reverse_proxy"
		default:
			lines[i] += " {\nuse_reverse_proxy\n}"
		}
	}
	return strings.Join(lines, "\n")
}

// Run runs the sidecar until the test ends, and returns when it accepts connections and has loaded its configuration.
func (s *Sidecar) Run(tb testing.TB, config Config) {
	tb.Helper()
	s.process = startProcess(tb, s.command(tb, config, "run"))
	tb.Cleanup(func() {
		s.stop()
		if strings.Contains(s.Logs(), "WARNING: DATA RACE") {
			tb.Error("the sidecar has a data race")
		}
		if strings.Contains(s.Logs(), "panic:") {
			tb.Error("the sidecar panicked")
		}
	})
	s.waitReady(tb, "the sidecar", s.dial)
	s.waitLoaded()
}

// waitLoaded waits until the configuration is loaded, if its admin endpoint is where it is by default: Caddy holds
// a request for the configuration back until then, and accepts connections of its sites before.
func (s *Sidecar) waitLoaded() {
	if _, err := os.Stat(s.AdminSocket()); err == nil {
		_, _, _ = s.Admin(http.MethodGet, "/config/", "", "")
	}
}

// Adapt has the configuration adapted and validated by a process of its own, and returns the JSON,
// or else what it said.
func (s *Sidecar) Adapt(tb testing.TB, config Config) (output string, err error) {
	tb.Helper()
	return run(s.command(tb, config, "adapt", "--validate"))
}

// command is a caddy command that reads the configuration.
func (s *Sidecar) command(tb testing.TB, config Config, args ...string) *exec.Cmd {
	tb.Helper()
	file := s.File(tb, "Caddyfile", s.Caddyfile(config))
	caddy := config.Program
	if caddy == "" {
		caddy = Caddy(tb)
	}
	program := append([]string{caddy}, append(args, "--config", file, "--adapter", "caddyfile")...)
	if config.Hosts != "" {
		hosts := s.File(tb, "hosts", config.Hosts)
		program = append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts}, program...)
	}
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Dir = s.Dir
	cmd.Env = s.environment(config)
	return cmd
}

// environment has nothing of the developer's: neither a home with a Caddy configuration nor a proxy.
func (s *Sidecar) environment(config Config) []string {
	return append([]string{"HOME=" + s.Dir, "PATH=" + os.Getenv("PATH"), "GOTRACEBACK=all"}, config.Env...)
}

func (s *Sidecar) dial(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Reload loads another configuration through the admin endpoint.
func (s *Sidecar) Reload(config Config) error {
	status, body, err := s.Admin(http.MethodPost, "/load", "text/caddyfile", s.Caddyfile(config))
	for retry := 0; err != nil && retry < 3; retry++ {
		// The admin endpoint may still be changing over from the reload before. Loading the same
		// configuration twice is harmless.
		status, body, err = s.Admin(http.MethodPost, "/load", "text/caddyfile", s.Caddyfile(config))
	}
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, body)
	}
	return nil
}

// Admin makes a request to the admin endpoint.
func (s *Sidecar) Admin(method, path, contentType, body string) (status int, response string, err error) {
	req, err := http.NewRequest(method, "http://admin"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := do(s.admin, req)
	if err != nil {
		return 0, "", err
	}
	return res.StatusCode, res.Text, nil
}

// Response is a response with its whole body.
type Response struct {
	*http.Response
	Text string
}

// Do sends a request and reads the whole response.
func (s *Sidecar) Do(req *http.Request) (*Response, error) { return do(s.Client, req) }

// MustDo is Do for requests that must not fail.
func (s *Sidecar) MustDo(tb testing.TB, req *http.Request) *Response {
	tb.Helper()
	response, err := s.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	return response
}

func do(client *http.Client, req *http.Request) (*Response, error) {
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return &Response{res, string(text)}, err
}

// Get makes a GET request with a client, and reads the whole response.
func Get(client *http.Client, url string) (*Response, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return do(client, req)
}

// Get makes a GET request; name and value of headers follow in turn.
func (s *Sidecar) Get(tb testing.TB, path string, headers ...string) *Response {
	tb.Helper()
	return s.Send(tb, http.MethodGet, path, nil, headers...)
}

// Send makes a request with a body; name and value of headers follow in turn.
func (s *Sidecar) Send(tb testing.TB, method, path string, body []byte, headers ...string) *Response {
	tb.Helper()
	req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return s.MustDo(tb, req)
}

// File writes a file into the sidecar's directory at once, as a rotation does, and returns its path.
func (s *Sidecar) File(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(s.Dir, name)
	WriteFile(tb, path, content)
	return path
}

// WriteFile replaces a file in one step.
func WriteFile(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

// FDs counts the process's open file descriptors.
func (s *Sidecar) FDs(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir(s.proc("fd"))
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// ResidentMemory returns the resident memory of the process in bytes, and its maximum so far.
func (s *Sidecar) ResidentMemory(tb testing.TB) (now, peak int64) {
	tb.Helper()
	status, err := os.ReadFile(s.proc("status"))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			now = kib << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			peak = kib << 10
		}
	}
	return now, peak
}

func (s *Sidecar) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(s.Pid()), name)
}

// Goroutines counts the process's goroutines.
func (s *Sidecar) Goroutines(tb testing.TB) int {
	tb.Helper()
	_, profile, err := s.Admin(http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "")
	if err != nil {
		tb.Fatal(err)
	}
	var total int
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &total); err != nil {
		tb.Fatalf("reading goroutine profile: %v", err)
	}
	return total
}

// AdaptFile has a whole Caddyfile adapted, with `caddy adapt` and further arguments, and returns the
// JSON, or else what caddy said.
func AdaptFile(tb testing.TB, caddyfile string, env []string, args ...string) (output string, err error) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "Caddyfile")
	WriteFile(tb, file, caddyfile)
	cmd := exec.Command(Caddy(tb), append([]string{"adapt", "--config", file, "--adapter", "caddyfile"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	return run(cmd)
}

// run runs a command and returns what it printed, or else what it complained about.
func run(cmd *exec.Cmd) (output string, err error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%v: %s", err, stderr.String())
	}
	return stdout.String(), nil
}
