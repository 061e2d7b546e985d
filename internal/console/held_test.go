package console

import (
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// emptyDraft has a secret and a text to fill in.
func emptyDraft() *draft.Draft {
	return draft.New(&draft.Connector{Form: adminapi.Connector{Name: "c", Fields: []adminapi.Field{
		{Key: "client_id", Type: adminapi.TypeText, Fixed: true}, {Key: "client_secret", Type: adminapi.TypePassword, Fixed: true}, {Key: "pass", Type: adminapi.TypePassword},
	}}}, new(draft.Config))
}

// value is the secret that a draft has after a form without it.
func (h *held) value(id string) string {
	d := emptyDraft()
	h.fill(id, d, url.Values{})
	return d.Fields[1].Value
}

func TestHeldSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(held)
		d := emptyDraft()
		kept := h.fill("a", d, url.Values{"client_id": {"id"}, "client_secret": {"first"}})
		if d.Fields[0].Value != "" || d.Fields[1].Value != "first" || d.Fields[2].Value != "" || !kept["client_secret"] || kept["parameters.pass"] {
			t.Errorf("%+v, kept %v", d.Fields, kept)
		}
		h.fill("a", emptyDraft(), url.Values{"client_secret": {"second"}, "parameters.pass": {"other"}})
		if got := h.value("a"); got != "second" {
			t.Errorf("kept %q", got)
		}
		if got := h.value("b"); got != "" {
			t.Errorf("another draft has %q", got)
		}
		time.Sleep(IdleLimit - time.Second)
		if got := h.value("a"); got != "second" {
			t.Errorf("kept %q before the limit", got)
		}
		time.Sleep(IdleLimit)
		if h.value("b"); len(h.drafts) != 1 {
			t.Errorf("%d drafts are kept after the limit", len(h.drafts))
		}
		if got := h.value("a"); got != "" {
			t.Errorf("kept %q after the limit", got)
		}
		h.fill("a", emptyDraft(), url.Values{"client_secret": {"third"}})
		h.forget("a")
		if got := h.value("a"); got != "" {
			t.Errorf("kept %q though it was to be forgotten", got)
		}
		for i := range 3 * maxHeld {
			h.fill(strconv.Itoa(i), emptyDraft(), url.Values{"client_secret": {"x"}})
		}
		if len(h.drafts) > maxHeld+1 {
			t.Errorf("%d drafts are kept", len(h.drafts))
		}
	})
}
