package resolve

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// TestLikelyCauseOfInvalidClient is named after what has got into the credentials, without showing them.
func TestLikelyCauseOfInvalidClient(t *testing.T) {
	for name, test := range map[string]struct{ id, secret, code, want string }{
		"nothing odd":            {"app", "hunter2", "invalid_client", ""},
		"dollars of a password":  {"app", "hunter2$x$1", "invalid_client", ""},
		"quotation marks":        {"app", `"hunter2"`, "invalid_client", "client_secret_file has quotation marks around it"},
		"single quotation marks": {"'hunter2'", "x", "invalid_client", "client_id has quotation marks around it"},
		"space":                  {"app", " hunter2", "invalid_client", "client_secret_file begins or ends with a space"},
		"variable":               {"app", "hunter2$CRM_SECRET", "invalid_client", "client_secret_file contains the name of a variable after a $, which nothing has replaced: write {env.NAME}"},
		"variable in braces":     {"${client_id}", "hunter2", "invalid_client", "client_id contains the name of a variable"},
		"another error":          {"app", `"hunter2"`, "invalid_scope", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &resolver{credentials: func() (oauth.Credentials, error) {
				return oauth.Credentials{ClientID: test.id, Secret: test.secret, SecretOption: "client_secret_file"}, nil
			}}
			failed := oauth.ConfigurationErrorf("refused")
			failed.Code = test.code
			got := r.withHint(failed).Error()
			if strings.Contains(got, "hunter2") || !strings.Contains(got, test.want) || test.want == "" && got != failed.Error() {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	other := errors.New("other")
	if err := new(resolver).withHint(other); !errors.Is(err, other) {
		t.Error(err)
	}
}
