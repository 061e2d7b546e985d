package integration

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// composeWithRedis is the compose file with Redis on top, as the library of Docker Compose reads them.
func composeWithRedis(t *testing.T) (services map[string]redisService) {
	t.Helper()
	dir := filepath.Join(harness.Root(), "deploy/compose")
	out := output(t, composeCheck.command(t, filepath.Join(dir, "compose.yaml"), filepath.Join(dir, "redis.yaml")))
	var project struct{ Services map[string]redisService }
	if err := yaml.Unmarshal([]byte(out), &project); err != nil {
		t.Fatal(err)
	}
	return project.Services
}

// redisService is what the tests look at in a service beside Redis.
type redisService struct {
	composeService `yaml:",inline"`
	User           string
	Command        []string
	Build          struct{ Args map[string]string }
	Volumes        []struct{ Source, Target string }
}

// TestComposeWithRedis has Redis run by the command of the compose file, and the sidecar by the Caddyfile that it
// mounts, but for addresses and paths. The sidecar's token is in Redis then, and Redis wants the password.
func TestComposeWithRedis(t *testing.T) {
	t.Parallel()
	services := composeWithRedis(t)
	sidecar, server, app := services["http-helper"], services["redis"], services["app"]
	equal(t, "plugin", sidecar.Build.Args["WITH"], "github.com/pberkel/caddy-storage-redis@v1.8.1")
	equal(t, "mounts", len(sidecar.Volumes), 1)
	equal(t, "Caddyfile", filepath.Base(sidecar.Volumes[0].Source)+" "+sidecar.Volumes[0].Target, "Caddyfile.redis /etc/http_helper/Caddyfile")
	equal(t, "secrets of the sidecar", secretsOf(sidecar), "[client_secret redis_password token_key]")
	equal(t, "secrets of Redis", secretsOf(server), "[redis_password]")
	equal(t, "secrets of the app", secretsOf(app), "[]")
	equal(t, "user of Redis", server.User, "65532:65532")
	equal(t, "ports of Redis", fmt.Sprint(server.Ports), "[]")

	port := harness.FreePort(t)
	s := here(t, deployedFile(t, "compose/Caddyfile.redis"))
	s.caddyfile = strings.Replace(s.caddyfile, "host redis", "host 127.0.0.1\nport "+port, 1)
	s.provide(t)
	harness.WriteFile(t, filepath.Join(s.Dir, "secrets", "token_key"), strings.Repeat("0f", 32)+"\n")
	harness.WriteFile(t, filepath.Join(s.Dir, "secrets", "redis_password"), "of-redis\n")

	command := strings.NewReplacer("/run/secrets", filepath.Join(s.Dir, "secrets"), "save \"\"", "save \"\"\nport "+port+"\nbind 127.0.0.1").Replace(server.Command[2])
	r := harness.Background(t, exec.Command(server.Command[0], server.Command[1], command))
	eventually(t, "Redis accepts connections", func() bool { return strings.Contains(r.Logs(), "Ready to accept connections") })

	s.Run(t, harness.Config{Whole: s.caddyfile})
	s.wantToken(t)
	eventually(t, "the token is in Redis", func() bool {
		return strings.Contains(redisKeys(t, port, "of-redis"), "http_helper/tokens/")
	})
	if got := redisKeys(t, port, "wrong"); strings.Contains(got, "http_helper") {
		t.Errorf("without the password: %s", got)
	}
	equal(t, "shared state", sharedState(t, s.Sidecar), "on")
	_, text, err := s.Admin(http.MethodGet, "/config/", "", "")
	if err != nil || strings.Contains(text, "of-redis") {
		t.Errorf("the configuration shows the password: %v %s", err, text)
	}
	if strings.Contains(s.Logs(), "of-redis") {
		t.Error("the log shows the password")
	}
}

func secretsOf(s redisService) string {
	var names []string
	for _, secret := range s.Secrets {
		names = append(names, secret.Source)
	}
	return fmt.Sprint(slices.Sorted(slices.Values(names)))
}

func redisKeys(t *testing.T, port, password string) string {
	t.Helper()
	out, err := exec.Command("redis-cli", "-p", port, "-a", password, "--no-auth-warning", "keys", "*").CombinedOutput()
	if err != nil {
		t.Log(err)
	}
	return string(out)
}
