package httpguard

import (
	"net/url"
	"testing"
)

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

func BenchmarkJoinPath(b *testing.B) {
	base, request := mustURL(b, "https://api.example/v2"), mustURL(b, "http://app/orders/4711/items")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = JoinPath(base, request)
	}
}
