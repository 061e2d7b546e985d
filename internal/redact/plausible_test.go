package redact

import "testing"

func TestPlausibleName(t *testing.T) {
	for _, name := range []string{"acme", "orders.read", "https://graph.microsoft.com/.default", "api://3f2504e0-4f89-11d3-9a0c-0305e82c3301/.default", "urn:ietf:scope", "Mail.Read", "v2"} {
		if !PlausibleName(name) {
			t.Errorf("%q is taken for a secret", name)
		}
	}
	for _, secret := range []string{"", "p@ss word", "s3cr3t!", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "8f14e45fceea167a5a36dedd4bea2543", "aGVsbG8gd29ybGQ=", "Tr0ub4dor", "-----BEGIN"} {
		if PlausibleName(secret) {
			t.Errorf("%q is taken for a name", secret)
		}
	}
}

func TestPlausiblePath(t *testing.T) {
	for _, path := range []string{"/run/secrets/client_secret", "./secret", "../x/y.pem", "secrets/client_secret", "/var/lib/My App/key.pem", `C:\keys\a.pem`, "/tmp/TestRun123/001/missing"} {
		if !PlausiblePath(path) {
			t.Errorf("%q is taken for a secret", path)
		}
	}
	for _, secret := range []string{"", "hunter2", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "/9j+abc=", "abc.def", "a b", "x/Y", "/8f14e45fceea167a5a36dedd4bea2543"} {
		if PlausiblePath(secret) {
			t.Errorf("%q is taken for a path", secret)
		}
	}
}
