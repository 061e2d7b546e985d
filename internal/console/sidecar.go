package console

import (
	"context"
	"net/http"
	"regexp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// sidecar is the running one. Its methods are all that the console asks of the admin endpoint.
type sidecar struct {
	find func() (*adminapi.Client, error)
}

// grammar is that of the names of connections and connectors.
var grammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// call makes a request to the admin endpoint.
func (s sidecar) call(ctx context.Context, method, path string, into any) error {
	admin, err := s.find()
	if err != nil {
		return err
	}
	_, err = admin.Do(ctx, method, path, into)
	return err
}

func (s sidecar) connections(ctx context.Context) (list []adminapi.Connection, err error) {
	err = s.call(ctx, http.MethodGet, adminapi.ConnectionsPath, &list)
	return list, err
}

func (s sidecar) connection(ctx context.Context, name string) (one adminapi.Connection, err error) {
	err = s.call(ctx, http.MethodGet, adminapi.ConnectionPath(name, ""), &one)
	return one, err
}

func (s sidecar) refresh(ctx context.Context, name string) (one adminapi.Connection, err error) {
	err = s.call(ctx, http.MethodPost, adminapi.ConnectionPath(name, adminapi.RefreshAction), &one)
	return one, err
}

func (s sidecar) ping(ctx context.Context, name string) (result adminapi.Ping, err error) {
	err = s.call(ctx, http.MethodPost, adminapi.ConnectionPath(name, adminapi.PingAction), &result)
	return result, err
}

func (s sidecar) connectors(ctx context.Context) (list []adminapi.Connector, err error) {
	err = s.call(ctx, http.MethodGet, adminapi.ConnectorsPath, &list)
	return list, err
}

// config returns the configuration with whole connectors: what a token request will be follows from those.
func (s sidecar) config(ctx context.Context) (*draft.Config, error) {
	admin, err := s.find()
	if err != nil {
		return nil, err
	}
	return draft.RunningConfig(ctx, admin)
}

// events returns the last events of a connection, the newest first. The list is nil when they cannot be had:
// the page has more to show.
func (s sidecar) events(ctx context.Context, name string) []adminapi.Event {
	list := []adminapi.Event{}
	if s.call(ctx, http.MethodGet, adminapi.ConnectionPath(name, adminapi.EventsList), &list) != nil {
		return nil
	}
	return list
}

// values returns what a connection was given. There is nothing when that cannot be had.
func (s sidecar) values(ctx context.Context, name string) (values adminapi.Values) {
	if s.call(ctx, http.MethodGet, adminapi.ConnectionPath(name, adminapi.ValuesPart), &values) != nil {
		return adminapi.Values{}
	}
	return values
}

// requestCounts returns how many requests there were by connection. It is empty when they cannot be had.
func (s sidecar) requestCounts(ctx context.Context) map[string]adminapi.RequestCounts {
	admin, err := s.find()
	if err != nil {
		return nil
	}
	counts, err := admin.RequestCounts(ctx)
	if err != nil {
		return nil
	}
	return counts
}
