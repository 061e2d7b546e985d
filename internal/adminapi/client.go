package adminapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// dialTimeout is how long a client waits for an admin endpoint to accept a connection.
	dialTimeout = 3 * time.Second

	// getPatience is how long a client waits for a response that costs no request to anybody else.
	getPatience = 10 * time.Second

	maxResponseBytes = 64 << 20 // the metrics of 10,000 connections have 50 MB
)

// Client talks to the admin endpoint of a running Caddy.
type Client struct {
	address  string        // as people write it
	origin   string        // as a URL; empty: a unix socket
	patience time.Duration // with a GET
	client   *http.Client
}

// New returns a client for the admin endpoint at an address, which may be the path of a unix socket.
// A POST may take as long as the server does.
func New(address string) (*Client, error) {
	address = UnixPath(address)
	network, dial, err := parse(address)
	if err != nil {
		return nil, err
	}
	c := &Client{address: address, patience: getPatience}
	if !caddy.IsUnixNetwork(network) {
		c.origin = "http://" + dial
	}
	c.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, dial)
		},
	}}
	return c, nil
}

// parse returns what to dial for the address of an admin endpoint.
func parse(address string) (network, dial string, err error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil || a.PortRangeSize() > 1 || !a.IsUnixNetwork() && !strings.HasPrefix(a.Network, "tcp") {
		return "", "", fmt.Errorf("%s is not the address of an admin endpoint, such as localhost:2019 or unix//path/to/admin.sock", address)
	}
	dial = a.JoinHostPort(0)
	if a.IsUnixNetwork() {
		dial, _, _ = strings.Cut(dial, "|") // permissions
	}
	return a.Network, dial, nil
}

// Responds reports whether something accepts connections at the address of an admin endpoint.
func Responds(address string) bool {
	network, dial, err := parse(UnixPath(address))
	return err == nil && Accepts(network, dial)
}

// UnixPath returns an address, completed if it is only the path of a unix socket.
func UnixPath(address string) string {
	if filepath.IsAbs(address) {
		return "unix/" + address
	}
	return address
}

// UnreachableError is the error of an admin endpoint that does not respond.
type UnreachableError struct {
	Address string
	Err     error
}

func (e *UnreachableError) Error() string {
	if e.Forbidden() {
		return "you may not open " + e.Address + " (permission denied)"
	}
	return "no Caddy responds at " + e.Address + " (" + innermost(e.Err) + ")"
}

// Forbidden reports whether the user has no permission to connect.
func (e *UnreachableError) Forbidden() bool { return errors.Is(e.Err, fs.ErrPermission) }

// Do makes a request, and decodes the JSON of the response, which it returns, besides. The error is an
// *UnreachableError when there is no response, and a caddy.APIError when the admin API has sent one, with
// status 404 if a name does not exist.
func (c *Client) Do(ctx context.Context, method, path string, into any) ([]byte, error) {
	if method == http.MethodGet {
		limited, cancel := context.WithTimeout(ctx, c.patience)
		defer cancel()
		ctx = limited
	}
	status, body, err := c.send(ctx, method, path)
	if err != nil {
		return nil, err
	}
	return body, c.decode(status, body, into)
}

// send makes a request and reads the response.
func (c *Client) send(ctx context.Context, method, path string) (status int, body []byte, err error) {
	// The host does not matter on a unix socket, but there must be one.
	req, err := http.NewRequestWithContext(ctx, method, cmp.Or(c.origin, "http://127.0.0.1")+path, nil)
	if err != nil {
		return 0, nil, err
	}
	if c.origin != "" {
		req.Header.Set("Origin", c.origin) // Caddy may insist on it
	}
	res, err := c.client.Do(req)
	if err != nil {
		return 0, nil, &UnreachableError{Address: c.address, Err: err}
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxResponseBytes))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the response of %s: %s", c.address, innermost(err))
	}
	return res.StatusCode, body, nil
}

// Address is where the admin endpoint is, as people write it.
func (c *Client) Address() string { return c.address }

// Events returns the last events of a connection, the newest first. The error is as of Do.
func (c *Client) Events(ctx context.Context, connection string) (events []Event, err error) {
	_, err = c.Do(ctx, http.MethodGet, ConnectionPath(connection, EventsList), &events)
	return events, err
}

// innermost returns the innermost message of a network error.
func innermost(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it takes too long"
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// decode decodes the JSON of a response, which may be an error.
func (c *Client) decode(status int, body []byte, into any) error {
	if status == http.StatusOK {
		if json.Unmarshal(body, into) != nil {
			return fmt.Errorf("%s does not respond as http_helper does: is it of another version?", c.address)
		}
		return nil
	}
	failed := caddy.APIError{HTTPStatus: status}
	switch err := json.Unmarshal(body, &failed); {
	case err == nil && failed.Message != "":
		return failed
	case status == http.StatusNotFound:
		return fmt.Errorf("the Caddy at %s was built without http_helper", c.address)
	default:
		return fmt.Errorf("the Caddy at %s responded with status %d", c.address, status)
	}
}
