package flows

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/jsonpointer"
	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

const (
	defaultTimeout = 10 * time.Second

	// deadlineMargin is how long before token_timeout a flow's request times out at most, so that the
	// error names the flow.
	deadlineMargin = 50 * time.Millisecond

	contentTypeJSON = "application/json"
	contentTypeForm = "application/x-www-form-urlencoded"
)

// Request is a helper flow that makes one HTTP request and takes its result from the JSON response. The
// request uses the transport of token requests (`token_transport`) and follows no redirects, but never
// carries the connection's own authentication. The response must have a status 2xx and at most 1 MiB.
//
// `{param.<key>}` is replaced in the URL, in header values and in the body. A parameter value is escaped
// for its place: in a URL as in `token_url`, and in a body by its `Content-Type`, as JSON or as a form.
type Request struct {
	// The method, in capital letters. Default: `GET`, or `POST` if there is a body.
	Method string `json:"method,omitempty"`

	// The URL: https, or http on loopback, without a fragment and without a user name. Required.
	URL string `json:"url,omitempty"`

	// The header fields. Default: `Accept: application/json`, and if there is a body
	// `Content-Type: application/json`.
	Headers []Header `json:"headers,omitempty"`

	// What is sent to the URL. `{param.<key>}` in it is escaped as JSON or as a form, by `Content-Type`.
	// Default: no body.
	Body string `json:"body,omitempty"`

	// The JSON pointer (RFC 6901) to the result in the response: a string, a number or a boolean.
	// Default: the whole response.
	Pointer string `json:"pointer,omitempty"`

	// How long the request may take, at most `24h`. Default: `10s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	url, body placeholder.Template
	headers   []placeholder.Template // in the order of Headers
}

// Header is a header field of a helper flow's request.
type Header struct {
	// What the field is called, such as `X-Api-Key`. Required.
	Name string `json:"name"`

	// What the field is set to; `{param.<key>}` in it is replaced. Default: empty.
	Value string `json:"value"`
}

// CaddyModule returns the Caddy module information.
func (Request) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http_helper.flows.request",
		New: func() caddy.Module { return new(Request) },
	}
}

// Provision parses the flow's templates and checks everything that does not depend on a connection.
func (f *Request) Provision(_ caddy.Context) error {
	f.setDefaults()
	errs := []error{f.parse()}
	if strings.Trim(f.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || f.Method == http.MethodConnect || f.Method == http.MethodTrace {
		errs = append(errs, errors.New("the method must be one in capital letters, other than CONNECT and TRACE"))
	}
	if err := jsonpointer.Check(f.Pointer); err != nil {
		errs = append(errs, fmt.Errorf("pointer: %w", err))
	}
	errs = append(errs, checkTimeout(time.Duration(f.Timeout)))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.tryTemplates()
}

// maxTimeout is the longest timeout of a flow.
const maxTimeout = 24 * time.Hour

func checkTimeout(timeout time.Duration) error {
	switch {
	case timeout < 0:
		return errors.New("timeout must not be negative")
	case timeout > maxTimeout:
		return errors.New("timeout must be at most 24h")
	default:
		return nil
	}
}

func (f *Request) setDefaults() {
	if f.Method == "" {
		f.Method = http.MethodGet
		if f.Body != "" {
			f.Method = http.MethodPost
		}
	}
	f.Timeout = cmp.Or(f.Timeout, caddy.Duration(defaultTimeout))
	f.defaultHeader("Accept")
	if f.Body != "" {
		f.defaultHeader("Content-Type")
	}
}

func (f *Request) defaultHeader(name string) {
	if f.headerIndex(name) < 0 {
		f.Headers = append(f.Headers, Header{Name: name, Value: contentTypeJSON})
	}
}

// headerIndex returns the index of a header field, or a negative number.
func (f *Request) headerIndex(name string) int {
	return slices.IndexFunc(f.Headers, func(h Header) bool { return strings.EqualFold(h.Name, name) })
}

func (f *Request) parse() error {
	var errs []error
	parse := func(option, value string) placeholder.Template {
		t, err := placeholder.ParseConnectors(value, placeholder.Param)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", option, err))
		}
		return t
	}
	f.url = parse("url", f.URL)
	f.body = parse("body", f.Body)
	f.headers = make([]placeholder.Template, len(f.Headers))
	for i, h := range f.Headers {
		if err := checkHeader(h.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		if f.headerIndex(h.Name) != i {
			errs = append(errs, fmt.Errorf("header %s is given twice", h.Name))
		}
		f.headers[i] = parse("header "+h.Name, h.Value)
	}
	return errors.Join(errs...)
}

func checkHeader(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return errors.New("header: a name must consist of the characters of an HTTP field name")
	}
	if httpguard.ReservedField(http.CanonicalHeaderKey(name)) {
		return fmt.Errorf("header %s cannot be set", name)
	}
	return nil
}

