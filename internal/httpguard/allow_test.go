package httpguard

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// parseRule parses the words of a rule.
func parseRule(words ...string) (AllowRule, error) {
	methods, paths, err := SplitAllow(words)
	if err != nil {
		return AllowRule{}, err
	}
	return ParseAllow(methods, paths)
}

func TestAllowRules(t *testing.T) {
	for _, test := range []struct {
		rules             string // separated by commas
		permitted, others string // requests, separated by spaces: a method, a colon and a target
	}{
		{"", "GET:/ DELETE:/a M-SEARCH:/x", ""},
		{" ", "GET:/ DELETE:/a M-SEARCH:/x", ""}, // any method, any path
		{"GET", "GET:/ GET:/a?b", "HEAD:/ POST:/ get:/ GETS:/ GE:/"},
		{"GET HEAD M-SEARCH", "GET:/ HEAD:/ M-SEARCH:/", "POST:/"},
		{"/a", "GET:/a POST:/a GET:/a?x=/b GET:/%61 get:/a", "GET:/ GET:/a/ GET:/A GET:/a/b GET:/a; GET://a GET:/ab GET:/a%2F GET:/a%20 GET:/a%25"},
		{"GET GET /a /b /a", "GET:/a GET:/b", "POST:/a GET:/c"}, // a repetition changes nothing
		{"GET /a, POST /b", "GET:/a POST:/b", "POST:/a GET:/b"},
		{"GET POST /a /b", "GET:/a POST:/a GET:/b POST:/b", "PUT:/a GET:/c"},
		{"/a/*", "GET:/a/ GET:/a/b GET:/a/b/c GET:/a// GET:/%61/b GET:/a/b%2Fc", "GET:/a GET:/ab GET:/ GET://a/b GET:/a%2Fb GET:/A/b"},
		{"/a*", "GET:/a GET:/ab GET:/a/b GET:/a%2Fb GET:/a;x", "GET:/ GET:/ba"},
		{"/*", "GET:/ GET:/a GET://", ""},
		{"/a/", "GET:/a/", "GET:/a GET:/a//"},
		{"/a%2Fb", "GET:/a%2Fb GET:/a%2fb", "GET:/a/b GET:/a%252Fb GET:/a%252fb"},
		{"/a%2fb/*", "GET:/a%2Fb/c GET:/%61%2fb/", "GET:/a/b/c"},
		{"/a/b", "GET:/a/b", "GET:/a%2Fb GET:/a%2fb"},
		{"/100%25", "GET:/100%25", "GET:/100 GET:/100%2525 GET:/100%25%25"},
		{"/a%252Fb", "GET:/a%252Fb", "GET:/a%2Fb GET:/a/b"},
		{"/%C3%A4", "GET:/%C3%A4 GET:/%c3%a4 GET:/ä", "GET:/%E4 GET:/a"},
		{"/ä/*", "GET:/%C3%A4/x GET:/ä/", "GET:/%C3/x"},
		{"/a%20b", "GET:/a%20b", "GET:/a+b GET:/ab"},
		{"/a%2A", "GET:/a* GET:/a%2a", "GET:/ab GET:/a"},
		{"/a%2A*", "GET:/a*b GET:/a%2A", "GET:/ab"},
		{"/a%3Fb", "GET:/a%3Fb GET:/a%3fb?c", "GET:/a?b"},
		{"/a%7Bb%7D%23", "GET:/a%7Bb%7D%23 GET:/a{b}%23", "GET:/a"},
		{"/a;v=1", "GET:/a;v=1 GET:/a%3Bv=1", "GET:/a GET:/a;v=2"},
		{"/.well-known/*", "GET:/.well-known/x GET:/%2Ewell-known/x", "GET:/well-known/x"},
		{"/a.*", "GET:/a.json GET:/a.", "GET:/a"},
		{"POST /pkg.Service/Get /pkg.Health/*", "POST:/pkg.Service/Get POST:/pkg.Health/Check", "POST:/pkg.Service/Delete POST:/pkg.service/Get"},
	} {
		var rules AllowList
		for text := range strings.SplitSeq(test.rules, ",") {
			if text == "" {
				continue
			}
			rule, err := parseRule(strings.Fields(text)...)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			rules = append(rules, rule)
		}
		for permitted, requests := range map[bool]string{true: test.permitted, false: test.others} {
			for _, request := range strings.Fields(requests) {
				method, target, _ := strings.Cut(request, ":")
				u, err := url.ParseRequestURI(target)
				if err != nil {
					t.Fatal(err)
				}
				if got := rules.Permits(method, ComparablePath(u)); got != permitted {
					t.Errorf("allow %s: %s %s: %v", test.rules, method, target, got)
				}
			}
		}
	}
}

