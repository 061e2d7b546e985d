package httpguard

import (
	"strings"
	"testing"
)

// TestParseAuthority: what a request is addressed to can be read in one way only.
func TestParseAuthority(t *testing.T) {
	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 61)
	for authority, want := range map[string]string{
		"localhost": "localhost", "LocalHost:8080": "localhost", "localhost.": "localhost", "localhost.:8080": "localhost", "localhost:": "localhost",
		"api.example": "api.example", "API.Example.:443": "api.example", "my_sidecar-1:80": "my_sidecar-1", "xn--mller-kva.example": "xn--mller-kva.example",
		"127.0.0.1": "127.0.0.1", "127.0.0.1.:1": "127.0.0.1", "[::1]": "::1", "[::1]:8080": "::1", "[FE80::1%eth0]:80": "fe80::1%eth0", "[::ffff:127.0.0.1]": "::ffff:127.0.0.1",
		// No addresses, whatever a resolver would make of them.
		"2130706433": "2130706433", "0x7f.1": "0x7f.1", "0177.0.0.1": "0177.0.0.1", "127.1:80": "127.1",
		long: long,

		"": "", ".": "", "localhost..": "", "a..b": "", ".localhost": "", ":8080": "", "localhost:http": "", "localhost:80:80": "", "localhost:-1": "",
		"::1": "", "::1:8080": "", "[::1": "", "::1]": "", "[::1]8080": "", "[::1].": "", "[127.0.0.1]": "", "[localhost]": "", "[]": "",
		"user@localhost": "", "localhost@evil.example": "", "localhost/x": "", "localhost#": "", "local host": "", "localhost\n": "", "localhost\x00": "",
		"%6cocalhost": "", "lo\u212aalhost": "", "\u212a.localhost": "", "müller.example": "", "*.example": "", "http://localhost": "", "a,b": "", long + "d": "", strings.Repeat("a", 64): "",
	} {
		if got, ok := ParseAuthority(authority); got != want && ok || ok != (want != "") {
			t.Errorf("%q: got %q, %t", authority, got, ok)
		}
	}
}

func TestIsMachineItself(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "app.localhost": true, "a.b.localhost": true, "127.0.0.1": true, "10.1.2.3": true, "::1": true, "fe80::1%eth0": true, "::ffff:127.0.0.1": true,
		"": false, "evil.example": false, "localhost.evil.example": false, "evillocalhost": false, "127.0.0.1.evil.example": false,
		"2130706433": false, "0x7f.1": false, "0x7f000001": false, "0177.0.0.1": false, "127.1": false, "127.0.0.01": false, "1.2.3.4.5": false,
	} {
		if got := IsMachineItself(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

func TestOriginHost(t *testing.T) {
	for origin, want := range map[string]string{
		"http://localhost": "localhost", "http://localhost:3000": "localhost", "https://LOCALHOST.:1": "localhost", "http://[::1]:8080": "::1",
		"https://API.example.:8443": "api.example", "app://localhost": "localhost",
		"https://localhost/":             "localhost", // no browser says it, but some libraries do
		"https://evil.example#localhost": "evil.example",

		"null": "", "": "", "localhost": "", "https://": "", "file://": "", "//localhost": "", "https://[::1": "", "https://localhost@evil.example": "",
		"https://evil.example@localhost": "", "https://localhost https://evil.example": "", "https://localhost,https://evil.example": "", "https://%6cocalhost": "",
	} {
		if got, ok := OriginHost(origin); got != want && ok || ok != (want != "") {
			t.Errorf("%q: got %q, %t", origin, got, ok)
		}
	}
}

func TestSameHost(t *testing.T) {
	for configured, want := range map[string]bool{"api.example": true, "API.Example.": true, "api.example..": false, "sub.api.example": false, "": false} {
		if got := SameHost(configured, "api.example"); got != want {
			t.Errorf("%q: %t", configured, got)
		}
	}
}
