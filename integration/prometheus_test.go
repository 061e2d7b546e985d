package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestAlerts has Prometheus check the alert rules and evaluate them, and follows the links to what is to be done.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := debianProgram(t, "promtool", "prometheus")
	rules := filepath.Join(harness.Root(), "deploy/prometheus/alerts.yaml")
	output(t, exec.Command(promtool, "check", "rules", rules))
	output(t, exec.Command(promtool, "test", "rules", "testdata/alerts.yaml"))

	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, For          string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readFile(t, rules)), &file); err != nil {
		t.Fatal(err)
	}
	tested, page, list := readFile(t, "testdata/alerts.yaml"), readShipped(t, "docs/operations.md"), readShipped(t, "docs/observability.md")
	for _, rule := range file.Groups[0].Rules {
		equal(t, "runbook of "+rule.Alert, rule.Annotations["runbook_url"], "https://"+pluginModule+"/blob/main/docs/operations.md#"+strings.ToLower(rule.Alert))
		for where, text := range map[string]string{"docs/operations.md": page, "testdata/alerts.yaml": tested} {
			if !strings.Contains(text, rule.Alert+"\n") {
				t.Errorf("%s does not have %s", where, rule.Alert)
			}
		}
		if row := fmt.Sprintf("| [%s](operations.md#%s) | %s |", rule.Alert, strings.ToLower(rule.Alert), rule.Labels["severity"]); !strings.Contains(list, row) {
			t.Errorf("docs/observability.md does not list %s", row)
		}
		if rule.For == "" {
			t.Errorf("%s fires at once", rule.Alert)
		}
	}
}

// TestDocumentedObjectives has Prometheus evaluate the recording rules of the documentation, and check the
// configuration beside them.
func TestDocumentedObjectives(t *testing.T) {
	t.Parallel()
	promtool := debianProgram(t, "promtool", "prometheus")
	dir := t.TempDir()
	for name, content := range map[string]string{
		"objectives.yaml":      documentedYAML(t, "docs/observability.md", "groups:\n"),
		"objectives_test.yaml": readFile(t, "testdata/objectives.yaml"),
		"prometheus.yaml":      documentedYAML(t, "docs/observability.md", "scrape_configs:\n"),
		"alerts.yaml":          deployedFile(t, "prometheus/alerts.yaml"),
	} {
		harness.WriteFile(t, filepath.Join(dir, name), content)
	}
	output(t, exec.Command(promtool, "check", "rules", filepath.Join(dir, "objectives.yaml")))
	output(t, exec.Command(promtool, "test", "rules", filepath.Join(dir, "objectives_test.yaml")))
	output(t, exec.Command(promtool, "check", "config", filepath.Join(dir, "prometheus.yaml")))
}

