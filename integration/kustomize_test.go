package integration

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// kustomization is a directory with apps, and the component beside them.
type kustomization string

func newKustomization(t *testing.T) kustomization {
	t.Helper()
	dir := t.TempDir()
	for _, component := range []string{"component", "shared-tokens"} {
		if err := os.CopyFS(filepath.Join(dir, component), os.DirFS(filepath.Join(harness.Root(), "deploy/kubernetes", component))); err != nil {
			t.Fatal(err)
		}
	}
	return kustomization(dir)
}

// add writes a file, with the directory that it is in.
func (k kustomization) add(t *testing.T, name, content string) {
	t.Helper()
	file := filepath.Join(string(k), name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, file, content)
}

// addApp writes an app's kustomization as the documentation has it, with names of the app's own.
func (k kustomization) addApp(t *testing.T, app, manifests string) {
	t.Helper()
	files := documentedKustomization(t)
	k.add(t, app+"/kustomization.yaml", strings.ReplaceAll(files[0], "orders", app))
	k.add(t, app+"/http-helper.yaml", strings.ReplaceAll(files[1], "orders", app))
	k.add(t, app+"/app.yaml", manifests)
	k.add(t, app+"/Caddyfile", "# of "+app+"\n")
}

func (k kustomization) build(t *testing.T, dir string) (string, error) {
	t.Helper()
	out, err := kustomize.command(t, "build", filepath.Join(string(k), dir)).CombinedOutput()
	return string(out), err
}

// documentedKustomization are the two files of the documentation, kustomization.yaml and http-helper.yaml.
func documentedKustomization(t *testing.T) [2]string {
	t.Helper()
	const page = "docs/kubernetes.md"
	return [2]string{documentedYAML(t, page, "namespace: shop[^\n]*\nresources:\n  - app.yaml\n"), documentedYAML(t, page, "apiVersion: http-helper/v1\n")}
}

// documentedYAML is the block of YAML in a document that begins with a text.
func documentedYAML(t *testing.T, file, begin string) string {
	t.Helper()
	block := regexp.MustCompile("(?ms)^```yaml\n(" + begin + ".*?)^```$").FindStringSubmatch(readShipped(t, file))
	if block == nil {
		t.Fatalf("%s has no YAML that begins with %q", file, begin)
	}
	return block[1]
}

// TestDocumentedKustomization adds the component to an app with the files of the documentation.
func TestDocumentedKustomization(t *testing.T) {
	t.Parallel()
	k := newKustomization(t)
	k.addApp(t, "orders", deployedFile(t, "kubernetes/example/app.yaml"))
	manifests, err := k.build(t, "orders")
	if err != nil {
		t.Fatal(manifests)
	}
	wantValid(t, manifests)
	wantSidecarApart(t, manifests)
	for _, want := range []string{"# of orders", "image: registry.example.com/http-helper:0.1.0"} {
		if !strings.Contains(manifests, want) {
			t.Errorf("the manifests lack %q:\n%s", want, manifests)
		}
	}
	look, _, _ := strings.Cut(documented(t, "docs/kubernetes.md", "kubectl kustomize . "), "\n")
	cmd := exec.Command("sh", "-ec", "kubectl() { shift; "+kustomize.command(t).Path+" build \"$@\"; }\n"+look)
	cmd.Dir = filepath.Join(string(k), "orders")
	shown := output(t, cmd)
	equal(t, "lines about the sidecar", strings.Count(shown, "name: http-helper-run\n"), 2)
	names := regexp.MustCompile(`name: orders-http-helper-\w+\n`).FindAllString(shown, -1)
	equal(t, "names of the ConfigMap", len(names), 2)
	equal(t, "they differ", len(slices.Compact(names)), 1)
	if !strings.Contains(shown, "image: registry.example.com/http-helper:0.1.0\n") {
		t.Errorf("it lacks the image:\n%s", shown)
	}
	if strings.Contains(manifests, "HttpHelper") {
		t.Errorf("the manifests have what the cluster does not know:\n%s", manifests)
	}
}

