package oauth

import (
	"slices"
	"testing"
	"time"
)

const formType = "application/x-www-form-urlencoded"

func TestAResponseAsAForm(t *testing.T) {
	for body, want := range map[string]Token{
		"access_token=T1&expires_in=60":                                     {Value: "T1", Lifetime: time.Minute, HasExpiresIn: true},
		"access_token=a%2Fb%3D&token_type=Bearer":                           {Value: "a/b=", Lifetime: time.Minute},
		"expires_in=0&access_token=T1":                                      {Value: "T1", Lifetime: time.Second, HasExpiresIn: true, Ending: true},
		"access_token=T1&scope=a+b\r\n":                                     {Value: "T1", Lifetime: time.Minute, Granted: []string{"a", "b"}},
		"access_token=T1&scope=a%2Cb&token_type=bearer&expires_in=%2060%20": {Value: "T1", Lifetime: time.Minute, HasExpiresIn: true, Granted: []string{"a", "b"}},
		`{"access_token":"T1"}`:                                             {Value: "T1", Lifetime: time.Minute}, // JSON under the wrong name
	} {
		for _, contentType := range []string{formType, "Application/X-WWW-Form-Urlencoded; charset=UTF-8"} {
			granted, err := parsed(&Request{Auth: publicAuth, DefaultLifetime: time.Minute}, 200, body, "Content-Type", contentType)
			if err != nil {
				t.Errorf("%s: %v", body, err)
				continue
			}
			if granted.Value != want.Value || granted.Lifetime != want.Lifetime || granted.HasExpiresIn != want.HasExpiresIn || granted.Ending != want.Ending || !slices.Equal(granted.Granted, want.Granted) {
				t.Errorf("%s: %+v", body, granted)
			}
		}
	}
}

func TestARefusalAsAForm(t *testing.T) {
	for _, status := range []int{200, 400, 401} {
		_, err := parsed(&Request{}, status, "error=invalid_client&error_description=DESCRIBED", "Content-Type", formType)
		if failure := AsError(err); failure.Class != ClassConfiguration || failure.Code != "invalid_client" {
			t.Errorf("%d: %+v", status, failure)
		}
	}
	_, err := parsed(&Request{}, 400, "error=server_error", "Content-Type", formType)
	if failure := AsError(err); failure.Class != ClassOutage || failure.Code != "server_error" {
		t.Errorf("%+v", failure)
	}
}

func TestFormsWithoutAToken(t *testing.T) {
	for _, body := range []string{"", "access_token=", "access_token=a&access_token=b", "access_token=%zz", "access_token=a%0Ab", "token=a", "<html>", "a;b", "access_token=t&token_type=mac"} {
		if _, err := parsed(&Request{}, 200, body, "Content-Type", formType); AsError(err).Class != ClassConfiguration || AsError(err).Presumed {
			t.Errorf("%q: %v", body, err)
		}
	}
	for _, contentType := range []string{"", "text/plain", "text/html", "application/json", "multipart/form-data"} {
		if _, err := parsed(&Request{}, 200, "access_token=a", "Content-Type", contentType); err == nil {
			t.Errorf("it is read as %q", contentType)
		}
	}
}
