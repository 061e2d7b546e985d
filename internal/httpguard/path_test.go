package httpguard

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

func mustURL(tb testing.TB, s string) *url.URL {
	tb.Helper()
	u, err := url.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

var harmlessPaths = []string{
	"", "/", "//", "/a", "/a/", "/a//b", "/.well-known/x", "/...", "/a/...", "/.a", "/..a", "/a..", "/a.", "/a..b/c.d",
	"/a%20b", "/a%2Fb", "/a%252Fb", "/%25", "/100%25", "/a%2Eb", "/%2Ewell-known", "/%2E%2E%2E", "/%C3%A4", "/%F0%9F%98%80", "/%FF",
	"/a;b=c", "/a;v=..", "/...%3Fx", "/a..%23", "/;", "/a:b@c!$&'()*+,=~", "/%3Cx%3E", "/%23%3F", "/%zz", "/%", "/%2", "/a%0Ab", "/a/%20/b", "/%C0", "/%E0%84%AE", "/%E0%80", "/%C3",
	"/%25252e%25252e", // three times: nobody's server does that
}

var hostilePaths = []string{
	"a", "*", "..", "%2f", // not below anything
	"/.", "/..", "/./", "/../", "/a/.", "/a/..", "/a/./b", "/a/../b", "/a/b/../c", "//..", "/..//",
	"/%2e", "/%2E", "/%2e%2e", "/%2e.", "/.%2e", "/a/%2E%2e/b", "/a/%2e%2E",
	"/%252e", "/%252e%252e", "/%252E.", "/.%252e/x", "/%25%32%65", "/%2%65/..", "/%25%32%45%25%32%45",
	"/a%2f..", "/a%2f..%2fb", "/..%2f", "/a%2F%2e%2e%2Fb", "/a%252f..%252fb", "/..%252f", "/%2e%2e%2f%2e%2e",
	"/..;", "/..;x", "/..;x=y/z", "/.;", "/a/..;/b", "/%2e%2e;x", "/%2e%2e%3bx", "/..%3bx", "/..%253bx", "/a%2f..;b",
	`/a\b`, `/\`, `/..\x`, `/a\..\b`, "/a%5cb", "/%5C", "/a%255cb", "/..%5c", "/..%255c..",
	"/a\x00b", "/%00", "/a%00", "/%2500", "/..%00/",
	"/%c0%ae", "/%c0%ae%c0%ae/", "/.%C0%AE", "/..%c0%af", "/a%c0%af..%c0%afb", "/%e0%80%ae.", "/%f0%80%80%ae%f0%80%80%ae",
	"/%25c0%25ae%25c0%25ae", "/%c1%9c", "/%c0%80", "/a%e0%81%9cb", "/.\xc0\xae/x", "/a\xc0\xaf..",
	"/..%3f", "/a/..%3fx", "/%2e%2e%23", "/..%253fx/y", // a query or fragment once they are decoded
	"/%f8%80%80%80%ae.", "/%fc%80%80%80%80%ae%fc%80%80%80%80%ae", "/..%f8%80%80%80%afx",
	"/%c0%a5%32%65", // an overlong percent sign, decoded again
}

func TestCleanRequestPath(t *testing.T) {
	for _, p := range harmlessPaths {
		if err := CheckEscapedPath(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range hostilePaths {
		if CheckEscapedPath(p) == nil {
			t.Errorf("%q passes", p)
		}
	}
}

// withoutSlash is a base URL without its trailing slash.
func withoutSlash(u *url.URL) *url.URL {
	base := *u
	base.Path, base.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	return &base
}

// TestShortCutsOfPaths compares what is done for plain paths with what is done for all others.
func TestShortCutsOfPaths(t *testing.T) {
	bases := []*url.URL{mustURL(t, "https://h"), mustURL(t, "https://h/v2/"), mustURL(t, "https://h/v 2"), mustURL(t, "https://h/v[2]"), mustURL(t, "https://h/v%2F2")}
	for _, p := range append(harmlessPaths, hostilePaths...) {
		u := &url.URL{Path: p}
		refused := CheckEscapedPath(EscapedPath(u))
		if got := CheckPath(u); got != refused {
			t.Errorf("%q: got %v, want %v", p, got, refused)
		}
		for _, base := range bases {
			var joined url.URL
			joined.Path, joined.RawPath = JoinPath(withoutSlash(base), u)
			if got, want := joined.EscapedPath(), basePath(base)+EscapedPath(u); refused == nil && got != want {
				t.Errorf("%s + %q: got %s, want %s", base, p, got, want)
			}
		}
	}
}

func TestCleanRequestPathSaysWhy(t *testing.T) {
	for p, want := range map[string]error{
		"a": errPathRelative, "/..": errPathDots, "/%2e%2e": errPathDots, "/%5c": errPathBackslash, "/%2500": errPathBackslash,
	} {
		if got := CheckEscapedPath(p); got != want {
			t.Errorf("%q: got %v, want %v", p, got, want)
		}
	}
}

func TestPlainPathsCostNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = CheckEscapedPath("/v1/orders/4711/items.json;x=1") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestJoinPath(t *testing.T) {
	for _, test := range []struct{ base, request, want string }{
		{"https://h", "/", "/"},
		{"https://h/", "/", "/"},
		{"https://h", "/a", "/a"},
		{"https://h/", "/a/", "/a/"},
		{"https://h/v2", "/", "/v2/"},
		{"https://h/v2", "", "/v2/"},
		{"https://h/v2/", "/", "/v2/"},
		{"https://h/v2/", "/a/b", "/v2/a/b"},
		{"https://h/v2//", "/a", "/v2//a"},
		{"https://h/v2", "//a//b", "/v2//a//b"},
		{"https://h/v%2F2", "/a", "/v%2F2/a"},
		{"https://h/v2%2F", "/a", "/v2%2F/a"},
		{"https://h/v2", "/a%2Fb", "/v2/a%2Fb"},
		{"https://h/v2", "/a%2fb%C3%A4%e2%82%ac", "/v2/a%2fb%C3%A4%e2%82%ac"},
		{"https://h/v2", "/100%25", "/v2/100%25"},
		{"https://h/v2", "/a!'()*[]~;,:@&=+$b", "/v2/a!'()*[]~;,:@&=+$b"},
		{"https://h/v 2", "/a b", "/v%202/a%20b"},
		{"https://h/v2", "/%41%2E%3b", "/v2/%41%2E%3b"},
	} {
		request := &url.URL{}
		if test.request != "" {
			request = mustURL(t, "http://app"+test.request)
		}
		var joined url.URL
		joined.Path, joined.RawPath = JoinPath(mustURL(t, test.base), request)
		if got := joined.EscapedPath(); got != test.want {
			t.Errorf("%s + %s: got %s, want %s", test.base, test.request, got, test.want)
		}
	}
}

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

func FuzzRequestPath(f *testing.F) {
	for _, p := range append(harmlessPaths, hostilePaths...) {
		f.Add(p)
	}
	base := &url.URL{Scheme: "https", Host: "api.example", Path: "/v2/x"}
	f.Fuzz(func(t *testing.T, p string) {
		if CheckEscapedPath(p) != nil {
			return
		}
		if p == "" {
			p = "/"
		}
		// Other decoders than ours, so that a mistake in ours shows.
		decoded := base.Path + p
		for range 3 {
			if got := path.Clean(strings.ReplaceAll(decoded, `\`, "/")); got != base.Path && !strings.HasPrefix(got, base.Path+"/") {
				t.Fatalf("%q leads to %q", p, got)
			}
			var err error
			if decoded, err = url.PathUnescape(decoded); err != nil {
				break
			}
		}
		request, err := url.ParseRequestURI(p)
		if err != nil {
			return
		}
		joined := url.URL{Scheme: "https", Host: "api.example"}
		joined.Path, joined.RawPath = JoinPath(base, request)
		got := joined.EscapedPath()
		if plain, err := url.PathUnescape(got); err != nil || plain != base.Path+request.Path {
			t.Fatalf("joined to %q, which means %q", got, plain)
		}
		// What the app has escaped stays escaped, and nothing else becomes a separator.
		if strings.Count(strings.ToLower(got), "%2f") != strings.Count(strings.ToLower(request.RawPath), "%2f") {
			t.Fatalf("%q joined to %q", p, got)
		}
	})
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

func BenchmarkCleanRequestPath(b *testing.B) {
	for name, p := range map[string]string{"plain": "/v1/orders/4711/items", "encoded": "/v1/orders/a%20b/items"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = CheckEscapedPath(p)
			}
		})
	}
}

func BenchmarkJoinPath(b *testing.B) {
	base, request := mustURL(b, "https://api.example/v2"), mustURL(b, "http://app/orders/4711/items")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = JoinPath(base, request)
	}
}
