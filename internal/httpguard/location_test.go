package httpguard

import (
	"net/url"
	"strings"
	"testing"
)

func TestRewriteLocation(t *testing.T) {
	for name, test := range map[string]struct {
		location, base, out, prefix, want string
	}{
		"below":                     {"https://api.example/v2/a", "", "", "", "/a"},
		"base with slash":           {"https://api.example/v2/a", "https://api.example/v2/", "", "", "/a"},
		"base itself":               {"https://api.example/v2", "", "", "", "/"},
		"base itself, slash":        {"https://api.example/v2/", "", "", "", "/"},
		"base is the root":          {"https://api.example/a", "https://api.example", "", "", "/a"},
		"root itself":               {"https://api.example", "https://api.example/", "", "", "/"},
		"query and fragment":        {"https://api.example/v2/a?b=%20c&d#e%2Ff", "", "", "", "/a?b=%20c&d#e%2Ff"},
		"empty query":               {"https://api.example/v2/a?", "", "", "", "/a?"},
		"encodings":                 {"https://api.example/v2/a%2Fb%c3%a4!", "", "", "", "/a%2Fb%c3%a4!"},
		"host in capitals":          {"HTTPS://API.Example/v2/a", "", "", "", "/a"},
		"default port":              {"https://api.example:443/v2/a", "", "", "", "/a"},
		"default port of the base":  {"https://api.example/v2/a", "https://api.example:443/v2", "", "", "/a"},
		"port":                      {"http://api.example:8080/v2/a", "http://api.example:8080/v2", "", "", "/a"},
		"http's default port":       {"http://localhost:80/v2/a", "http://localhost/v2", "http://localhost/v2/x", "", "/a"},
		"prefix":                    {"https://api.example/v2/a", "", "", "/crm", "/crm/a"},
		"prefix, base itself":       {"https://api.example/v2", "", "", "/crm", "/crm/"},
		"absolute path":             {"/v2/a", "", "", "", "/a"},
		"absolute path, prefix":     {"/v2/a?b", "", "", "/crm", "/crm/a?b"},
		"absolute path outside":     {"/v3/a?b#c", "", "", "/crm", "https://api.example/v3/a?b#c"},
		"absolute path, sibling":    {"/v2x/a", "", "", "", "https://api.example/v2x/a"},
		"relative":                  {"d", "", "https://api.example/v2/a/b", "", "/a/d"},
		"relative, one up":          {"../d", "", "https://api.example/v2/a/b", "", "/d"},
		"relative, at the edge":     {"..", "", "https://api.example/v2/a", "", "https://api.example/"},
		"relative, outside":         {"../../d", "", "https://api.example/v2/a/b", "", "https://api.example/d"},
		"relative, beyond the root": {"../../../../../d", "", "https://api.example/v2/a/b", "", "https://api.example/d"},
		"relative, query":           {"?x=1", "", "https://api.example/v2/a/b?key=secret", "", "/a/b?x=1"},
		"fragment":                  {"#top", "", "https://api.example/v2/a?key=secret", "", "#top"},
		"nothing":                   {"", "", "https://api.example/v2/a?key=secret", "", ""},
		"no scheme":                 {"//api.example/v2/a", "", "", "", "/a"},
		"no scheme, other host":     {"//other.example/v2/a", "", "", "", "https://other.example/v2/a"},
		"other host":                {"https://other.example/v2/a", "", "", "", "https://other.example/v2/a"},
		"other scheme":              {"http://api.example/v2/a", "", "", "", "http://api.example/v2/a"},
		"other port":                {"https://api.example:8443/v2/a", "", "", "", "https://api.example:8443/v2/a"},
		"sibling path":              {"https://api.example/v2x", "", "", "", "https://api.example/v2x"},
		"path in another case":      {"https://api.example/V2/a", "", "", "", "https://api.example/V2/a"},
		"outside, kept as it is":    {"https://api.example/v2/../a", "", "", "", "https://api.example/v2/../a"},
		"encoded way out":           {"https://api.example/v2/%2e%2e/a", "", "", "", "https://api.example/v2/%2e%2e/a"},
		"encoded way out, relative": {"%2e%2e/%2e%2e/a", "", "https://api.example/v2/a", "", "https://api.example/v2/%2e%2e/%2e%2e/a"},
		"user":                      {"https://user@api.example/v2/a", "", "", "", "https://user@api.example/v2/a"},
		"opaque":                    {"mailto:a@api.example", "", "", "", "mailto:a@api.example"},
		"no URL":                    {"https://api.example:x/v2/a", "", "", "", "https://api.example:x/v2/a"},
		"no URL either":             {"/v2/%zz", "", "", "", "/v2/%zz"},
		"two slashes":               {"https://api.example/v2//evil.example/a", "", "", "", "/.//evil.example/a"},
		"two slashes, prefix":       {"https://api.example/v2//evil.example/a", "", "", "/crm", "/crm//evil.example/a"},
		"two slashes, root":         {"https://api.example//evil.example/a", "https://api.example", "", "", "/.//evil.example/a"},
		"prefix of two slashes":     {"https://api.example/v2/a", "", "", "//evil.example", "/.//evil.example/a"},
		"backslash":                 {`https://api.example/v2/\evil.example`, "", "", "", `https://api.example/v2/\evil.example`},
	} {
		t.Run(name, func(t *testing.T) {
			if test.base == "" {
				test.base = "https://api.example/v2"
			}
			if test.out == "" {
				test.out = "https://api.example/v2/x"
			}
			if got := RewriteLocation(test.location, mustURL(t, test.base), mustURL(t, test.out), test.prefix); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A client that follows "/.//x" must arrive at "//x" on the same host.
func TestTwoSlashesStayWithTheSidecar(t *testing.T) {
	got := mustURL(t, "http://127.0.0.1:8080/b").ResolveReference(mustURL(t, "/.//evil.example/a")).String()
	if want := "http://127.0.0.1:8080//evil.example/a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzLocation(f *testing.F) {
	for _, seed := range []string{"/v2/a", "https://api.example/v2//e", "//e", `/\e`, `\\e`, "/v2/\\e", "..//e", "?a", "a:b", "/v2/;//e", "https:///v2/a", "https:/v2//e", " //e", "/v2/%2f/e", "/v2/.//e"} {
		f.Add(seed)
	}
	base := &url.URL{Scheme: "https", Host: "api.example", Path: "/v2"}
	out := &url.URL{Scheme: "https", Host: "api.example", Path: "/v2/x/y"}
	f.Fuzz(func(t *testing.T, location string) {
		got := RewriteLocation(location, base, out, "")
		if got == location || !strings.HasPrefix(got, "/") {
			return
		}
		if len(got) > 1 && strings.ContainsRune(`/\`, rune(got[1])) {
			t.Fatalf("%q became %q, which names a host", location, got)
		}
		// The app follows it, the sidecar joins it: that must be where the API pointed.
		followed := mustURL(t, "http://127.0.0.1:8080/").ResolveReference(mustURL(t, got))
		if err := CheckEscapedPath(followed.EscapedPath()); err != nil {
			t.Fatalf("%q became %q: %v", location, got, err)
		}
		want := out.ResolveReference(mustURL(t, location))
		if joined := base.EscapedPath() + followed.EscapedPath(); joined != want.EscapedPath() && joined != want.EscapedPath()+"/" {
			t.Fatalf("%q became %q, which leads to %q", location, got, joined)
		}
	})
}

func TestRewriteDestination(t *testing.T) {
	base := &url.URL{Scheme: "https", Host: "api.example", Path: "/v2"}
	for _, test := range []struct{ destination, want string }{
		{"http://localhost:80/q/a", "https://api.example/v2/a"},
		{"HTTP://LOCALHOST/q/a", "https://api.example/v2/a"},
		{"http://localhost/q/a%2Fb", "https://api.example/v2/a%2Fb"},
		{"/q/a?x", "/v2/a?x"},
		{"/q/", "/v2/"},
		{"/q", "/q"},
		{"/q//evil.example/x", "/q//evil.example/x"},
		{"http://localhost/q/%2e%2e/x", "http://localhost/q/%2e%2e/x"},
		{"http://me@localhost/q/a", "http://me@localhost/q/a"},
		{"http://localhost:81/q/a", "http://localhost:81/q/a"},
		{"https://localhost/q/a", "https://localhost/q/a"},
		{"ftp://localhost/q/a", "ftp://localhost/q/a"},
		{"//localhost/q/a", "//localhost/q/a"},
		{"a", "a"},
		{"", ""},
		{"http://[", "http://["},
	} {
		if got := RewriteDestination(test.destination, base, "localhost:80", "/q"); got != test.want {
			t.Errorf("%s became %s, want %s", test.destination, got, test.want)
		}
	}
}
