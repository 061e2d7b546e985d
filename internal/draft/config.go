package draft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	"go.uber.org/zap"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// Config is the part of Caddy's configuration that drafts are about, by name.
type Config struct {
	Connectors  map[string]json.RawMessage `json:"connectors"`
	Connections map[string]json.RawMessage `json:"connections"`

	inline map[string]bool // names of connections that handlers define in place
}

// names returns the names that a new connection cannot have.
func (c *Config) names() map[string]bool {
	names := maps.Clone(c.inline)
	if names == nil {
		names = make(map[string]bool)
	}
	for name := range c.Connections {
		names[name] = true
	}
	return names
}

// addInline adds the names of the connections that handlers in a part of Caddy's configuration define in place.
func (c *Config) addInline(part any) {
	switch part := part.(type) {
	case []any:
		for _, child := range part {
			c.addInline(child)
		}
	case map[string]any:
		if name, ok := part["connection"].(string); ok && part["handler"] == "http_helper" && part["define"] != nil {
			if c.inline == nil {
				c.inline = make(map[string]bool)
			}
			c.inline[name] = true
		}
		for _, child := range part {
			c.addInline(child)
		}
	}
}

// caddyConfig is Caddy's configuration, of which parts may not be there.
type caddyConfig struct {
	Apps struct {
		HTTPHelper Config `json:"http_helper"`
		HTTP       any    `json:"http"`
	} `json:"apps"`
}

// forDrafts returns the part that drafts are about.
func (c *caddyConfig) forDrafts() *Config {
	c.Apps.HTTPHelper.addInline(c.Apps.HTTP)
	return &c.Apps.HTTPHelper
}

// ReadConfig reads a configuration file. Without an adapter, that follows from the file's name.
func ReadConfig(file, adapter string) (*Config, error) {
	text, err := Quietly(func() ([]byte, error) {
		text, _, _, err := caddycmd.LoadConfig(file, adapter)
		return text, err
	})
	if err != nil {
		return nil, err
	}
	var config caddyConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	return config.forDrafts(), nil
}

// RunningConfig gets the configuration of a running Caddy: whole connectors, not only their forms, because
// what the token request will be follows from those.
func RunningConfig(ctx context.Context, admin *adminapi.Client) (*Config, error) {
	var config caddyConfig
	_, err := admin.Do(ctx, http.MethodGet, "/config/", &config)
	return config.forDrafts(), err
}

// quiet is held while Caddy's log is put aside, which is one for the process.
var quiet sync.Mutex

// Quietly does something without the lines of Caddy's log about it, which would stand between those of
// a command.
func Quietly[T any](do func() (T, error)) (T, error) {
	quiet.Lock()
	defer quiet.Unlock()
	_, log, buffer := caddy.BufferedLog()
	defer func() {
		buffer.FlushTo(zap.NewNop())
		caddy.UnbufferDefaultLogger(log)
	}()
	return do()
}

// Configuration is what the package that has the configuration's types does for drafts.
type Configuration struct {
	// Find finds a connector in a config. What it loads lives as long as ctx. The error is a
	// caddy.APIError with status 404 when there is none of this name.
	Find func(ctx caddy.Context, config *Config, name string) (*Connector, error)

	// Check checks a connector as loading a config does, and returns all errors joined, each of which
	// begins with its option. Of a connector with errors, only the form can be used; nil if it cannot be
	// read at all.
	Check func(ctx caddy.Context, name string, connector json.RawMessage) (*Connector, error)
}

// Forms returns the forms of all connectors of a config, by name.
func (c Configuration) Forms(ctx context.Context, config *Config) ([]adminapi.Connector, error) {
	names := slices.Sorted(maps.Keys(config.Connectors))
	forms := make([]adminapi.Connector, 0, len(names))
	for _, name := range names {
		form, err := c.Form(ctx, config, name)
		if err != nil {
			return nil, err
		}
		forms = append(forms, form)
	}
	return forms, nil
}

// Form returns the form of a connector of a config, with the names of the connections that use it.
func (c Configuration) Form(ctx context.Context, config *Config, name string) (adminapi.Connector, error) {
	caddyCtx, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	defer cancel()
	connector, err := c.Find(caddyCtx, config, name)
	if err != nil {
		return adminapi.Connector{}, err
	}
	connector.Form.Connections = config.connectionsOf(name)
	return connector.Form, nil
}

func (c *Config) connectionsOf(connector string) []string {
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(c.Connections)) {
		var connection struct {
			Connector string `json:"connector"`
		}
		if json.Unmarshal(c.Connections[name], &connection) == nil && connection.Connector == connector {
			names = append(names, name)
		}
	}
	return names
}

// errTaken returns the error about a name that the config has already.
func errTaken(what string) error { return fmt.Errorf("there is a %s of this name already", what) }

var errControl = errors.New("there is a control character in it")
