package sites

import "testing"

func TestListensAt(t *testing.T) {
	for _, test := range []struct {
		listener, address string
		want              bool
	}{
		{":80", "127.0.0.1:80", true},
		{"0.0.0.0:80", "localhost:80", true},
		{"[::]:80", "[::1]:80", true},
		{"localhost:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "localhost:80", true},
		{"127.0.0.1:80-90", "127.0.0.1:85", true},
		{"tcp4/:80", "127.0.0.1:80", true},
		{":81", "127.0.0.1:80", false},
		{"127.0.0.2:80", "127.0.0.1:80", false},
		{"10.0.0.1:80", "127.0.0.1:80", false},
		{"[::1]:80", "127.0.0.1:80", false},
		{"unix//run/x.sock", "127.0.0.1:80", false},
		{"udp/:80", "127.0.0.1:80", false},
		{"127.0.0.1:80-90", "127.0.0.1:91", false},
	} {
		if got := ListensAt(test.listener, test.address); got != test.want {
			t.Errorf("%s, %s: %t", test.listener, test.address, got)
		}
	}
}
