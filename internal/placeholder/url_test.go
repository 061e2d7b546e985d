package placeholder

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestExpandURL(t *testing.T) {
	t.Setenv("URL_WHOLE", "https://api.example:8443/v2?x=1&y")
	t.Setenv("URL_SCHEME", "https")
	t.Setenv("URL_TAIL", "e.example/a/b")
	lookup := lookupIn(map[string]string{
		"param.host": "emea", "param.dotted": "a-1.b2.C", "param.ip": "127.0.0.1", "param.port": "8443", "param.hostport": "localhost:9000",
		"param.odd": "a/b?c#d %&;,@:é", "param.dots": "...", "param.inner": "a..b/.c/d.", "param.back": `a\b`, "config.shard": "s7", "param.percent": "100%25",
	})
	for name, test := range map[string]struct{ text, want string }{
		"literal":                  {"https://api.example/v2/?a=b", "https://api.example/v2/?a=b"},
		"scheme in capitals":       {"HTTPS://API.example", "https://API.example"},
		"port":                     {"http://localhost:1", "http://localhost:1"},
		"IPv6":                     {"http://[::1]:80/x", "http://[::1]:80/x"},
		"underscore, final dot":    {"https://my_api.example./", "https://my_api.example./"},
		"encodings":                {"https://h/a%2Fb%c3%a4?x=%zz", "https://h/a%2Fb%c3%a4?x=%zz"},
		"whole from env":           {"{env.URL_WHOLE}", "https://api.example:8443/v2?x=1&y"},
		"pieces from env":          {"{env.URL_SCHEME}://{param.host}.{env.URL_TAIL}/{param.host}", "https://emea.e.example/a/b/emea"},
		"host":                     {"https://{param.host}/", "https://emea/"},
		"part of a host":           {"https://{param.host}.acme.example/api", "https://emea.acme.example/api"},
		"last part of a host":      {"https://api.{param.dotted}?x", "https://api.a-1.b2.C?x"},
		"inside of a label":        {"https://api-{param.host}x.example", "https://api-emeax.example"},
		"two in a host":            {"https://{param.host}-{config.shard}.example", "https://emea-s7.example"},
		"address":                  {"https://{param.ip}:8443/", "https://127.0.0.1:8443/"},
		"port of its own":          {"https://h:{param.port}/x", "https://h:8443/x"},
		"host and port, path":      {"http://{param.hostport}/x", "http://localhost:9000/x"},
		"host and port, query":     {"http://{param.hostport}?x", "http://localhost:9000?x"},
		"host and port, end":       {"http://{param.hostport}", "http://localhost:9000"},
		"path":                     {"https://h/{param.odd}/x", "https://h/a%2Fb%3Fc%23d%20%25&%3B%2C@:%C3%A9/x"},
		"part of a segment":        {"https://h/v{param.host}.json", "https://h/vemea.json"},
		"query":                    {"https://h?a={param.odd}&b", "https://h?a=a%2Fb%3Fc%23d+%25%26%3B%2C%40%3A%C3%A9&b"},
		"harmless dots":            {"https://h/{param.dots}/{param.inner}", "https://h/.../a..b%2F.c%2Fd."},
		"backslash":                {"https://h/{param.back}", "https://h/a%5Cb"},
		"percent sign":             {"https://h/{param.percent}", "https://h/100%2525"},
		"URL inside of a query":    {"https://h/x?u=https://{param.host}/", "https://h/x?u=https://emea/"},
		"question mark in a query": {"https://h/x?a?b={param.back}", "https://h/x?a?b=a%5Cb"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := mustParse(t, test.text, Param, Config).ExpandURL(lookup)
			if err != nil {
				t.Fatal(err)
			}
			if u.String() != test.want {
				t.Errorf("got %s, want %s", u, test.want)
			}
		})
	}
}

