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
	"/...%20", "/a..%20", "/%20a", "/%20", "/%ef%bc%8ea", "/%ef%bc%8f", "/%e3%80%82", "/%c0a", "/%c0%2ea", "/a%09b", "/%e2%80%8b", "/%ef%bb%bfa.b",
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
	"/..%20", "/..%09", "/.%20", "/%20..", "/.%20.", "/%0a.%0d./x", "/..%7f", "/..%01;x", "/..%2520", "/a/..%20/b", "/.. ", "/ ..", "/..%20%20%5fx/..%20",
	"/..%c2%a0", "/..%c2%85", "/..%e3%80%80", "/..%e2%80%8b", "/%ef%bb%bf..", "/.%c2%ad.", // spaces, controls and marks that are not seen
	"/%c0%2e%c0%2e", "/%c0%2e", "/%c0%2e%c0%2e%c0%2f", "/%c0%6e%c0%ee", "/..%c0%2fx", "/..%c0%6fx", "/%e0%80%2e.", "/%25c0%252e.", // overlong and malformed
	"/%ef%bc%8e%ef%bc%8e", "/%ef%bc%8e", "/.%EF%BC%8E/x", "/..%ef%bc%8fx", "/..%ef%bc%bcx", "/..%ef%bc%9bx", "/%25ef%25bc%258e.", // full width
	"/%e2%80%a5", "/%e2%80%a4.", "/%ef%b9%92.", // leaders and the small full stop
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
