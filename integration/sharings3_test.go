package integration

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestSharingInS3: a second sidecar continues with the token of the first one, which leaves a record and no lock in
// the bucket.
func TestSharingInS3(t *testing.T) {
	t.Parallel()
	program := harness.CaddyWithS3(t)
	bucket := s3mem.New()
	if err := bucket.CreateBucket("my-tokens"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(bucket).Server())
	t.Cleanup(server.Close)
	f := newFleet(t, 2, "s3 {\nendpoint "+server.URL+"\nbucket my-tokens\nprefix http_helper\naccess_key id\nsecret_key s3cret\n}")
	f.timeout = patient
	for _, replica := range f.replicas {
		config := f.config(options{})
		config.Program = program
		replica.Run(t, config)
		if failed := call(t, replica); failed != nil {
			t.Fatal(failed)
		}
		equal(t, "token requests", f.tokens.Count(), 1)
		equal(t, "state", sharedState(t, replica), "on")
		eventually(t, "a record in the bucket", func() bool {
			objects, err := bucket.ListBucket("my-tokens", nil, gofakes3.ListBucketPage{})
			return err == nil && len(objects.Contents) == 1 && strings.HasPrefix(objects.Contents[0].Key, "http_helper/http_helper/tokens/")
		})
	}
}
