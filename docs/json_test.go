package docs_test

import (
	"encoding/json"
	"reflect"
	"regexp"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var caddyfileAndJSON = regexp.MustCompile("(?ms)^```caddyfile\n([^`]*?)^```$(?:[^`]|`[^`]+`)*?^```json\n(.*?)^```$")

// TestJSONInREADME compares the JSON beside a Caddyfile with what Caddy makes of it.
func TestJSONInREADME(t *testing.T) {
	shown := caddyfileAndJSON.FindStringSubmatch(readDocument(t, "README.md"))
	if shown == nil {
		t.Fatal("README.md shows no JSON beside a Caddyfile")
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(shown[1]), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal([]byte(shown[2]), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(adapted, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("README.md shows other JSON than %s", adapted)
	}
}
