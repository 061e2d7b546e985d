package console

import (
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// maxHeld is how many drafts of a session may have secrets. One more lets the oldest one's go.
const maxHeld = 16

// held are the secrets that somebody has typed into the drafts of a session. A page never gets them back,
// so that they wait here for the next request of the same draft: until it is saved, or nobody has worked on
// it for a while.
type held struct {
	mu     sync.Mutex
	drafts []*heldDraft // the one that was used last at the end
}

// heldDraft are the secrets of one draft, by the ID of their field.
type heldDraft struct {
	id      string
	secrets map[string]string
	used    time.Time
}

// fill stores the secrets of a form, and gives a draft those that the form left empty. It returns the IDs
// of the fields whose secrets are kept.
func (h *held) fill(id string, d *draft.Draft, form url.Values) (kept map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.find(id)
	kept = make(map[string]bool)
	for i := range d.Fields {
		field := &d.Fields[i]
		if field.Type != adminapi.TypePassword {
			continue
		}
		if typed := form.Get(field.ID()); typed != "" {
			one.secrets[field.ID()] = typed
		}
		field.Value = one.secrets[field.ID()]
		kept[field.ID()] = field.Value != ""
	}
	return kept
}

// find returns the secrets of a draft, which are none at first, and lets those go that nobody has used
// for a while.
func (h *held) find(id string) *heldDraft {
	now := time.Now()
	found := &heldDraft{id: id, secrets: make(map[string]string)}
	var others []*heldDraft
	for _, one := range h.drafts {
		switch {
		case one.id == id && clock.Elapsed(one.used, now) < IdleLimit:
			found = one
		case one.id != id && clock.Elapsed(one.used, now) < IdleLimit:
			others = append(others, one)
		}
	}
	found.used = now
	if len(others) >= maxHeld {
		others = others[1:]
	}
	h.drafts = append(others, found)
	return found
}

// forget lets the secrets of a draft go.
func (h *held) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.find(id)
	h.drafts = h.drafts[:len(h.drafts)-1]
}

// heldOf returns the secrets of the request's session.
func heldOf(r *http.Request) *held { return &r.Context().Value(sessionKey{}).(*session).held }
