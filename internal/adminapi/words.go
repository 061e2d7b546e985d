package adminapi

import (
	"cmp"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// StateMeaning says of each state what it means for a connection.
var StateMeaning = map[token.State]string{
	token.StateIdle:    "it has no token, and none was needed lately",
	token.StateReady:   "it has a token",
	token.StateFailing: "it has a token, but cannot get a new one",
	token.StateDown:    "it has no token, and cannot get one",
}

// Advice for problems other than a failed token request.
const (
	AdviceMissingScopes = "Grant them to the client at the authorization server, or stop requesting them."
	AdviceDegraded      = "Requests go on with tokens of its own. It ends by itself once the storage works."
	AdviceKeyFiles      = "Repair the files before the next restart or reload, which fails without usable keys."
)

// Advice says what to do about the last failed token request of a connection, in whole sentences. A new attempt
// is up to the reader.
func (c Connection) Advice() string {
	switch {
	case c.LastError == nil:
		return ""
	case c.LastError.Class == oauth.ClassConfiguration:
		return "Fix what is named here. The next request sees a changed file, after a second at most."
	case c.State == token.StateDown: // may never have worked
		return "It ends by itself once that server responds as it should. If it never has, fix what is named here."
	default:
		return "It ends by itself once that server responds as it should."
	}
}

// String lists the methods and paths that are permitted.
func (a Allow) String() string {
	return cmp.Or(strings.Join(a.Methods, " "), "any method") + " " + cmp.Or(strings.Join(a.Paths, " "), "any path")
}
