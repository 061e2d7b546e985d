package httpguard

import "testing"

func TestNamesCaller(t *testing.T) {
	for origin, want := range map[string]bool{
		"http://localhost": true, "http://localhost:3000": true, "https://LOCALHOST.:1": true, "http://app.localhost:8080": true,
		"http://127.0.0.1:8080": true, "http://[::1]:8080": true, "https://api.example": true, "https://API.example.:8443": true, "app://localhost": true,
		"https://evil.example": false, "null": false, "": false, "localhost": false, "https://": false, "https://localhost.evil.example": false,
		"https://evillocalhost": false, "https://sub.api.example": false, "https://localhost@evil.example": false, "https://evil.example@localhost": false,
		"https://localhost https://evil.example": false, "https://evil.example#localhost": false, "http://2130706433": false, "file://": false,
		"https://localhost/":            true, // no browser says it, but some libraries do
		"http://127.0.0.1.evil.example": false, "//localhost": false, "https://[::1": false,
	} {
		if got := NamesCaller(origin, func(host string) bool { return host == "api.example" }); got != want {
			t.Errorf("%q: %t", origin, got)
		}
	}
}
