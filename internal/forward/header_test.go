package forward

import "testing"

// TestFieldsThatServersTakeForOurs: Caddy drops the app's fields with underscores, unless its server
// expects them.
func TestFieldsThatServersTakeForOurs(t *testing.T) {
	q := &Request{options: &Options{Field: "X-Token"}, Target: &Target{Headers: []Field{{Name: "X-Api-Key"}}}}
	for _, field := range []string{"X_token", "X_api_key", "X_api-Key", "Client_cert", "Proxy_authorization", "X_forwarded_for"} {
		if q.mayPass(field, true) {
			t.Errorf("%s passes", field)
		}
	}
	if !q.mayPass("X_other", true) || !q.mayPass("X-Forwarded-For", true) {
		t.Error("others do not pass")
	}
}