// TestDocumentedPatch adapts the sidecar with the patch of the documentation: one port takes the other's place, and what
// the patch does not name stays.
func TestDocumentedPatch(t *testing.T) {
	t.Parallel()
	k := newKustomization(t)
	k.addApp(t, "orders", deployedFile(t, "kubernetes/example/app.yaml"))
	before, err := k.build(t, "orders")
	if err != nil {
		t.Fatal(before)
	}
	k.add(t, "orders/kustomization.yaml", documentedKustomization(t)[0]+documentedYAML(t, "docs/kubernetes.md", "patches:\n"))
	after, err := k.build(t, "orders")
	if err != nil {
		t.Fatal(after)
	}
	wantValid(t, after)
	want, got := sidecarOf(t, before), sidecarOf(t, after)
	equal(t, "variables", fmt.Sprint(got.Env), "[{HTTPS_PROXY http://proxy.example:3128}]")
	equal(t, "ports", fmt.Sprint(got.Ports), "[{http-helper 8181}]")
	equal(t, "readiness", fmt.Sprint(got.Readiness), "{{/live http-helper}}")
	equal(t, "CPU", got.Resources.Requests["cpu"], "100m")
	got.Env, got.Ports, got.Readiness = want.Env, want.Ports, want.Readiness
	got.Resources.Requests["cpu"] = want.Resources.Requests["cpu"]
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the rest is\n%+v\nand not\n%+v", got, want)
	}
}

// workload is a manifest whose pod has an init container, a volume and perhaps a group of its own.
func workload(kind, name, labels, podSecurity string) string {
	version, spec := "apps/v1", "selector: {matchLabels: {app: "+name+"}}\n  template:"
	switch kind {
	case "Job":
		version, spec = "batch/v1", "template:"
	case "CronJob":
		version, spec = "batch/v1", "schedule: '@daily'\n  jobTemplate: {spec: {template:"
	}
	text := fmt.Sprintf(`---
apiVersion: %s
kind: %s
metadata: {name: %s, labels: {%s}}
spec:
  %s {metadata: {labels: {app: %[3]s}}, spec: {restartPolicy: Never, automountServiceAccountToken: false, securityContext: {%[6]s},
    initContainers: [{name: migrate, image: app}], containers: [{name: app, image: app}], volumes: [{name: data, emptyDir: {}}]}}`,
		version, kind, name, labels, spec, podSecurity)
	if kind == "CronJob" {
		text += "}}"
	}
	if kind != "Job" && kind != "CronJob" {
		text = strings.Replace(text, "restartPolicy: Never", "restartPolicy: Always", 1)
	}
	return text + "\n"
}

const (
	sidecarLabel = "http-helper.sidecar: enabled"
	ownGroup     = sidecarLabel + ", http-helper.fs-group: own"
)

// TestKustomizeWorkloads adds the sidecar to every kind of workload, of two apps in one namespace.
func TestKustomizeWorkloads(t *testing.T) {
	t.Parallel()
	k := newKustomization(t)
	k.addApp(t, "orders", workload("Deployment", "orders", sidecarLabel, "")+workload("CronJob", "orders-nightly", sidecarLabel, "")+
		workload("Deployment", "orders-cache", "app: cache", ""))
	k.addApp(t, "billing", workload("StatefulSet", "billing", ownGroup, "fsGroup: 1000")+workload("DaemonSet", "billing-agent", sidecarLabel, "")+
		workload("Job", "billing-once", sidecarLabel, "")+workload("CronJob", "billing-nightly", ownGroup, "fsGroup: 1000"))
	k.add(t, "kustomization.yaml", "namespace: shop\nresources: [orders, billing]\n")
	text, err := k.build(t, ".")
	if err != nil {
		t.Fatal(text)
	}
	wantValid(t, text)
	groups := map[string]int{"billing": 1000, "billing-nightly": 1000}
	var first container
	for _, m := range parseManifests(t, text) {
		template := m.template()
		switch {
		case m.Kind == "ConfigMap":
			continue
		case m.Metadata.Name == "orders-cache":
			equal(t, "label of the pod without", template.Metadata.Labels["http-helper.sidecar"], "")
			equal(t, "init containers of the pod without", len(template.Spec.Init), 1)
			continue
		}
		t.Run(m.Metadata.Name, func(t *testing.T) {
			equal(t, "label of the pods", template.Metadata.Labels["http-helper.sidecar"], "enabled")
			equal(t, "group", template.Spec.SecurityContext.FSGroup, cmp.Or(groups[m.Metadata.Name], 65532))
			wantNames(t, template.Spec, strings.Split(m.Metadata.Name, "-")[0])
			// The app's own init containers can use the sidecar.
			equal(t, "init containers", template.Spec.Init[0].Name+" "+template.Spec.Init[1].Name, "http-helper migrate")
			if first.Name == "" {
				first = template.Spec.Init[0]
			}
			if sidecar := template.Spec.Init[0]; !reflect.DeepEqual(sidecar, first) {
				t.Errorf("the sidecar is\n%+v\nand not as elsewhere\n%+v", sidecar, first)
			}
		})
	}
}

