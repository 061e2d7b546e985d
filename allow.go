package httphelper

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Allow permits requests with one of its methods and one of its paths.
type Allow struct {
	// The methods, in capital letters; not `TRACE` and `CONNECT`. `HEAD` is not part of `GET`. Default:
	// any method.
	Methods []string `json:"method,omitempty"`

	// The paths below the base URL, each beginning with a slash. One that ends in `*` stands for all that
	// begin with what is before it. They are compared with letters in the same case and percent-escapes
	// decoded, except `%2F` and `%25`; nothing else is normalized, and queries are not looked at.
	// Placeholders, a `*` elsewhere, dot segments, backslashes, `?` and `#` are errors. Default: any path.
	Paths []string `json:"path,omitempty"`
}

// parseAllow parses the rules of a connector or connection with a service. The error names the options.
func (s *Service) parseAllow(rules []Allow) (httpguard.AllowList, error) {
	if rules == nil {
		return nil, nil
	}
	if len(rules) == 0 {
		return nil, errors.New("allow: the list is empty; leave it out to permit all requests, or say which ones")
	}
	list := make(httpguard.AllowList, len(rules))
	errs := make([]error, len(rules))
	for i, rule := range rules {
		list[i], errs[i] = rule.parse()
		if len(rules) > 1 {
			errs[i] = prefixAll(fmt.Sprintf("rule %d", i+1), errs[i])
		}
	}
	errs = []error{prefixAll("allow", errs...)}
	for _, f := range s.APIHeaders {
		if httpguard.OverridesRequest(http.CanonicalHeaderKey(f.Name)) {
			errs = append(errs, fmt.Errorf("api_header %s: some servers take a request with it for another, so that allow would mean nothing", f.Name))
		}
	}
	return list, errors.Join(errs...)
}

func (a Allow) parse() (httpguard.AllowRule, error) {
	if a.Methods != nil && len(a.Methods) == 0 || a.Paths != nil && len(a.Paths) == 0 {
		return httpguard.AllowRule{}, errors.New("a list of methods or paths is empty; leave it out to permit any")
	}
	return httpguard.ParseAllow(a.Methods, a.Paths)
}

// checkPing checks that rules permit the ping that stands beside them.
func (s *Service) checkPing(rules httpguard.AllowList) error {
	if s.Ping == nil || s.Ping.check() != nil {
		return nil // it is reported already
	}
	u, err := url.ParseRequestURI(s.Ping.Path)
	if err != nil || rules.Permits(cmp.Or(s.Ping.Method, http.MethodGet), httpguard.ComparablePath(u)) {
		return nil
	}
	return errors.New("ping: its method and path are not in allow beside it: add them to allow, or choose another ping")
}

// limits returns what the app may use the connection for, or nil if there is no limit.
func (c *activeConnection) limits() *forward.Limits {
	l := &forward.Limits{Connection: c.allowList, Logger: c.logger}
	if c.connector != nil {
		l.Connector = c.connector.allowList
	}
	if l.Connector == nil && l.Connection == nil {
		return nil
	}
	return l
}

// allowView returns rules as the admin API shows them.
func allowView(rules []Allow) []adminapi.Allow {
	views := make([]adminapi.Allow, len(rules))
	for i, rule := range rules {
		views[i] = adminapi.Allow(rule)
	}
	return views
}

// allow returns the option that adds a rule.
func allow[T any](rules func(*T) *[]Allow) subdirective.Option[T] {
	return subdirective.Option[T]{Repeatable: true, Read: func(s *subdirective.Subdirective, target *T) error {
		methods, paths, err := httpguard.SplitAllow(s.Args)
		if err == nil {
			_, err = httpguard.ParseAllow(methods, paths)
		}
		if err != nil {
			return s.Wrap(err)
		}
		*rules(target) = append(*rules(target), Allow{Methods: methods, Paths: paths})
		return nil
	}}
}