// TestMetricsThatAreShown: alerts and the dashboard use metrics that there are, and the dashboard shows each.
func TestMetricsThatAreShown(t *testing.T) {
	t.Parallel()
	ours := regexp.MustCompile(`caddy_http_helper_[a-z_]+`)
	documented := make(map[string]bool)
	for _, name := range ours.FindAllString(readShipped(t, "docs/observability.md"), -1) {
		documented[name] = true
	}
	dashboard := deployedFile(t, "grafana/http_helper.json")
	if !json.Valid([]byte(dashboard)) {
		t.Error("the dashboard is not JSON")
	}
	for _, name := range ours.FindAllString(dashboard+deployedFile(t, "prometheus/alerts.yaml"), -1) {
		if name = strings.TrimSuffix(name, "_bucket"); !documented[name] {
			t.Errorf("there is no metric %s", name)
		}
	}
	for name := range documented {
		if !strings.Contains(dashboard, name) && name != "caddy_http_helper_token_storage_degraded" { // which has an alert
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// TestScraping has a Prometheus scrape the sidecar of the example's pod, and nothing else, in each way that is shipped
// or documented. Debian's knows nothing of Kubernetes: it is told what discovery would have found.
func TestScraping(t *testing.T) {
	t.Parallel()
	prometheus := debianProgram(t, "prometheus", "prometheus")
	s := here(t, deployedFile(t, "kubernetes/example/Caddyfile"))
	s.provide(t)
	s.Run(t, harness.Config{Whole: s.caddyfile})
	s.probe(t, "http://"+s.health+"/live")
	_, port, _ := net.SplitHostPort(s.health)
	const discovery = "kubernetes_sd_configs:\n      - role: pod\n"
	for name, config := range map[string]string{
		"PodMonitor":    operatorConfig(t),
		"configuration": deployedFile(t, "prometheus/scrape.yaml"),
		"annotations":   annotationsConfig,
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(config, discovery) {
				t.Fatalf("nothing is discovered:\n%s", config)
			}
			config = strings.ReplaceAll(config, discovery, "file_sd_configs:\n      - files: ["+discovered(t, examplePod(t, port), port)+"]\n")
			dir := t.TempDir()
			harness.WriteFile(t, filepath.Join(dir, "prometheus.yaml"), "global: {scrape_interval: 1s}\n"+config)
			address := "127.0.0.1:" + harness.FreePort(t)
			p := harness.Background(t, exec.Command(prometheus, "--config.file="+dir+"/prometheus.yaml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+address))
			var got []target
			eventually(t, "Prometheus scrapes the sidecar", func() bool {
				select {
				case <-p.Exited():
					t.Fatal(p.Logs())
				default:
				}
				got = targets(address)
				return len(got) > 0 && got[0].Health != "unknown"
			})
			equal(t, "targets", fmt.Sprint(got), fmt.Sprint([]target{{Health: "up", ScrapeURL: "http://" + s.health + "/metrics"}}))
		})
	}
}

// target is what Prometheus scrapes.
type target struct{ Health, ScrapeURL string }

func targets(address string) []target {
	response, err := http.Get("http://" + address + "/api/v1/targets?state=active")
	if err != nil {
		return nil // not yet
	}
	defer response.Body.Close()
	var result struct {
		Data struct{ ActiveTargets []target }
	}
	if json.NewDecoder(response.Body).Decode(&result) != nil {
		return nil
	}
	return result.Data.ActiveTargets
}

// operatorConfig is what the Prometheus operator makes of the PodMonitor.
func operatorConfig(t *testing.T) string {
	t.Helper()
	var monitor struct {
		Spec struct {
			NamespaceSelector struct{ Any bool } `yaml:"namespaceSelector"`
			Selector          struct {
				MatchLabels map[string]string `yaml:"matchLabels"`
			}
			Endpoints []struct{ Port, Path string } `yaml:"podMetricsEndpoints"`
		}
	}
	if err := yaml.Unmarshal([]byte(deployedFile(t, "prometheus/podmonitor.yaml")), &monitor); err != nil {
		t.Fatal(err)
	}
	equal(t, "all namespaces", monitor.Spec.NamespaceSelector.Any, true)
	endpoint := monitor.Spec.Endpoints[0]
	config := "scrape_configs:\n  - job_name: podMonitor/monitoring/http-helper/0\n    metrics_path: " + endpoint.Path +
		"\n    kubernetes_sd_configs:\n      - role: pod\n    relabel_configs:\n"
	for label, value := range monitor.Spec.Selector.MatchLabels {
		name := notInLabel.ReplaceAllString(label, "_")
		config += fmt.Sprintf("      - {action: keep, source_labels: [__meta_kubernetes_pod_label_%s, __meta_kubernetes_pod_labelpresent_%[1]s], regex: (%s);true}\n", name, value)
	}
	return config + "      - {action: keep, source_labels: [__meta_kubernetes_pod_container_port_name], regex: " + endpoint.Port + "}\n"
}

// annotationsConfig is the usual configuration for annotations, as in Prometheus's own examples and its Helm chart.
const annotationsConfig = `scrape_configs:
  - job_name: kubernetes-pods
    kubernetes_sd_configs:
      - role: pod
    relabel_configs:
      - {action: keep, source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: true}
      - {action: replace, source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], target_label: __metrics_path__, regex: (.+)}
      - {action: replace, source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port], regex: '([^:]+)(?::\d+)?;(\d+)', replacement: '$1:$2', target_label: __address__}
`

// examplePod is the pod of the example, on this machine, with a port of the app, which is not to be scraped.
func examplePod(t *testing.T, port string) pod {
	t.Helper()
	template := only(t, "Deployment", renderKustomize(t)).template()
	pod := template.Spec
	pod.labels = template.Metadata.Labels
	equal(t, "port of the sidecar", pod.Init[0].Ports[0].Number, 8081)
	pod.Init[0].Ports[0].Number, _ = strconv.Atoi(port)
	pod.Containers[0].Ports = []containerPort{{Name: "http", Number: 3000}}
	return pod
}

// documentedAnnotations are those of the documentation, with the port of this machine.
func documentedAnnotations(t *testing.T, port string) map[string]string {
	t.Helper()
	var documented struct{ Annotations map[string]string }
	if err := yaml.Unmarshal([]byte(documentedYAML(t, "docs/observability.md", "annotations:\n")), &documented); err != nil {
		t.Fatal(err)
	}
	equal(t, "documented port", documented.Annotations["prometheus.io/port"], "8081")
	documented.Annotations["prometheus.io/port"] = port
	return documented.Annotations
}

// discovered writes what Prometheus's discovery finds in a pod, with the labels that its documentation names
// (kubernetes_sd_config, role pod): each port of each container, init containers included.
func discovered(t *testing.T, pod pod, port string) (file string) {
	t.Helper()
	common := map[string]string{"__meta_kubernetes_namespace": "shop", "__meta_kubernetes_pod_name": "app-1", "__meta_kubernetes_pod_phase": "Running"}
	for kind, values := range map[string]map[string]string{"label": pod.labels, "annotation": documentedAnnotations(t, port)} {
		for name, value := range values {
			name = notInLabel.ReplaceAllString(name, "_")
			common["__meta_kubernetes_pod_"+kind+"_"+name] = value
			common["__meta_kubernetes_pod_"+kind+"present_"+name] = "true"
		}
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	var groups []group
	for i, c := range slices.Concat(pod.Containers, pod.Init) {
		for _, p := range c.Ports {
			labels := maps.Clone(common)
			labels["__meta_kubernetes_pod_container_name"] = c.Name
			labels["__meta_kubernetes_pod_container_init"] = strconv.FormatBool(i >= len(pod.Containers))
			labels["__meta_kubernetes_pod_container_port_name"] = p.Name
			groups = append(groups, group{[]string{fmt.Sprintf("127.0.0.1:%d", p.Number)}, labels})
		}
	}
	content, err := json.Marshal(groups)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "targets.json")
	harness.WriteFile(t, file, string(content))
	return file
}

var notInLabel = regexp.MustCompile("[^a-zA-Z0-9_]")

// TestOperatorFilesAreValid checks the PodMonitor and the PrometheusRule against the operator's own definitions.
func TestOperatorFilesAreValid(t *testing.T) {
	t.Parallel()
	definitions := t.TempDir()
	operator := goModuleDir(t, "github.com/prometheus-operator/prometheus-operator@v0.79.2")
	for _, kind := range []string{"podmonitors", "prometheusrules"} {
		file := "monitoring.coreos.com_" + kind + ".yaml"
		harness.WriteFile(t, filepath.Join(definitions, file), readFile(t, filepath.Join(operator, "example/prometheus-operator-crd", file)))
	}
	for name, required := range map[string]string{"podmonitor.yaml": "podMetricsEndpoints", "prometheusrule.yaml": "expr"} {
		manifest := deployedFile(t, "prometheus/"+name)
		if out, err := validateManifests(t, manifest, "1.30", "--local-crds", definitions); err != nil {
			t.Error(out)
		}
		wrong := strings.Replace(manifest, required+":", "wrong:", 1)
		if _, err := validateManifests(t, wrong, "1.30", "--local-crds", definitions); err == nil {
			t.Errorf("%s passes with a mistake", name)
		}
	}
}

// TestPrometheusRule compares the operator's alert rules with Prometheus's, which are the ones that are tested. To make
// them equal again, copy the groups and indent them: sed 's/^./  &/'.
func TestPrometheusRule(t *testing.T) {
	t.Parallel()
	_, rules, _ := strings.Cut(deployedFile(t, "prometheus/alerts.yaml"), "groups:\n")
	_, copied, _ := strings.Cut(deployedFile(t, "prometheus/prometheusrule.yaml"), "spec:\n  groups:\n")
	if copied == "" || copied != regexp.MustCompile("(?m)^.").ReplaceAllString(rules, "  $0") {
		t.Error("prometheusrule.yaml has other groups than alerts.yaml")
	}
}

// TestFilesForTheOperator has the files that the documented commands apply be there.
func TestFilesForTheOperator(t *testing.T) {
	t.Parallel()
	files := regexp.MustCompile(`--(?:filename|from-file) (\S+)`).FindAllStringSubmatch(documented(t, "docs/observability.md", "kubectl apply "), -1)
	equal(t, "files", len(files), 3)
	for _, file := range files {
		readShipped(t, file[1])
	}
}
