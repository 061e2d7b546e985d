package command

import (
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// caddyfile returns the configuration that the flags describe.
func (o *runOptions) caddyfile(listen sidecarAddress) (string, error) {
	w := new(subdirective.Writer)
	w.Block(func() {
		w.Option("admin", o.admin)
		w.Line("persist_config", "off")
		w.Line("auto_https", "off")
		w.Line("grace_period", "20s") // or a stream that an app keeps open keeps the process running
		w.Block(func() {
			w.Line("protocols", "h1") // without TLS there is no other, and Caddy would warn of each
			w.Line("max_header_size", "64KiB")
		}, "servers")
		if strings.HasPrefix(o.admin, "unix/") {
			// Caddy warns of every unix socket that it is open to all.
			w.Block(func() { w.Line("exclude", "admin") }, "log")
		}
		w.Flag("debug", o.debug)
	})
	w.Block(func() {
		w.Line("bind", listen.bind)
		w.Flag("log", o.accessLog)
		w.Block(func() { o.connection(w) }, "http_helper", o.to)
	}, listen.site)
	return w.Result()
}

// connection writes the connection that the flags describe.
func (o *runOptions) connection(w *subdirective.Writer) {
	w.Option("name", o.name)
	w.Option("token_url", o.tokenURL)
	w.Option("issuer", o.issuer)
	w.Option("auth_method", o.authMethod)
	w.Option("client_id", o.clientID)
	switch {
	case o.secretFile == "-":
		w.Line("client_secret", "{env."+stdinSecretVariable+"}")
	case o.secretEnv != "":
		w.Line("client_secret", "{env."+o.secretEnv+"}")
	default:
		w.Option("client_secret_file", o.secretFile)
	}
	w.Option("client_key_file", o.keyFile)
	w.Option("key_id", o.keyID)
	w.Option("client_certificate", o.certFile, o.certKey)
	w.Option("scopes", strings.Fields(strings.Join(o.scopes, " "))...)
	o.tokenRequestParams(w)
	for _, header := range o.headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok {
			w.Fail(errors.New(`--header takes "Name: value"`))
		}
		w.Line("api_header", strings.TrimSpace(name), strings.TrimSpace(value))
	}
	w.Option("ping", strings.Fields(o.ping)...)
	w.Flag("allow_insecure", o.insecure)
	w.Flag("warm", o.warm)
	w.Option("allow_clients", o.clients...)
	w.Option("allow_hosts", o.hosts...)
	w.Option("caller_token_file", o.callerTokenFile)
}

// tokenRequestParams writes each parameter with all of its values.
func (o *runOptions) tokenRequestParams(w *subdirective.Writer) {
	var names []string
	values := make(map[string][]string)
	for _, param := range o.params {
		name, value, ok := strings.Cut(param, "=")
		if !ok {
			w.Fail(errors.New("--param takes name=value"))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		values[name] = append(values[name], value)
	}
	for _, name := range names {
		w.Line(append([]string{"token_request_param", name}, values[name]...)...)
	}
}

// fileAndLine matches the place of an error in a Caddyfile, and the step of Caddy that it comes from.
var fileAndLine = regexp.MustCompile(`parsing caddyfile tokens for '[a-z_]+': |, at Caddyfile:\d+`)

// adaptFlags adapts the Caddyfile that was made of flags. Its errors name flags, since the user has not
// seen the Caddyfile.
func adaptFlags(text string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, errors.New(asFlags(fileAndLine.ReplaceAllString(err.Error(), "")))
	}
	return config, nil
}

// optionName matches the options of a Caddyfile in an error, but not in a path or a URL.
var optionName = regexp.MustCompile(`(?:^|[ :,])(allow_insecure(?: [a-z]+_url)?|[a-z]+(?:_[a-z]+)+)\b`)

// flagOf is the flag of an option.
var flagOf = map[string]string{ //nolint:gosec // names, not secrets
	"base_url": "--to", "token_url": "--token-url", "auth_method": "--auth-method", "client_id": "--client-id",
	"client_secret": "--client-secret-env", "client_secret_file": "--client-secret-file", "client_key_file": "--client-key-file",
	"key_id": "--key-id", "client_certificate": "--client-certificate-file", "token_request_param": "--param", "api_header": "--header",
	"allow_clients": "--allow-clients", "allow_hosts": "--allow-hosts", "caller_token_file": "--caller-token-file",
	"allow_insecure base_url": "--allow-insecure", "allow_insecure token_url": "--allow-insecure",
}

// asFlags replaces the options in an error by their flags: the user has not seen the options.
func asFlags(message string) string {
	return optionName.ReplaceAllStringFunc(message, func(found string) string {
		option := strings.TrimLeft(found, " :,")
		return found[:len(found)-len(option)] + cmp.Or(flagOf[option], option)
	})
}
