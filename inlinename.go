package httphelper

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// stateKey is where a Helper's State keeps the names of the connections there are.
const stateKey = "http_helper.names"

// inlineName names the connection that a directive with a base URL defines.
func (d *directive) inlineName() (string, error) {
	taken := d.takenNames()
	name, err := d.explicitName()
	if err != nil {
		return "", err
	}
	if name == "" {
		name = numbered(hostName(d.target), taken)
	} else if taken[name] {
		return "", d.Errf("http_helper: name: there is a connection %s already", name)
	}
	taken[name] = true
	return name, nil
}

func (d *directive) explicitName() (string, error) {
	for _, segment := range d.Block {
		if segment.Directive() != "name" {
			continue
		}
		s := subdirective.Parse("http_helper", segment)
		name, err := s.OneArg()
		if err == nil {
			if invalid := validName(name); invalid != nil {
				err = s.Wrap(invalid)
			}
		}
		return name, err
	}
	return "", nil
}

// takenNames are the names of the connections known so far, shared by all directives.
func (d *directive) takenNames() map[string]bool {
	taken, ok := d.helper.State[stateKey].(map[string]bool)
	if ok {
		return taken
	}
	taken = make(map[string]bool)
	for name := range d.app.Connections {
		taken[name] = true
	}
	// Named routes are parsed before all sites, with a State of their own.
	routes, _ := d.helper.Option("named_routes").(map[string]*caddyhttp.Route)
	for _, route := range routes {
		for _, raw := range route.HandlersRaw {
			collectNames(raw, taken)
		}
	}
	d.helper.State[stateKey] = taken
	return taken
}

// collectNames finds the connections that are defined anywhere in a handler.
func collectNames(raw json.RawMessage, names map[string]bool) {
	var config any
	if json.Unmarshal(raw, &config) == nil {
		walkNames(config, names)
	}
}

func walkNames(config any, names map[string]bool) {
	switch config := config.(type) {
	case []any:
		for _, child := range config {
			walkNames(child, names)
		}
	case map[string]any:
		if name, ok := config["connection"].(string); ok && config["handler"] == "http_helper" {
			names[name] = true
		}
		for _, child := range config {
			walkNames(child, names)
		}
	}
}

// notInName is what stands in a host, possibly with placeholders, but cannot stand in a name.
var notInName = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// authority is the part of a URL between // and the path, possibly with placeholders.
var authority = regexp.MustCompile(`^(?:\{[^}]*\}|[^/?#\\])*`)

// port is at the end of an authority.
var port = regexp.MustCompile(`:(?:[0-9]*|\{[^}]*\})$`)

// hostName is a name made of a URL's host.
func hostName(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	host := port.ReplaceAllString(authority.FindString(rest), "")
	host = host[strings.LastIndex(host, "@")+1:]
	name := strings.Trim(notInName.ReplaceAllString(host, "-"), "-._")
	if name == "" {
		return "connection"
	}
	return name
}

// numbered is name, or name with a number when that is taken.
func numbered(name string, taken map[string]bool) string {
	unique := name
	for i := 2; taken[unique]; i++ {
		unique = name + "-" + strconv.Itoa(i)
	}
	return unique
}