func TestNoSuchAllowRule(t *testing.T) {
	for _, test := range []struct{ rule, want string }{
		{"get /a", "did you mean GET?"},
		{"Get", "did you mean GET?"},
		{"purge /a", "capital letters"},
		{"GET,HEAD /a", "capital letters"},
		{"* /a", "capital letters"},
		{"*", "capital letters"},
		{"contacts/*", "a path begins with a slash"},
		{"https://api.example/contacts", "a path begins with a slash"},
		{"{env.PATHS}", "a path begins with a slash"},
		{"TRACE /a", "TRACE and CONNECT are never forwarded"},
		{"GET connect", "method 2: TRACE and CONNECT are never forwarded"},
		{"/a GET", "a method comes after a path"},
		{"GET /a POST /b", "a method comes after a path"},
		{"/a b", "a method comes after a path"},
		{"/a/*/b", "a * is possible only at the end"},
		{"/a**", "a * is possible only at the end"},
		{"/*.json", "a * is possible only at the end"},
		{"/a?b=c", "no ? and no #"},
		{"/a#b", "no ? and no #"},
		{"/{id}", "no braces"},
		{"/a/{env.X}/*", "no braces"},
		{"/a}", "no braces"},
		{`/a\b`, "backslash"},
		{"/a%5Cb", "backslash"},
		{"/a%255cb", "backslash"},
		{"/a%00", "NUL"},
		{"/a/../b", "dot segment"},
		{"/.", "dot segment"},
		{"/a/./*", "dot segment"},
		{"/%2e%2E/*", "dot segment"},
		{"/a/%252e%252e", "dot segment"},
		{"/b /a/..;x", "path 2: the path has a dot segment"},
		{"/a%2F..%2F*", "dot segment"},
		{"/a%", "two hexadecimal digits"},
		{"/a%2", "two hexadecimal digits"},
		{"/a%zz", "two hexadecimal digits"},
		{"/a%2*", "two hexadecimal digits"},
		{"/a%*", "two hexadecimal digits"},
	} {
		_, err := parseRule(strings.Fields(test.rule)...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("allow %s: %v", test.rule, err)
		}
	}
	for _, path := range []string{"", "*", "a"} {
		if _, err := ParseAllow(nil, []string{path}); err == nil {
			t.Errorf("the path %q is accepted", path)
		}
	}
	if _, err := ParseAllow([]string{""}, nil); err == nil {
		t.Error("an empty method is accepted")
	}
}

func TestOverridesRequest(t *testing.T) {
	for _, field := range []string{
		"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url",
		"X_http_method_override", "X-Http_method", "X-Method_override", "X_original_url", "X_rewrite-Url",
	} {
		if !OverridesRequest(field) {
			t.Errorf("%s passes", field)
		}
	}
	for _, field := range []string{"Accept", "X-Http", "X-Original", "X-Url", "X_http", "Method"} {
		if OverridesRequest(field) {
			t.Errorf("%s is refused", field)
		}
	}
}

// Marks of escapes that stay, which no byte can be.
const (
	escapedSlash = 256 + iota
	escapedPercent
)

// symbols reads an escaped path for the reference: bytes, and marks for the escapes that stay.
func symbols(path string) []int {
	const digits = "0123456789abcdef"
	var all []int
	for len(path) > 0 {
		symbol, n := int(path[0]), 1
		if path[0] == '%' {
			hex := strings.ToLower(path[1:3])
			symbol, n = strings.Index(digits, hex[:1])*16+strings.Index(digits, hex[1:]), 3
			switch symbol {
			case '/':
				symbol = escapedSlash
			case '%':
				symbol = escapedPercent
			}
		}
		all = append(all, symbol)
		path = path[n:]
	}
	return all
}

// referencePermits is rule 34 in the plainest way: path and target are compared symbol by symbol.
func referencePermits(path, target string) bool {
	path, prefix := strings.CutSuffix(path, "*")
	target, _, _ = strings.Cut(target, "?")
	want, got := symbols(path), symbols(target)
	if prefix {
		return len(got) >= len(want) && slices.Equal(got[:len(want)], want)
	}
	return slices.Equal(got, want)
}

// FuzzAllow compares what a rule permits with a reference, what is compared with what is sent, and checks that the
// pattern for a request permits it.
func FuzzAllow(f *testing.F) {
	f.Add("/a/*", "/a/b")
	f.Add("/a%2Fb", "/a%2fb?c")
	f.Add("/%C3%A4", "/ä")
	f.Add("/100%25*", "/100%2525/x")
	f.Add("/a%2A", "/a*")
	f.Add("/a b;c", "/a%20b%3Bc")
	f.Add("/%2F", "//")
	f.Fuzz(func(t *testing.T, path, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") || CheckPath(u) != nil {
			return
		}
		compared := ComparablePath(u)
		own, err := ParseAllow(nil, []string{AllowPattern(u)})
		if err != nil || !(AllowList{own}).Permits("GET", compared) {
			t.Fatalf("%q: the pattern %q does not permit it: %v", target, AllowPattern(u), err)
		}
		sent := new(url.URL)
		sent.Path, sent.RawPath = JoinPath(&url.URL{Scheme: "https", Host: "api.example", Path: "/v2"}, u)
		if below := strings.TrimPrefix(sent.EscapedPath(), "/v2"); !slices.Equal(symbols(below), symbols(AllowPattern(u))) {
			t.Fatalf("%q is compared as %q and sent as %q", target, compared, below)
		}
		rule, err := ParseAllow(nil, []string{path})
		if err != nil {
			return
		}
		if got, want := (AllowList{rule}).Permits("GET", compared), referencePermits(path, target); got != want {
			t.Fatalf("allow %q: %q: %v instead of %v", path, target, got, want)
		}
	})
}
