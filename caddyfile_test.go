package httphelper

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var updateGoldens = flag.Bool("update", false, "write the JSON of adapted Caddyfiles into integration/testdata/adapt")

const goldenSeparator = "----------\n"

// adapt turns a Caddyfile into indented JSON, as `caddy adapt --pretty` does.
func adapt(caddyfile string) (string, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		return "", err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, adapted, "", "\t"); err != nil {
		return "", err
	}
	return pretty.String() + "\n", nil
}

// TestCaddyfile compares what the Caddyfiles in integration/testdata/adapt adapt to with the JSON below
// each of them. An integration test does the same with the program.
func TestCaddyfile(t *testing.T) {
	files, err := filepath.Glob("integration/testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding goldens: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, _ := strings.Cut(string(content), goldenSeparator)
			got, err := adapt(caddyfile)
			if err != nil {
				t.Fatalf("adapting: %v", err)
			}
			if *updateGoldens {
				if err := os.WriteFile(file, []byte(caddyfile+goldenSeparator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func checkAdaptError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatal("adapting succeeded, but should fail")
	}
	for _, part := range strings.Split(strings.TrimSpace(want), "\n") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is\n%v\nbut should contain\n%s", err, part)
		}
	}
}
