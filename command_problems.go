package httphelper

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// namesShown is how many names are told of those that have the same problem.
const namesShown = 3

// problem is what is wrong with some connections, and what to do.
type problem struct {
	names  []string
	text   string // follows the names
	advice string // what to do

	// Of a problem with getting tokens; zero for others.
	tried, next time.Time // when they were asked for last, and may be again
	endpoint    string    // the token endpoint; empty: not the same for all
}

func (one *problem) aboutTokens() bool { return !one.tried.IsZero() }

// problems says what is wrong with connections. What is the same for many is said once.
func (p *page) problems(conns ...connectionView) {
	var all []*problem
	for _, c := range conns {
		for _, one := range c.problems() {
			all = merged(all, one)
		}
	}
	for _, one := range all {
		p.sentence("\n%s %s", some(one.names), one.text)
		if !one.aboutTokens() {
			p.sentence("  %s", one.advice)
			continue
		}
		p.sentence("  %s", p.when(one))
		if one.endpoint != "" {
			p.sentence("  Token endpoint: %s", one.endpoint)
		}
		p.sentence("  %scaddy http-helper refresh %s%s", one.advice, oneOfThem(one.names), p.flags)
	}
}

// problems are those of a connection.
func (c connectionView) problems() []*problem {
	var all []*problem
	if e := c.LastError; e != nil {
		all = append(all, &problem{
			names: []string{c.Name}, text: trouble[c.State] + e.reason(), advice: c.advice(e.Class),
			tried: e.At, next: orZero(c.NextTry), endpoint: orZero(c.TokenURL),
		})
	}
	if missing := c.Scopes.Missing; len(missing) > 0 {
		all = append(all, &problem{
			names: []string{c.Name}, text: "did not get scopes that were asked for: " + strings.Join(missing, " "),
			advice: "Have the client granted them at the authorization server, or do not ask for them.",
		})
	}
	return all
}

var trouble = map[token.State]string{
	token.StateFailing: "cannot get a new token, while the one in hand lives: ",
	token.StateDown:    "cannot get a token: ",
}

// advice begins the sentence that ends with the command to run.
func (c connectionView) advice(class oauth.Class) string {
	switch {
	case class == oauth.ClassConfiguration:
		return "It does not mend itself: correct what is named here, then run: "
	case c.State == token.StateDown: // may never have worked
		return "It ends by itself once that server answers as it should. If it never has, correct what is named here. To try now, run: "
	default:
		return "It ends by itself once that server answers as it should. To try now, run: "
	}
}

// merged adds a problem to others, or to the one of them that is the same.
func merged(all []*problem, one *problem) []*problem {
	for _, other := range all {
		if other.text == one.text && other.advice == one.advice {
			other.names = append(other.names, one.names...)
			if one.tried.After(other.tried) {
				other.tried = one.tried
			}
			if one.next.Before(other.next) {
				other.next = one.next
			}
			if one.endpoint != other.endpoint {
				other.endpoint = ""
			}
			return all
		}
	}
	return append(all, one)
}

// some are the first of many names.
func some(names []string) string {
	if more := len(names) - namesShown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:namesShown], ", "), more)
	}
	return strings.Join(names, ", ")
}

// reason is the failure in words, with the server's error code, as it stands in the log.
func (e *errorView) reason() string {
	return (&oauth.Error{Message: e.Message, Code: orZero(e.Code)}).Error()
}

// when says when a token was asked for last, and when that may happen again.
func (p *page) when(one *problem) string {
	said := "Last tried " + p.ago(one.tried) + "; tried again when it is needed"
	if one.next.Sub(p.now) < time.Second {
		return said + "."
	}
	return said + ", " + p.ago(one.next) + " at the earliest."
}

// oneOfThem stands for a name in a command.
func oneOfThem(names []string) string {
	if len(names) > 1 {
		return "<connection>"
	}
	return names[0]
}
