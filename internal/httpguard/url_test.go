package httpguard

import (
	"strings"
	"testing"
)

func TestCheckBaseURL(t *testing.T) {
	for s, valid := range map[string]bool{"https://h": true, "https://h/v2/": true, "https://h?x": false, "https://h/v2?": false} {
		if err := CheckBaseURL(mustURL(t, s)); (err == nil) != valid {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for _, host := range []string{"localhost", "LocalHost", "127.0.0.1", "127.255.255.254", "127.0.0.0", "::1", "0:0::1", "::ffff:127.0.0.1", "::ffff:7f00:1"} {
		if !IsLoopbackHost(host) {
			t.Errorf("%s is loopback", host)
		}
	}
	for _, host := range []string{
		"", "localhost.", "localhost.example", "a.localhost", "localhost4", "127.0.0.1.example", "127.1", "0177.0.0.1", "2130706433", "0x7f000001", "127.0.0.01",
		"0.0.0.0", "::", "::2", "::ffff:10.0.0.1", "::127.0.0.1", "128.0.0.1", "[::1]", "127.0.0.1:80",
	} {
		if IsLoopbackHost(host) {
			t.Errorf("%s is not loopback", host)
		}
	}
}

func TestCheckScheme(t *testing.T) {
	for s, valid := range map[string]bool{
		"https://api.example": true, "http://localhost:80": true, "http://127.8.9.1": true, "http://[::1]:8080": true, "http://[::ffff:127.0.0.1]": true,
		"http://api.example": false, "http://10.0.0.1": false, "http://[::2]": false, "http://localhost.example": false,
	} {
		err := CheckScheme(mustURL(t, s), false, "token_url", "token_url")
		if (err == nil) != valid {
			t.Errorf("%s: %v", s, err)
		}
		if err != nil && !strings.Contains(err.Error(), "token_url is http") {
			t.Errorf("%s: %v", s, err)
		}
		if err := CheckScheme(mustURL(t, s), true, "token_url", "token_url"); err != nil {
			t.Errorf("%s, allowed: %v", s, err)
		}
	}
}
