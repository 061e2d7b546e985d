package httphelper

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// TestMetricsNamedInDeploy looks for every metric that the dashboard, the alert rules and the
// documentation name, with its labels and their values.
func TestMetricsNamedInDeploy(t *testing.T) {
	real := realMetrics()
	name := regexp.MustCompile(`caddy_http_helper_[a-z_]+`)
	value := regexp.MustCompile(`(result|outcome)!?="([a-z_]+)"`)
	values := []string{"ok", string(oauth.ClassConfiguration), string(oauth.ClassOutage), "sent", "kept", "no_token", "refused", "replayed", "passed"}
	found := 0
	for _, file := range filesBelow(t, "deploy", "docs") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range name.FindAllString(string(text), -1) {
			found++
			if !slices.Contains(real, metric) {
				t.Errorf("%s names %s, which is not there", file, metric)
			}
		}
		for _, match := range value.FindAllStringSubmatch(strings.ReplaceAll(string(text), `\"`, `"`), -1) {
			if !slices.Contains(values, match[2]) {
				t.Errorf("%s names %s, which is not there", file, match[0])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d metrics are named", found)
	}
}

// describingRegistry collects the descriptions of what is registered.
type describingRegistry struct{ descriptions []*prometheus.Desc }

func (r *describingRegistry) Register(c prometheus.Collector) error {
	described := make(chan *prometheus.Desc, 10)
	c.Describe(described)
	close(described)
	for d := range described {
		r.descriptions = append(r.descriptions, d)
	}
	return nil
}

func (*describingRegistry) MustRegister(...prometheus.Collector) {}

func (*describingRegistry) Unregister(prometheus.Collector) bool { return false }

// realMetrics are the names of the series that there are.
func realMetrics() []string {
	registry := new(describingRegistry)
	_ = telemetry.Register(registry, tokenExpiries)
	fqName := regexp.MustCompile(`fqName: "([^"]*)"`)
	var names []string
	for _, description := range registry.descriptions {
		name := fqName.FindStringSubmatch(description.String())[1]
		names = append(names, name)
		if strings.HasSuffix(name, "_seconds") {
			names = append(names, name+"_bucket", name+"_sum", name+"_count")
		}
	}
	return names
}

func filesBelow(t *testing.T, roots ...string) []string {
	t.Helper()
	var files []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestOptionsAreDocumented looks for every option in the documentation.
func TestOptionsAreDocumented(t *testing.T) {
	connectors := documentation(t, "docs/connectors-and-connections.md")
	for _, names := range [][]string{
		slices.Sorted(maps.Keys(serviceOptions())), slices.Sorted(maps.Keys(connectorOptions)), slices.Sorted(maps.Keys(connectionOptions)), slices.Sorted(maps.Keys(parameterValueOptions)),
	} {
		wantDocumented(t, connectors, names)
	}
	wantDocumented(t, documentation(t, "docs/http_helper.md"), append(slices.Sorted(maps.Keys(policyOptions)), "name", "connections"))
	wantDocumented(t, connectors, oauth.MethodNames())
}

func documentation(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wantDocumented looks for names that begin a line of code.
func wantDocumented(t *testing.T, text string, names []string) {
	t.Helper()
	for _, name := range names {
		if !regexp.MustCompile("(?m)(`|^\\s*)" + name + "[ `]").MatchString(text) {
			t.Errorf("%s is not documented", name)
		}
	}
}

// TestAdminExamplesInDocs reads the documented answers as what they are answers of, with each field
// that such an answer has; one of them is a part.
func TestAdminExamplesInDocs(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^```json\n(.*?)^```$").FindAllStringSubmatch(documentation(t, "docs/operations.md"), -1)
	views := []any{new(healthView), new(connectionView), new(connectionView), new(pingView), new(pingView), new(formView)}
	if len(blocks) != len(views) {
		t.Fatalf("%d examples", len(blocks))
	}
	for i, block := range blocks {
		decoder := json.NewDecoder(strings.NewReader(block[1]))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(views[i]); err != nil {
			t.Errorf("%v in %s", err, block[1])
		}
		const part = 2
		if i == part {
			continue
		}
		again, err := json.Marshal(views[i])
		if err != nil {
			t.Fatal(err)
		}
		var documented, real any
		if err := errors.Join(json.Unmarshal([]byte(block[1]), &documented), json.Unmarshal(again, &real)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(documented, real) {
			t.Errorf("documented %v, real %v", documented, real)
		}
	}
}

// TestLogMessagesInDocs looks for the messages that the documentation explains in the sources, and
// the other way round.
func TestLogMessagesInDocs(t *testing.T) {
	_, section, _ := strings.Cut(documentation(t, "docs/operations.md"), "\n## Log messages\n")
	section, _, _ = strings.Cut(section, "\n## ")
	messages := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1)
	if len(messages) < 8 {
		t.Fatalf("only %d messages", len(messages))
	}
	for _, message := range messages {
		wantQuoted(t, message[1])
	}
	logged := regexp.MustCompile(`\.(?:Debug|Info|Warn|Error)\((?:"([^"]+)"|([a-z]+))`).FindAllStringSubmatch(sources(t), -1)
	if len(logged) < 8 {
		t.Fatalf("only %d messages are logged", len(logged))
	}
	for _, message := range logged {
		if text := strings.TrimRight(message[1], " ;"); !strings.Contains(section, text) {
			t.Errorf("%q is logged and not documented", text)
		}
	}
}

// TestSymptomsInDocs looks for the messages that the page for troubles quotes in the sources.
func TestSymptomsInDocs(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| ([^|]*`[^|]*) \\|").FindAllStringSubmatch(documentation(t, "docs/troubleshooting.md"), -1)
	quotes := 0
	for _, row := range rows {
		for _, quote := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			quotes++
			wantQuoted(t, quote[1])
		}
	}
	if quotes < 20 {
		t.Fatalf("only %d quotes", quotes)
	}
}

// fromElsewhere are quotes of what is not in our sources.
var fromElsewhere = []string{
	"Proxy-Status", "curl", "localhost", "address already in use",
	"Client sent an HTTP request to an HTTPS server", "unrecognized directive: http_helper", "unrecognized global option: http_helper",
	"starting caddy administration endpoint: …", "no such file or directory", "permission denied",
	"HTTP/2 skipped because it requires TLS", "admin endpoint on open interface; host checking disabled",
}

// putTogether are messages that are made of pieces, which `…` divides here.
var putTogether = map[string]string{
	"has no token at /access_token":                              "has no token at …/access_token",
	"cannot be reached: no such host":                            "cannot be reached: …no such host",
	"answered with status 401: check the client's credentials …": "answered with status …: check the client's credentials",
	"answered with status 404: check token_url":                  "answered with status …: check token_url",
	"answered with status 429":                                   "answered with status ",
	"base_url is http and its host is not loopback":              "base_url…is http and its host is not loopback",
}

// wantQuoted looks for a message in the sources, piece by piece where something is left out.
func wantQuoted(t *testing.T, message string) {
	t.Helper()
	if slices.Contains(fromElsewhere, message) {
		return
	}
	for text := range strings.SplitSeq(cmp.Or(putTogether[message], message), "…") {
		if text = strings.TrimSpace(text); !strings.Contains(sources(t), text) {
			t.Errorf("%q is said nowhere", text)
		}
	}
}

// sources are those of the plugin, without its tests.
func sources(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range append(files, filesBelow(t, "internal")...) {
		if strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") {
			all.WriteString(documentation(t, file))
		}
	}
	return all.String()
}
