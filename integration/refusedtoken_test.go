package integration

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestARefusalByStatusAlone has token endpoints that refuse without a code of OAuth, because token_url or
// the credentials are wrong. What worked before with the same credentials is an outage instead (rule 11).
func TestARefusalByStatusAlone(t *testing.T) {
	t.Parallel()
	const mistake, outage = http.StatusBadGateway, http.StatusServiceUnavailable
	refusals := []struct {
		name          string
		response      http.Handler
		never, worked int // the app's status if there never was a token, and if there was one
	}{
		{"not found", harness.Status(http.StatusNotFound), mistake, outage},
		{"wrong method", harness.Status(http.StatusMethodNotAllowed), mistake, outage},
		{"gone", harness.Status(http.StatusGone), mistake, outage},
		{"bare 400", harness.Status(http.StatusBadRequest), mistake, outage},
		{"bare 401", harness.Status(http.StatusUnauthorized), mistake, outage},
		{"a page", harness.Reply(http.StatusForbidden, "<html>no</html>"), mistake, outage},
		{"a code of its own", harness.Refuse(http.StatusBadRequest, "E1234"), mistake, outage},
		{"a known code", harness.Refuse(http.StatusBadRequest, "invalid_client"), mistake, mistake},
		{"too many requests", harness.Status(http.StatusTooManyRequests), outage, outage},
		{"timeout", harness.Status(http.StatusRequestTimeout), outage, outage},
		{"400, unavailable", harness.Refuse(http.StatusBadRequest, "temporarily_unavailable"), outage, outage},
		{"403, a server error", harness.Refuse(http.StatusForbidden, "server_error"), outage, outage},
	}
	errorTypes := map[int]string{mistake: "proxy_configuration_error", outage: "proxy_internal_error"}
	connections := slices.Repeat([]string{"client_id app\nclient_secret {env.SECRET}"}, len(refusals))
	never := startConnections(t, connections, func(number int) http.Handler { return refusals[number].response })
	var refuse atomic.Bool
	var worked *world
	worked = startConnections(t, connections, func(number int) http.Handler {
		if refuse.Load() {
			return refusals[number].response
		}
		return worked.tokens.Grant(time.Second)
	})
	for i := range refusals {
		wantStatus(t, worked.Get(t, fmt.Sprintf("/%d/x", i)), http.StatusOK)
	}
	refuse.Store(true)
	for i, refusal := range refusals {
		t.Run(refusal.name, func(t *testing.T) {
			path := fmt.Sprintf("/%d/x", i)
			wantSidecarError(t, never.Get(t, path), refusal.never, errorTypes[refusal.never])
			eventually(t, "the end of the token", func() bool { return worked.try(path).status != http.StatusOK })
			wantSidecarError(t, worked.Get(t, path), refusal.worked, errorTypes[refusal.worked])
		})
	}
}