// tryTemplates finds unset variables, unreadable files and invalid URLs before the flow is used.
func (f *Request) tryTemplates() error {
	_, errURL := f.expandURL(anyParameter)
	_, errHeader := f.expandHeader(anyParameter)
	_, errBody := f.expandBody(anyParameter)
	return errors.Join(errURL, errHeader, errBody)
}

// Check reports at load why the flow's URL must not be called. A host that is a parameter may turn out to
// be loopback, so that is checked again when the flow runs.
func (f *Request) Check(allowInsecure bool) error {
	u, err := f.expandURL(&placeholder.Values{Lookup: func(_, _ string) (string, error) { return "localhost", nil }})
	if err != nil {
		return err
	}
	return checkScheme(u, allowInsecure)
}

func checkScheme(u *url.URL, allowInsecure bool) error {
	if httpguard.CheckScheme(u, allowInsecure, "url", "token_url") != nil {
		return errors.New("the URL is http and its host is not loopback: use https, or permit it with allow_insecure token_url")
	}
	return nil
}

// Parameters returns the keys of the parameters that the flow uses.
func (f *Request) Parameters() []string {
	keys := append(f.url.Keys(placeholder.Param), f.body.Keys(placeholder.Param)...)
	for _, h := range f.headers {
		keys = append(keys, h.Keys(placeholder.Param)...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Run makes the request and returns the result.
func (f *Request) Run(ctx context.Context, in Input) (string, error) {
	limited, cancel := context.WithTimeout(ctx, f.timeLimit(ctx))
	defer cancel()
	req, err := f.newRequest(limited, in)
	if err != nil {
		return "", oauth.ConfigurationErrorf("%v", err)
	}
	body, err := f.send(req, in.Client)
	if err != nil {
		return "", f.failure(ctx, limited, err)
	}
	value, err := f.result(body)
	if err != nil {
		return "", oauth.ConfigurationErrorf("%v", err)
	}
	return value, nil
}

// timeLimit returns the flow's timeout, or less so that it ends a moment before the deadline of ctx.
func (f *Request) timeLimit(ctx context.Context) time.Duration {
	limit := time.Duration(f.Timeout)
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		limit = min(limit, left-min(deadlineMargin, left/10))
	}
	return limit
}

func (f *Request) newRequest(ctx context.Context, in Input) (*http.Request, error) {
	parameters := &placeholder.Values{Lookup: in.lookup}
	u, err := f.expandURL(parameters)
	if err != nil {
		return nil, err
	}
	if err := checkScheme(u, in.AllowInsecure); err != nil {
		return nil, err
	}
	header, err := f.expandHeader(parameters)
	if err != nil {
		return nil, err
	}
	body, err := f.expandBody(parameters)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, f.Method, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, httpguard.ErrURLSyntax
	}
	req.Header = header
	return req, nil
}

func (f *Request) expandURL(values *placeholder.Values) (*url.URL, error) {
	u, err := f.url.ExpandURL(values)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return u, nil
}

func (f *Request) expandHeader(values *placeholder.Values) (http.Header, error) {
	header := make(http.Header, len(f.headers))
	for i, t := range f.headers {
		name := f.Headers[i].Name
		value, err := t.Expand(values)
		if err == nil && !httpguts.ValidHeaderFieldValue(value) {
			err = errors.New("the value contains a control character")
		}
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		header.Set(name, value)
	}
	return header, nil
}

// expandBody escapes parameter values, so that they cannot change the body beyond their place.
func (f *Request) expandBody(values *placeholder.Values) (string, error) {
	body, err := f.body.ExpandLines(&placeholder.Values{Lookup: func(kind, key string) (string, error) {
		value, err := values.Lookup(kind, key)
		return f.escape(value), err
	}})
	if err != nil {
		return "", fmt.Errorf("body: %w", err)
	}
	return body, nil
}

// escape escapes a parameter value as the body's Content-Type wants it.
func (f *Request) escape(value string) string {
	i := f.headerIndex("Content-Type")
	if i < 0 {
		return value
	}
	mediaType, _, _ := mime.ParseMediaType(f.Headers[i].Value)
	switch {
	case mediaType == contentTypeForm:
		return url.QueryEscape(value)
	case mediaType == contentTypeJSON, strings.HasSuffix(mediaType, "+json"):
		return escapeJSON(value)
	default:
		return value
	}
}

// escapeJSON escapes a value inside a JSON string.
func escapeJSON(value string) string {
	quoted, _ := json.Marshal(value) // every string has a JSON form
	return string(quoted[1 : len(quoted)-1])
}

// send sends the request and returns the body of a response with a status 2xx. Errors never quote the
// response.
func (f *Request) send(req *http.Request, client *http.Client) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, statusError(resp)
	}
	body, err := oauth.ReadBody(resp)
	if errors.Is(err, oauth.ErrUnreadable) {
		return nil, oauth.ConfigurationErrorf("the response is %v", err)
	}
	return body, err
}

