package resolve

import (
	"regexp"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// variableLike matches what a shell would have replaced.
var variableLike = regexp.MustCompile(`\$(?:\{\w+\}|[A-Z][A-Z0-9_]+)`)

// withHint adds to the failure of a client that the server does not know what is likely to be wrong with
// its credentials. It shows nothing of them but that.
func (r *resolver) withHint(err error) error {
	failed, ok := err.(*oauth.Error) //nolint:errorlint // nothing wraps it here
	if !ok || failed.Code != "invalid_client" {
		return err
	}
	creds, _ := r.credentials()
	hint := oddity("client_id", creds.ClientID)
	if hint == "" {
		hint = oddity(creds.SecretOption, creds.Secret)
	}
	if hint == "" {
		return err
	}
	hinted := *failed
	hinted.Message += "; " + hint
	return &hinted
}

// oddity says what of a value has probably got into it by mistake, or "".
func oddity(option, value string) string {
	switch {
	case len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0]:
		return option + " has quotation marks around it, which probably do not belong to the value (env files keep them)"
	case strings.TrimSpace(value) != value:
		return option + " begins or ends with a space, which probably does not belong to the value"
	case variableLike.MatchString(value):
		return option + " contains the name of a variable after a $, which nothing has replaced: write {env.NAME}"
	default:
		return ""
	}
}
