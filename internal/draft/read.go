package draft

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// readValues are what a trial reads from the variables and files that somebody has typed. A server, and an error,
// may repeat it. Whoever sees that need not have access to them.
type readValues struct{ *redact.Redactor }

// readValues reads what a trial will.
func (d *Draft) readValues() readValues {
	var read []string
	for _, e := range d.entries() {
		if e.secret == nil {
			read = append(read, valuesRead(e.written)...)
		}
	}
	if d.customizes() {
		for _, value := range valuesRead(d.AdditionalScopes) {
			read = append(append(read, value), strings.FieldsFunc(value, separatesScopes)...)
		}
	}
	cases := make([]string, 0, 3*len(read)) // host names, for example, come back in another one
	for _, value := range read {
		cases = append(cases, value, strings.ToLower(value), strings.ToUpper(value))
	}
	return readValues{redact.New(cases)}
}

func separatesScopes(r rune) bool { return unicode.IsSpace(r) || r == ',' }

// valuesRead returns the values of the variables and files that a text names, as far as they can be read.
func valuesRead(text string) []string {
	parsed, err := placeholder.Parse(text)
	if err != nil {
		return nil
	}
	var values []string
	for _, part := range parsed.Parts {
		one := placeholder.Template{Parts: []placeholder.Part{part}}
		if value, err := one.ExpandLines(nil); one.Reads() && err == nil {
			values = append(values, value)
		}
	}
	return values
}

// redactTrial removes the values from all texts of a trial that may have them.
func (v readValues) redactTrial(t *Trial) {
	c := &t.Connection
	c.BaseURL = v.Redact(c.BaseURL)
	for _, list := range []*[]string{&c.Scopes.Requested, &c.Scopes.Granted, &c.Scopes.Missing} {
		*list = slices.Clone(*list) // it may belong to the connection
		for i, scope := range *list {
			(*list)[i] = v.Redact(scope)
		}
	}
	texts := []*string{c.TokenURL}
	if t.Ping != nil {
		t.Ping.Response.Message = v.Redact(t.Ping.Response.Message)
		texts = append(texts, t.Ping.Response.Body)
	}
	for _, text := range texts {
		if text != nil {
			*text = v.Redact(*text)
		}
	}
}

// redactError removes the values from an error, which stays an *oauth.Error if it is one.
func (v readValues) redactError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || v.Redact(err.Error()) == err.Error() {
		return err
	}
	if failure, ok := errors.AsType[*oauth.Error](err); ok {
		redacted := *failure
		redacted.Message, redacted.Code = v.Redact(failure.Message), v.Redact(failure.Code)
		return &redacted
	}
	return errors.New(v.Redact(err.Error()))
}
