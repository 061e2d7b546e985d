package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// resolver is one pass over the values of a connection: each file is read once, and each flow asked
// once.
type resolver struct {
	ctx  context.Context
	c    *Connection
	spec *Spec

	values      *placeholder.Values
	files       map[string]fileContent
	parameters  map[string]string
	failedFlows map[*Flow]error

	credentialsRead bool
	credentialsErr  error
	authMaterial    oauth.Credentials

	secrets []string // that were resolved so far
}

type fileContent struct {
	content string
	err     error
}

func (c *Connection) resolver(ctx context.Context) *resolver {
	r := &resolver{
		ctx: ctx, c: c, spec: c.Spec,
		files: make(map[string]fileContent), parameters: make(map[string]string), failedFlows: make(map[*Flow]error),
	}
	r.values = &placeholder.Values{Lookup: r.lookup, ReadFile: r.readFile}
	return r
}

// offlineResolver resolves what needs no request.
func (c *Connection) offlineResolver() *resolver {
	return c.resolver(expiredContext)
}

// goOffline ends the requests of the pass: what it resolves from now on is no part of what was requested.
func (r *resolver) goOffline() { r.ctx = expiredContext }

// expiredContext makes every request fail before it is sent: a helper flow that needs one has a value
// only if its last result is recent.
var expiredContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// lookup finds the value of a `{param.*}` or `{config.*}`.
func (r *resolver) lookup(kind, key string) (string, error) {
	if kind == placeholder.Config {
		return r.configValue(key)
	}
	return r.parameter(key)
}

// readFile reads a file once in a pass.
func (r *resolver) readFile(path string) (string, error) {
	file, ok := r.files[path]
	if !ok {
		file.content, file.err = placeholder.ReadFile(path)
		r.files[path] = file
	}
	return file.content, file.err
}

// fileOf reads the file whose path a template gives.
func (r *resolver) fileOf(path *placeholder.Template) (string, error) {
	name, err := path.Expand(r.values)
	if err != nil {
		return "", err
	}
	return r.readFile(name)
}

func (r *resolver) parameter(key string) (string, error) {
	if value, ok := r.parameters[key]; ok {
		return value, nil
	}
	param, configured := r.spec.parameter(key), r.spec.ParameterValues[key]
	value, err := configured.Value.Expand(r.values)
	if configured.File != nil {
		value, err = r.fileOf(configured.File)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("parameter %s: %w", key, err)
	case value == "":
		return "", fmt.Errorf("parameter %s is empty", key)
	case param.Options != nil && !slices.Contains(param.Options, value):
		return "", fmt.Errorf("parameter %s: its value is none of its options (%s)", key, strings.Join(param.Options, ", "))
	}
	if param.Password {
		r.secrets = append(r.secrets, value)
	}
	r.parameters[key] = value
	return value, nil
}

// allParameters are the values of all parameters, by key.
func (r *resolver) allParameters() (map[string]string, error) {
	for _, param := range r.spec.Parameters {
		if _, err := r.parameter(param.Key); err != nil {
			return nil, err
		}
	}
	return r.parameters, nil
}

func (r *resolver) configValue(key string) (string, error) {
	config := r.spec.configValue(key)
	var value string
	var err error
	if config.Flow != nil {
		value, err = r.flow(config.Flow)
	} else {
		value, err = config.Value.Expand(r.values)
	}
	if err != nil {
		return "", fmt.Errorf("config_value %s: %w", key, err)
	}
	if value == "" {
		return "", fmt.Errorf("config_value %s is empty", key)
	}
	if config.Password {
		r.secrets = append(r.secrets, value)
	}
	return value, nil
}

// expand expands a template that may be absent.
func (r *resolver) expand(option string, t *placeholder.Template) (string, error) {
	if t == nil {
		return "", nil
	}
	value, err := t.Expand(r.values)
	return value, withOption(option, err)
}

func (r *resolver) url(option string, t *placeholder.Template) (*url.URL, error) {
	if t == nil {
		return nil, nil
	}
	u, err := r.spec.InsecureURLs.Expand(option, *t, r.values)
	if err == nil && option == "token_url" {
		err = r.spec.Method.CheckEndpoint(u.Scheme)
	}
	if err != nil {
		err = r.unusable(*t, err)
	}
	return u, err
}

func (r *resolver) fields(option string, specs []Field, header bool) ([]forward.Field, error) {
	fields := make([]forward.Field, len(specs))
	errs := make([]error, len(specs))
	for i, s := range specs {
		value, err := r.expand(option+" "+s.Name, &s.Value)
		if err == nil && header && !httpguts.ValidHeaderFieldValue(value) {
			err = fmt.Errorf("%s %s: the value may not stand in a header", option, s.Name)
		}
		r.noteSecret(&s.Value, value)
		fields[i], errs[i] = forward.Field{Name: s.Name, Value: value}, err
	}
	return fields, errors.Join(errs...)
}

// noteSecret takes a value that is kept out of the configuration for a secret, unless it is too short
// for one.
func (r *resolver) noteSecret(t *placeholder.Template, value string) {
	if len(t.Keys(placeholder.Env))+len(t.Keys(placeholder.File)) > 0 && len(value) >= redact.MinLength {
		r.secrets = append(r.secrets, value)
	}
}

// connectionSecrets resolves the credentials, parameters and config values of the connection, so that
// r.secrets has all that can be known offline.
func (r *resolver) connectionSecrets() []string {
	_, _ = r.credentials()
	for _, p := range r.spec.Parameters {
		_, _ = r.parameter(p.Key)
	}
	for _, v := range r.spec.ConfigValues {
		_, _ = r.configValue(v.Key)
	}
	return r.secrets
}

// knownSecrets are all that must not be seen in what a server says: the connection's secrets, its
// token, and what may be a key in a header or query.
func (r *resolver) knownSecrets() []string {
	secrets := slices.Clone(r.connectionSecrets())
	for _, value := range r.keysSent() {
		if len(value) >= redact.MinLength {
			secrets = append(secrets, value)
		}
	}
	if token := r.c.CurrentToken(); token != nil {
		secrets = append(secrets, token.Value)
	}
	return secrets
}

// KnownSecrets are those of a pass of their own.
func (c *Connection) KnownSecrets() []string { return c.offlineResolver().knownSecrets() }

// keysSent are the values that requests carry where API keys are put.
func (r *resolver) keysSent() []string {
	var values []string
	for _, fields := range [][]Field{r.spec.TokenHeaders, r.spec.APIHeaders, r.spec.APIQuery} {
		for _, field := range fields {
			if value, err := field.Value.Expand(r.values); err == nil {
				values = append(values, value)
			}
		}
	}
	if u, err := r.url("token_url", r.spec.TokenURL); err == nil && u != nil {
		for _, query := range u.Query() {
			values = append(values, query...)
		}
	}
	return values
}