// wantNames checks whose ConfigMap and Secret the sidecar has.
func wantNames(t *testing.T, pod pod, app string) {
	t.Helper()
	names := map[string]string{}
	for _, v := range pod.Volumes {
		switch {
		case v.ConfigMap != nil:
			names["config"] = v.ConfigMap.Name
		case v.Projected != nil:
			names["secret"] = v.Projected.Sources[0].Secret.Name
		}
	}
	equal(t, "secret", names["secret"], app+"-api-client")
	// A hash of the content is behind it.
	if !strings.HasPrefix(names["config"], app+"-http-helper-") {
		t.Errorf("the configuration is %s", names["config"])
	}
}

// shareTokens adds the component for shared tokens to an app, with more lines of its HttpHelper.
func (k kustomization) shareTokens(t *testing.T, app, more string) {
	t.Helper()
	files := documentedKustomization(t)
	k.add(t, app+"/kustomization.yaml", strings.ReplaceAll(strings.Replace(files[0], "  - ../component\n", "  - ../component\n  - ../shared-tokens\n", 1), "orders", app))
	k.add(t, app+"/http-helper.yaml", strings.ReplaceAll(files[1], "orders", app)+more)
}

// TestKustomizeSharedTokens gives the sidecar of every kind of workload a second Secret, and the app none.
func TestKustomizeSharedTokens(t *testing.T) {
	t.Parallel()
	k := newKustomization(t)
	var workloads string
	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"} {
		workloads += workload(kind, "orders-"+strings.ToLower(kind), sidecarLabel, "")
	}
	k.addApp(t, "orders", workloads+workload("Deployment", "orders-cache", "app: cache", ""))
	k.shareTokens(t, "orders", "sharedTokensSecret: shared-tokens\n")
	text, err := k.build(t, "orders")
	if err != nil {
		t.Fatal(text)
	}
	wantValid(t, text)
	for _, m := range parseManifests(t, text) {
		if m.Kind == "ConfigMap" {
			continue
		}
		want := 1
		if m.Metadata.Name == "orders-cache" {
			want = 0
		}
		equal(t, m.Metadata.Name+": second secrets", wantSharedSecret(t, m.template().Spec), want)
	}

	k.shareTokens(t, "orders", "")
	if out, err := k.build(t, "orders"); err == nil || !strings.Contains(out, "sharedTokensSecret") {
		t.Errorf("without sharedTokensSecret: %v, %s", err, out)
	}
}

// wantSharedSecret returns how often a pod has the Secret for shared tokens, which only the sidecar may mount.
func wantSharedSecret(t *testing.T, pod pod) (found int) {
	t.Helper()
	for _, v := range pod.Volumes {
		if v.Name != "http-helper-shared" {
			continue
		}
		found++
		equal(t, "mode", v.Projected.DefaultMode, 0o440)
		equal(t, "secret", v.Projected.Sources[0].Secret.Name, "shared-tokens")
		equal(t, "number of secrets", len(v.Projected.Sources), 1)
		mounts := 0
		for _, c := range append(pod.Init, pod.Containers...) {
			for _, mount := range c.VolumeMounts {
				if mount.Name == v.Name {
					mounts++
					equal(t, "mounted by", c.Name, "http-helper")
					equal(t, "mount", fmt.Sprint(mount), "{http-helper-shared /run/secrets/http_helper_shared  true}")
				}
			}
		}
		equal(t, "mounts", mounts, 1)
	}
	return found
}

// TestKustomizeMistakes has the build fail where the sidecar would be missing or would not start.
func TestKustomizeMistakes(t *testing.T) {
	t.Parallel()
	for labels, message := range map[string]string{
		"http-helper.sidecar: enable":                     "testing value /metadata/labels/http-helper.sidecar failed",
		`http-helper.sidecar: "true"`:                     "testing value /metadata/labels/http-helper.sidecar failed",
		sidecarLabel + `, http-helper.fs-group: "1000"`:   "testing value /metadata/labels/http-helper.fs-group failed",
		sidecarLabel + ", http-helper.something: ignored": "",
	} {
		for _, kind := range []string{"Deployment", "CronJob"} {
			k := newKustomization(t)
			k.addApp(t, "orders", workload(kind, "orders", labels, ""))
			out, err := k.build(t, "orders")
			if (err != nil) != (message != "") || !strings.Contains(out, message) {
				t.Errorf("%s with %s: %v, %s, want %q", kind, labels, err, out, message)
			}
		}
	}
	k := newKustomization(t)
	k.addApp(t, "orders", workload("Deployment", "orders", sidecarLabel, ""))
	k.add(t, "orders/http-helper.yaml", "# nothing\n")
	if out, err := k.build(t, "orders"); err == nil || !strings.Contains(out, "HttpHelper") {
		t.Errorf("without http-helper.yaml: %v, %s", err, out)
	}
}