func TestExpandURLRefusesValues(t *testing.T) {
	for position, test := range map[string]struct {
		text   string
		values []string
		want   string
	}{
		"part of a host": {"https://{param.v}.acme.example/x", []string{
			"", ".", "-", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a-.b", "a_b", "a b", "é", "a/b", "a/", "/", `a\b`, "a?", "a#", "a@b", "@", "a:b@c", "a:80", ":80", "[::1]", "::1",
			"a%2e", "%61", "evil.example/", "evil.example#", "evil.example?", `evil.example\`, "a,b", "a;b", "a'", "a\u00ad", "ａ", "a。b",
		}, "{param.v}: the value"},
		"whole authority": {"https://{param.v}/x", []string{
			"", ":", ":80", "a:", "a:x", "a:0", "a:65536", "a:+80", "a:-1", "a:80:80", "a:8 0", "a@b:80", "a:b@c:80", "[::1]:80", "-a:80", "a.:80", "a/b:80",
		}, "{param.v}: the value"},
		"a URL in a host": {"https://{param.v}/x", []string{"https://a.example", "http://a", "https://a/b", "://"}, "{param.v}: give the host name alone, not a URL"},
		"a URL in a part": {"https://{param.v}.example/x", []string{"https://a"}, "{param.v}: give the host name alone, not a URL"},
		"beside a port":   {"https://{param.v}:443/x", []string{"a:80", ":", "a@b"}, "{param.v}: the value"},
		"after a user":    {"https://u@{param.v}/x", []string{"a:80", "a"}, ""},
		"path": {"https://h/a/{param.v}/b", []string{
			"", ".", "..", "../..", "a/..", "../a", "a/../b", "./a", `..\a`, `a\..`, "%2e", "%2E%2e", ".%2e", "%252e%252e", "%252E.", "a%2f..", "a%252f..%252fb", "..%2fa", "..;", "..;x/a", "%c0%ae%c0%ae", "%2e%2e%5c", ".. ", " .", ". .", "..%20", "..%09", "%c0%2e%c0%2e", "．．", "%ef%bc%8e.", "a/．．/b",
		}, "{param.v}: the value"},
		"part of a segment": {"https://h/a/.{param.v}/b", []string{".", "%2e", "./x", "..;"}, ""},
		"behind a percent":  {"https://h/a/.%{param.v}/b", []string{"2e", "2E", "252e"}, "dot segment"},
		"scheme":            {"{param.v}://h", []string{"https", "x"}, "is not allowed in a URL's scheme or fragment"},
		"whole URL":         {"{param.v}", []string{"https://h/", "h"}, "is not allowed in a URL's scheme or fragment"},
		"fragment":          {"https://h/#{param.v}", []string{"a"}, "is not allowed in a URL's scheme or fragment"},
		"port":              {"https://h:{param.v}/", []string{"x", "0", "65536", "1.2", "80:80"}, ""},
		"controls in query": {"https://h/?a={param.v}", []string{"a\x00", "a\n", "a\x7f", "a\u0085"}, "{param.v}: the value contains a control character"},
		"controls in path":  {"https://h/{param.v}", []string{"a\x00", "a\n"}, "{param.v}: the value contains a control character"},
		"controls in host":  {"https://{param.v}/", []string{"a\x00", "a\n", "a\t"}, "{param.v}: the value contains a control character"},
	} {
		t.Run(position, func(t *testing.T) {
			for _, value := range test.values {
				u, err := mustParse(t, test.text, Param).ExpandURL(lookupIn(map[string]string{"param.v": value}))
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%q: got %v, %v; want %q", value, u, err, test.want)
				}
			}
		})
	}
}

func TestExpandURLRefusesURLs(t *testing.T) {
	t.Setenv("URL_USER", "https://user:hunter2@h/")
	for s, want := range map[string]string{
		"":                        "not an http or https URL",
		"api.example":             "not an http or https URL: write it in full, beginning with https://",
		"api.example:443/a":       "not an http or https URL",
		"127.0.0.1:8080/a":        "not an http or https URL: write it in full, beginning with https://",
		"//api.example/":          "not an http or https URL",
		"ftp://h/":                "not an http or https URL",
		"javascript:hunter2":      "not an http or https URL",
		"https:":                  "not a valid URL",
		"https:/h":                "not a valid URL",
		"https:h":                 "not a valid URL",
		"https://":                "not a valid URL",
		"https:///x":              "not a valid URL",
		"https://?x":              "not a valid URL",
		"https://h/%zz":           "not a valid URL: two hexadecimal digits must follow a %",
		"https://h:hunter2/":      "not a valid URL",
		"https://h/\x01":          "not a valid URL",
		"https://a b/":            "not a valid URL: its host has a character",
		"https://[::1/":           "not a valid URL",
		"https://[]/":             "not a valid URL",
		"https://[a]/":            "not a valid URL",
		"https://user@h/":         "user name or password",
		"https://user:hunter2@h/": "user name or password",
		"https://@h/":             "user name or password",
		"{env.URL_USER}":          "user name or password",
		"https://h/#f":            "fragment",
		"https://h/#":             "fragment",
		"https://h/?a#b":          "fragment",
		"https://h:/":             "port",
		"https://h:0/":            "port",
		"https://h:65536/":        "port",
		"https://ä.example/":      "xn--",
		"https://a..b/":           "not a host name",
		"https://.a/":             "not a host name",
		"https://a*b/":            "not a host name",
		"https://a%2eb/":          "not a valid URL",
		`https://a\@b/`:           "not a valid URL",
		"https://h/a/../b":        "dot segment",
		"https://h/a/.":           "dot segment",
		"https://h/%2e%2e/b":      "dot segment",
		"https://h/%252e%252e/b":  "dot segment",
		`https://h/a\..\b`:        "dot segment",
		"https://" + strings.Repeat("a.", 130) + "b": "not a host name",
	} {
		u, err := mustParse(t, s).ExpandURL(nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want %q", s, u, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error quotes the URL: %v", s, err)
		}
	}
}

// No value can change scheme, port, the rest of the host, or the number of path segments.
func FuzzURLValues(f *testing.F) {
	for _, seed := range []string{"a", "a.b", "a:80", "..", "%2e%2e", "a/b", `a\..`, "@evil", "evil/", "evil#", "?", "é", "a;b", "%252e", "[::1]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		lookup := &Values{Lookup: func(string, string) (string, error) { return value, nil }}
		expand := func(s string) *url.URL {
			u, err := mustParse(t, s, Param).ExpandURL(lookup)
			if err != nil {
				return nil
			}
			again, err := url.Parse(u.String())
			if err != nil {
				t.Fatalf("%q in %s: %v", value, s, err)
			}
			return again
		}
		if u := expand("https://a{param.v}.example:444/x"); u != nil {
			if u.Scheme != "https" || !strings.HasSuffix(u.Hostname(), ".example") || u.Port() != "444" || u.Path != "/x" || u.User != nil {
				t.Fatalf("%q leads to %s", value, u)
			}
		}
		if u := expand("https://{param.v}/x"); u != nil && (u.Scheme != "https" || u.Path != "/x" || u.User != nil || u.Host != value) {
			t.Fatalf("%q leads to %s", value, u)
		}
		if u := expand("https://h/a/{param.v}/b"); u != nil {
			if u.Host != "h" || strings.Count(u.EscapedPath(), "/") != 3 || u.RawQuery != "" || u.Fragment != "" {
				t.Fatalf("%q leads to %s", value, u)
			}
			decoded := u.EscapedPath()
			for range 3 {
				if clean := path.Clean(strings.ReplaceAll(decoded, `\`, "/")); !strings.HasPrefix(clean, "/a/") || !strings.HasSuffix(clean, "/b") {
					t.Fatalf("%q leads to %s", value, clean)
				}
				var err error
				if decoded, err = url.PathUnescape(decoded); err != nil {
					break
				}
			}
		}
		if u := expand("https://h/?a={param.v}&b=c"); u != nil {
			if query := u.Query(); u.Path != "/" || len(query) != 2 || query.Get("a") != value || query.Get("b") != "c" {
				t.Fatalf("%q leads to %s", value, u)
			}
		}
	})
}
