package forward

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// TestHangingTargetHoldsNobodyUp: a file of a network file system may hang, whatever the context says.
func TestHangingTargetHoldsNobodyUp(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	l := &LazyTarget{
		Resolve:      func(context.Context) (*Target, error) { <-hang; return nil, errors.New("too late") },
		CurrentToken: func() *oauth.Token { return nil },
		Timeout:      10 * time.Millisecond,
	}
	for range 2 { // the second one is in the back-off
		_, err := l.Get(t.Context())
		if failed := oauth.AsError(err); failed.Status != http.StatusGatewayTimeout {
			t.Errorf("%v, status %d", err, failed.Status)
		}
	}
}

func TestPanickingTarget(t *testing.T) {
	l := &LazyTarget{
		Resolve:      func(context.Context) (*Target, error) { panic("bug") },
		CurrentToken: func() *oauth.Token { return nil },
		Timeout:      time.Minute,
	}
	if _, err := l.Get(t.Context()); err == nil {
		t.Error("no error")
	}
}