// failure returns the error for a request without a response: an *oauth.Error, or ctx's.
func (f *Request) failure(ctx, limited context.Context, err error) error {
	if failed, ok := errors.AsType[*oauth.Error](err); ok {
		return failed
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case neterror.NotSent(err) != nil:
		return oauth.ConfigurationErrorf("its request was not sent: %v", neterror.NotSent(err))
	case neterror.DeadlinePassed(limited):
		failed := oauth.OutageErrorf("no response within %s", f.timeoutName(ctx))
		failed.Status = http.StatusGatewayTimeout
		return failed
	}
	failed := oauth.OutageErrorf("its server cannot be reached: %s", neterror.Describe(err))
	failed.Transient = true
	return failed
}

// timeoutName names the timeout that ended the request.
func (f *Request) timeoutName(ctx context.Context) string {
	if outer, ok := ctx.Deadline(); ok && time.Until(outer) <= deadlineMargin {
		return "token_timeout"
	}
	return "its timeout of " + time.Duration(f.Timeout).String()
}

// statusError returns what a response means that is no success. Its body counts only as far as it has an
// OAuth error code.
func statusError(resp *http.Response) *oauth.Error {
	body, _ := oauth.ReadBody(resp)
	code, _ := jsonpointer.Find(oauth.ParseJSON(body), "/error")
	text, _ := code.(string)
	return oauth.FailedResponse(resp, text, "its server", "check the flow's URL, headers and body, and the parameters in them")
}

// result returns the flow's result from the body of a response.
func (f *Request) result(body []byte) (string, error) {
	document := oauth.ParseJSON(body)
	if document == nil {
		return "", errors.New("the response is not JSON")
	}
	value, found := jsonpointer.Find(document, f.Pointer)
	if !found {
		return "", fmt.Errorf("the response has nothing at pointer %q", f.Pointer)
	}
	switch value := value.(type) {
	case string:
		return checkResult(value)
	case json.Number, bool:
		return fmt.Sprint(value), nil
	default:
		return "", fmt.Errorf("what the response has at pointer %q is neither a string nor a number nor a boolean", f.Pointer)
	}
}

// UnmarshalCaddyfile sets up the flow from Caddyfile tokens. Syntax:
//
//	request [<method>] <url> {
//	    header  <name> <value>
//	    body    <text>
//	    pointer <json pointer>
//	    timeout <duration>
//	}
func (f *Request) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // skip the type
	switch args := d.RemainingArgs(); len(args) {
	case 1:
		f.URL = args[0]
	case 2:
		f.Method, f.URL = args[0], args[1]
	default:
		return d.Err("a request flow takes a method, which may be left out, and a URL")
	}
	for d.NextBlock(0) {
		if err := f.unmarshalOption(d, d.Val(), d.RemainingArgs()); err != nil {
			return err
		}
	}
	return nil
}

// unmarshalOption reads one option. Its errors never quote an argument: it may be a secret.
func (f *Request) unmarshalOption(d *caddyfile.Dispenser, option string, args []string) error {
	texts := map[string]*string{"body": &f.Body, "pointer": &f.Pointer}
	text := texts[option]
	switch {
	case option == "header" && len(args) != 2:
		return d.Err("header takes a name and a value")
	case option == "header" && f.headerIndex(args[0]) >= 0:
		return d.Err("header: a name is given twice")
	case option == "header":
		f.Headers = append(f.Headers, Header{Name: args[0], Value: args[1]})
	case text == nil && option != "timeout":
		return d.Err("unknown option of a request flow: it has header, body, pointer and timeout")
	case len(args) != 1:
		return d.Errf("%s takes exactly one argument", option)
	case text != nil && *text != "", text == nil && f.Timeout != 0:
		return d.Errf("%s is given twice", option)
	case text != nil:
		*text = args[0]
	default:
		timeout, err := caddy.ParseDuration(args[0])
		if err != nil || timeout <= 0 {
			return d.Err("timeout must be a duration above zero, such as 5s")
		}
		if err := checkTimeout(timeout); err != nil {
			return d.WrapErr(err)
		}
		f.Timeout = caddy.Duration(timeout)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Request)(nil)
	_ caddyfile.Unmarshaler = (*Request)(nil)
	_ Flow                  = (*Request)(nil)
)
