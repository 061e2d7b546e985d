package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// resolver is one pass over the values of a connection. It reads each file once, and runs a helper flow
// that fails once.
type resolver struct {
	ctx  context.Context // of requests
	c    *Connection
	spec *Spec

	values      *placeholder.Values
	files       map[string]fileContent // by path
	parameters  map[string]string      // by key
	failedFlows map[*Flow]error

	credentials func() (oauth.Credentials, error) // readCredentials, called once

	issuer string // the issuer that the token endpoint was found by; "": it is not resolved, or there is none

	secrets []string // the secrets among the values resolved so far
}

// fileContent is the result of reading a file.
type fileContent struct {
	content string
	err     error
}

// resolver returns a new pass. Its requests end with ctx.
func (c *Connection) resolver(ctx context.Context) *resolver {
	r := &resolver{
		ctx: ctx, c: c, spec: &c.Spec,
		files: make(map[string]fileContent), parameters: make(map[string]string), failedFlows: make(map[*Flow]error),
	}
	r.values = &placeholder.Values{Lookup: r.lookup, ReadFile: r.readFile}
	r.credentials = sync.OnceValues(r.readCredentials)
	return r
}

// offlineResolver returns a new pass that makes no requests.
func (c *Connection) offlineResolver() *resolver {
	return c.resolver(expiredContext)
}

// readNothing has a pass leave the environment and files unread, so that nothing in them is shown.
func (r *resolver) readNothing() { r.values.Unread = true }

// goOffline ends the requests of a pass. What it resolves afterwards is for the fingerprint and texts.
func (r *resolver) goOffline() { r.ctx = expiredContext }

// expiredContext makes requests fail before they are sent. So a helper flow that makes one has a result
// only if its last one is recent.
var expiredContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// lookup returns the value of a `{param.*}` or `{config.*}`.
func (r *resolver) lookup(kind, key string) (string, error) {
	if kind == placeholder.Config {
		return r.configValue(key)
	}
	return r.parameter(key)
}

// readFile reads a file. Tests replace it to count.
var readFile = placeholder.ReadFile

// readFile reads a file, once in a pass.
func (r *resolver) readFile(path string) (string, error) {
	if r.values.Unread {
		return "", errors.New("no file is read now")
	}
	file, ok := r.files[path]
	if !ok {
		file.content, file.err = readFile(path)
		r.files[path] = file
	}
	return file.content, file.err
}

// fileOf reads the file at the path in a template.
func (r *resolver) fileOf(path *placeholder.Template) (string, error) {
	name, err := path.Expand(r.values)
	if err != nil {
		return "", err
	}
	return r.readFile(name)
}

// parameter returns the value of a parameter.
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
		return "", fmt.Errorf("parameter %s: the value is none of its options; there are %s", key, strings.Join(param.Options, ", "))
	}
	if param.Password {
		r.addSecret(value)
	}
	r.parameters[key] = value
	return value, nil
}

// allParameters returns the values of all parameters by key.
func (r *resolver) allParameters() (map[string]string, error) {
	errs := make([]error, len(r.spec.Parameters))
	for i, param := range r.spec.Parameters {
		_, errs[i] = r.parameter(param.Key)
	}
	return r.parameters, errors.Join(errs...)
}

// configValue returns a config value, which is computed by its template or helper flow.
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
		r.addSecret(value)
	}
	return value, nil
}

// expand expands the template of an option, which may be nil.
func (r *resolver) expand(option string, t *placeholder.Template) (string, error) {
	if t == nil {
		return "", nil
	}
	value, err := t.Expand(r.values)
	return value, withOption(option, err)
}

// url expands and checks the template of a URL option, which may be nil.
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

// fields expands header fields or query parameters.
func (r *resolver) fields(option string, specs []Field, header bool) ([]forward.Field, error) {
	fields := make([]forward.Field, len(specs))
	errs := make([]error, len(specs))
	for i, s := range specs {
		value, err := r.expand(option+" "+s.Name, &s.Value)
		if err == nil && header && !httpguts.ValidHeaderFieldValue(value) {
			err = fmt.Errorf("%s %s: the value is not valid in a header", option, s.Name)
		}
		r.noteSecret(&s.Value, value)
		if s.Name == "Authorization" {
			r.noteSecret(&s.Value, afterScheme(value))
		}
		fields[i], errs[i] = forward.Field{Name: s.Name, Value: value}, err
	}
	return fields, errors.Join(errs...)
}

// withOption adds the option to an error, which may be nil.
func withOption(option string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", option, err)
}

// valueOrFileOption returns the name of the option that gives a value, or the file with the value.
func valueOrFileOption(option string, file *placeholder.Template) string {
	if file != nil {
		return option + "_file"
	}
	return option
}
