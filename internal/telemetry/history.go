package telemetry

import (
	"slices"
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// MaxHistory is how many of the last events of a connection are kept.
const MaxHistory = 50

// Kind is what happened to a connection.
type Kind uint8

// The kinds of events.
const (
	TokenObtained Kind = iota
	TokenAdopted
	TokenFailed
	TokenRejected
	RequestRefused
)

var kinds = [...]string{TokenObtained: "obtained", TokenAdopted: "adopted", TokenFailed: "failed", TokenRejected: "rejected", RequestRefused: "refused"}

// String returns the kind as the admin API names it.
func (k Kind) String() string { return kinds[k] }

// Past is an event of the history of a connection, small because there may be many.
type Past struct {
	At       time.Time
	Code     string        // the OAuth error code; "": none
	Duration time.Duration // of a token request
	Count    uint32        // refused requests
	Status   uint16        // of the token endpoint, of the API, or that the app got; 0: not known
	Kind     Kind
}

// history is what has happened to a connection lately. Nothing is allocated before something has.
type history struct {
	mu      sync.Mutex
	events  []Past // the oldest first, until they are MaxHistory: then next is the oldest
	next    int
	refused []Past // one for each status, so that many refusals push no other event out
}

func (h *history) add(p Past) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) < MaxHistory {
		h.events = append(h.events, p)
		return
	}
	h.events[h.next] = p
	h.next = (h.next + 1) % MaxHistory
}

// refuse adds a refused request to those with the same status.
func (h *history) refuse(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.refused, func(p Past) bool { return int(p.Status) == status })
	if i < 0 {
		i = len(h.refused)
		h.refused = append(h.refused, Past{Kind: RequestRefused, Status: uint16(status)}) //nolint:gosec // G115: statuses have three digits
	}
	h.refused[i].At = time.Now()
	h.refused[i].Count++
}

// History returns the last events of the connection, the newest first, at most MaxHistory.
func (c *Connection) History() []Past {
	c.history.mu.Lock()
	events := slices.Concat(c.history.events, c.history.refused)
	c.history.mu.Unlock()
	slices.SortStableFunc(events, func(a, b Past) int { return b.At.Compare(a.At) })
	return events[:min(len(events), MaxHistory)]
}

// pastOf returns the event of a token for the history.
func pastOf(event token.Event) Past {
	p := Past{At: event.At, Duration: event.Duration, Status: uint16(event.Status), Count: 1} //nolint:gosec // G115: statuses have three digits
	switch {
	case event.Rejected:
		p.Kind = TokenRejected
	case event.Adopted:
		p.Kind = TokenAdopted
	case event.Err != nil:
		p.Kind, p.Code = TokenFailed, event.Err.Code
	}
	return p
}
