package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"
)

const (
	// dialPatience is how long a command waits for an admin endpoint to accept a connection.
	dialPatience = 3 * time.Second

	// answerPatience is how long it waits for an answer that costs no request to anybody else.
	answerPatience = 10 * time.Second

	maxAdminAnswer = 8 << 20
)

// addAdminFlags adds the flags that say which Caddy a command talks to.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Admin endpoint of the running Caddy, such as unix//run/http_helper/admin.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file that names the admin endpoint")
	cmd.Flags().StringP("adapter", "a", "", "Name of the adapter for the configuration file")
}

// adminClient talks to the admin endpoint of a running Caddy.
type adminClient struct {
	address string // as people write it
	origin  string // as a URL; empty: a unix socket
	nobody  string // said first when nobody answers
	client  *http.Client

	patience time.Duration
}

// findAdmin finds the endpoint that a command's flags mean.
func findAdmin(cmd *cobra.Command) (*adminClient, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	if flags.String("adapter") != "" && flags.String("config") == "" {
		return nil, usageErrorf("--adapter needs --config")
	}
	if flags.String("address") == "" && flags.String("config") == "" {
		return findRunning()
	}
	address, err := quietly(func() (string, error) {
		return caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	})
	if err != nil {
		return nil, usageError{err}
	}
	return newAdminClient(address)
}

// adminFlags are the flags that say which Caddy a command talks to, for another command.
func adminFlags(cmd *cobra.Command) string {
	var flags strings.Builder
	for _, name := range []string{"address", "config", "adapter"} {
		if value := cmd.Flag(name).Value.String(); value != "" {
			fmt.Fprintf(&flags, " --%s %s", name, shellWord(value))
		}
	}
	return flags.String()
}

var plainShellWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellWord writes a text so that a shell reads it as one word.
func shellWord(word string) string {
	if plainShellWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// quietly does something without the lines of Caddy's log about it, which would stand between those of
// a command.
func quietly[T any](do func() (T, error)) (T, error) {
	_, log, buffer := caddy.BufferedLog()
	defer func() {
		buffer.FlushTo(zap.NewNop())
		caddy.UnbufferDefaultLogger(log)
	}()
	return do()
}

// findRunning finds the user's own sidecar, or else Caddy's default endpoint.
func findRunning() (*adminClient, error) {
	switch running := runningSockets(); len(running) {
	case 0:
		c, err := newAdminClient(caddy.DefaultAdminListen)
		if err == nil {
			c.nobody = "no sidecar of yours is running, and "
		}
		return c, err
	case 1:
		return newAdminClient(running[0])
	default:
		return nil, usageErrorf("several sidecars are running; choose one:\n  --address %s", strings.Join(running, "\n  --address "))
	}
}

func newAdminClient(address string) (*adminClient, error) {
	address = unixPath(address)
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil || a.PortRangeSize() > 1 || !a.IsUnixNetwork() && !strings.HasPrefix(a.Network, "tcp") {
		return nil, usageErrorf("%s is not the address of an admin endpoint, such as localhost:2019 or unix//path/to/admin.sock", address)
	}
	dial := a.JoinHostPort(0)
	c := &adminClient{address: address, origin: "http://" + dial, patience: answerPatience}
	if a.IsUnixNetwork() {
		dial, _, _ = strings.Cut(dial, "|") // permissions
		c.origin = ""
	}
	c.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialPatience}).DialContext(ctx, a.Network, dial)
		},
	}}
	return c, nil
}

// unixPath is an address; one that is only the path of a unix socket is completed.
func unixPath(address string) string {
	if filepath.IsAbs(address) {
		return "unix/" + address
	}
	return address
}

// adminAnswer is what an admin endpoint has answered.
type adminAnswer struct {
	status int
	body   []byte
}

// ask makes a request. An answer that is an error is an answer too.
func (c *adminClient) ask(ctx context.Context, method, path string) (*adminAnswer, error) {
	if method == http.MethodGet {
		limited, cancel := context.WithTimeout(ctx, c.patience)
		defer cancel()
		ctx = limited
	}
	// The host does not matter on a unix socket, but there must be one.
	req, err := http.NewRequestWithContext(ctx, method, orDefault(c.origin, "http://127.0.0.1")+path, nil)
	if err != nil {
		return nil, err
	}
	if c.origin != "" {
		req.Header.Set("Origin", c.origin) // Caddy may insist on it
	}
	res, err := c.client.Do(req)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("you may not open %s (permission denied); run the command as the user of that Caddy", c.address)
	case err != nil:
		return nil, fmt.Errorf("%sno Caddy answers at %s (%s); choose another one with --address or --config", c.nobody, c.address, plainCause(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAdminAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %s", c.address, plainCause(err))
	}
	return &adminAnswer{status: res.StatusCode, body: body}, nil
}

// plainCause is what is left of a network error without its wrapping.
func plainCause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it takes too long"
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// read reads an answer. An error of the API's becomes one here.
func (c *adminClient) read(answer *adminAnswer, into any) error {
	if answer.status == http.StatusOK {
		if err := json.Unmarshal(answer.body, into); err != nil {
			return fmt.Errorf("%s does not answer as http_helper does: is it of another version?", c.address)
		}
		return nil
	}
	var failed struct {
		Error string `json:"error"`
	}
	switch err := json.Unmarshal(answer.body, &failed); {
	case (err != nil || failed.Error == "") && answer.status == http.StatusNotFound:
		return fmt.Errorf("the Caddy at %s was built without http_helper", c.address)
	case err != nil || failed.Error == "":
		return fmt.Errorf("the Caddy at %s answers with status %d", c.address, answer.status)
	case answer.status == http.StatusNotFound:
		return usageError{errors.New(failed.Error)}
	default:
		return errors.New(failed.Error)
	}
}

// runtimeDirs are where `run` may keep the socket of its admin endpoint, best first.
func runtimeDirs() []string {
	var dirs []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "http_helper"))
	}
	if dir, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "http_helper"))
	}
	return dirs
}

// runningSockets are the admin endpoints of the user's sidecars that answer.
func runningSockets() []string {
	var running []string
	for _, socket := range sockets() {
		if accepts("unix", socket) {
			running = append(running, "unix/"+socket)
		}
	}
	return running
}

// sockets are those of `run` in the runtime directories. Some may be left over.
func sockets() []string {
	var found []string
	for _, dir := range runtimeDirs() {
		inside, _ := filepath.Glob(filepath.Join(dir, "run-*.sock"))
		found = append(found, inside...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// accepts tells whether something accepts connections at an address.
func accepts(network, address string) bool {
	conn, err := net.DialTimeout(network, address, dialPatience)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// completeNames completes an argument with the names in a list of the admin API's.
func completeNames(path string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var list []struct{ Name string }
		admin, err := findAdmin(cmd)
		if err != nil || (&session{cmd: cmd, admin: admin}).call(http.MethodGet, path, &list) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]cobra.Completion, len(list))
		for i, item := range list {
			names[i] = item.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
