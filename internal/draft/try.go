package draft

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// Trial is the result of trying a draft: there is a token.
type Trial struct {
	Connection adminapi.Connection // with the times of the token, and which scopes were granted
	Ping       *adminapi.Ping      // nil: the connector has none
}

// Working reports whether nothing speaks against the connection: the ping, if there is one, worked. Scopes
// may be missing.
func (t Trial) Working() bool { return t.Ping == nil || t.Ping.Working }

// Lifetime returns how long the token lives, in words; "" if there is none.
func (t Trial) Lifetime() string {
	if t.Connection.Token == nil {
		return ""
	}
	seconds := int(t.Connection.Token.Expires.Sub(t.Connection.Token.Obtained).Round(time.Second).Seconds())
	var parts []string
	for _, unit := range []struct {
		name    string
		seconds int
	}{{"hour", 3600}, {"minute", 60}, {"second", 1}} {
		n := seconds / unit.seconds
		seconds %= unit.seconds
		if n > 1 {
			unit.name += "s"
		}
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+unit.name)
		}
	}
	return cmp.Or(strings.Join(parts, " "), "less than a second")
}

// trying is taken by the one draft that is tried: there is one running config in a process.
var trying = make(chan struct{}, 1)

// Try makes one token request in this process, in a Caddy that does nothing else, and then the connector's
// ping. The draft must be complete, and there is only one trial at a time. The error is an *oauth.Error when
// there is no token, or ctx's; any other one says why trying was not possible. Nothing shows what was read from
// variables and files that were typed.
func (d *Draft) Try(ctx context.Context) (Trial, error) {
	read := d.readValues()
	trial, err := d.try(ctx)
	read.redactTrial(&trial)
	return trial, read.redactError(err)
}

func (d *Draft) try(ctx context.Context) (Trial, error) {
	select {
	case trying <- struct{}{}:
		defer func() { <-trying }()
	case <-ctx.Done():
		return Trial{}, ctx.Err()
	}
	connection := d.connection(func(e entry) string {
		if e.secret != nil {
			return literal.Replace(e.Value)
		}
		return e.written
	})
	err := caddy.Load(caddyconfig.JSON(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": json.RawMessage(`{"logs": {"default": {"level": "FATAL"}}}`),
		"apps": map[string]any{"http_helper": Config{
			Connectors:  map[string]json.RawMessage{d.Form.Name: d.config.Connectors[d.Form.Name]},
			Connections: map[string]json.RawMessage{d.Name: connection},
		}},
	}, nil), true)
	if err != nil {
		return Trial{}, d.reasons(err)
	}
	defer func() { _ = caddy.Stop() }()
	var trial Trial
	if trial.Connection, err = d.Refresh(ctx, d.Name); err != nil || d.Ping == nil {
		return trial, err
	}
	ping := d.Ping(ctx, d.Name)
	trial.Ping = &ping
	return trial, ctx.Err()
}

// reasons returns the reasons in an error of loading the connection, one on a line: without its name, and the
// modules of Caddy that the error passed through. Whatever it wraps, nothing was requested.
func (d *Draft) reasons(err error) error {
	head := "connection " + d.Name + ": "
	_, reasons, found := strings.Cut(err.Error(), head)
	if !found {
		return errors.New(err.Error())
	}
	lines := strings.Split(strings.ReplaceAll(reasons, "\n"+head, "\n"), "\n")
	return errors.New(strings.Join(slices.Compact(lines), "\n"))
}

// literal escapes the braces of a secret, which is no text with placeholders.
var literal = strings.NewReplacer("{", `\{`, "}", `\}`)
