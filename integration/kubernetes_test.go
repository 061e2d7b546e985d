package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestKubernetesManifests renders the kustomize component and the Helm library in their examples, and
// has the results checked against the schemas of Kubernetes.
func TestKubernetesManifests(t *testing.T) {
	t.Parallel()
	for name, render := range map[string]func(*testing.T) string{"kustomize": renderKustomize, "helm": func(t *testing.T) string { return renderHelm(t) }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifests := render(t)
			wantValid(t, manifests)
			// A check that finds nothing proves nothing. Before 1.28 there are no native sidecars.
			if _, err := validateManifests(t, strings.Replace(manifests, "readinessProbe", "readynessProbe", 1), "1.30"); err == nil {
				t.Error("a manifest with a mistake passes")
			}
			if out, err := validateManifests(t, manifests, "1.27"); err == nil || !strings.Contains(out, "restartPolicy") {
				t.Errorf("a Kubernetes without native sidecars takes the manifest: %v\n%s", err, out)
			}
			wantSidecarApart(t, manifests)
		})
	}
}

// wantValid checks manifests against the oldest Kubernetes that is supported and the newest that the
// tool knows.
func wantValid(t *testing.T, manifests string) {
	t.Helper()
	for _, version := range []string{"1.29", "1.30"} {
		if out, err := validateManifests(t, manifests, version); err != nil {
			t.Errorf("Kubernetes %s: %v\n%s\n%s", version, err, out, manifests)
		}
	}
}

// TestDocumentedRendering renders both examples with the commands of the documentation.
func TestDocumentedRendering(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // helm puts the library into the chart
	if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(filepath.Join(harness.Root(), "deploy"))); err != nil {
		t.Fatal(err)
	}
	tools := fmt.Sprintf("helm() { %s \"$@\"; }\nkubectl() { shift; %s build \"$@\"; }\n", helm.command(t).Path, kustomize.command(t).Path)
	cmd := exec.Command("sh", "-ec", tools+documented(t, "docs/kubernetes.md", "helm template "))
	cmd.Dir = dir
	manifests := output(t, cmd)
	equal(t, "native sidecars", strings.Count(manifests, "restartPolicy: Always"), 2)
}

// TestHelmValues gives the library values that charts really get: what is missing is named, and any text is
// the Caddyfile as it is, but for empty lines at its end.
func TestHelmValues(t *testing.T) {
	t.Parallel()
	chart := helmExample(t)
	for missing, message := range map[string]string{
		"httpHelper":           "httpHelper.caddyfile is missing",
		"httpHelper.image":     "httpHelper.image is missing",
		"httpHelper.secret":    "httpHelper.secret is missing",
		"httpHelper.caddyfile": "httpHelper.caddyfile is missing",
	} {
		out, err := helm.command(t, "template", "demo", chart, "--set", missing+"=null").CombinedOutput()
		if err == nil || !strings.Contains(string(out), message) {
			t.Errorf("without %s: %v, %s, want %q", missing, err, out, message)
		}
	}
	for name, caddyfile := range map[string]string{
		"indented":        "\n   # mine\n:8080 {\n\tbind 127.0.0.1\n}\n",
		"looks like YAML": "# {a: b}\n- : &x *y\n",
		"empty lines":     ":8080\n\n\n",
		"no line's end":   ":8080",
	} {
		file := filepath.Join(t.TempDir(), "Caddyfile")
		harness.WriteFile(t, file, caddyfile)
		manifests := output(t, helm.command(t, "template", "demo", chart, "--set-file", "httpHelper.caddyfile="+file))
		equal(t, name, strings.TrimRight(configMapOf(t, manifests)["Caddyfile"], "\n"), strings.TrimRight(caddyfile, "\n"))
	}
	// Names of objects consist of parts that begin and end with letters or digits.
	long := strings.Repeat("a", 49) + "." + strings.Repeat("b", 3)
	wantValid(t, output(t, helm.command(t, "template", long, chart)))
}

func renderKustomize(t *testing.T) string {
	t.Helper()
	return output(t, kustomize.command(t, "build", filepath.Join(harness.Root(), "deploy/kubernetes/example")))
}

func renderHelm(t *testing.T, options ...string) string {
	t.Helper()
	chart := helmExample(t)
	output(t, helm.command(t, "lint", "--strict", chart))
	return output(t, helm.command(t, append([]string{"template", "demo", chart}, options...)...))
}

// helmExample is a copy of the example with the library in it.
func helmExample(t *testing.T) (chart string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(harness.Root(), "deploy/kubernetes/helm"))); err != nil {
		t.Fatal(err)
	}
	chart = filepath.Join(dir, "example")
	output(t, helm.command(t, "dependency", "build", chart))
	return chart
}

func validateManifests(t *testing.T, manifests, version string, options ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	harness.WriteFile(t, file, manifests)
	out, err := kubectlValidate.command(t, append(options, "--version", version, file)...).CombinedOutput()
	return string(out), err
}

// pod is what the tests look at in the template of a Deployment.
type pod struct {
	Init                         []container `yaml:"initContainers"`
	Containers                   []container
	Volumes                      []volume
	ShareProcessNamespace        bool  `yaml:"shareProcessNamespace"`
	AutomountServiceAccountToken *bool `yaml:"automountServiceAccountToken"`
	GracePeriod                  int   `yaml:"terminationGracePeriodSeconds"`
	SecurityContext              struct {
		FSGroup int `yaml:"fsGroup"`
	} `yaml:"securityContext"`

	labels map[string]string
}

type containerPort struct {
	Name   string
	Number int `yaml:"containerPort"`
}

type container struct {
	Name          string
	RestartPolicy string `yaml:"restartPolicy"`
	Env           []struct{ Name, Value string }
	Ports         []containerPort
	VolumeMounts  []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
	Startup         probe `yaml:"startupProbe"`
	Readiness       probe `yaml:"readinessProbe"`
	Liveness        probe `yaml:"livenessProbe"`
	Resources       struct{ Requests, Limits map[string]string }
	SecurityContext struct {
		RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
		RunAsUser                any   `yaml:"runAsUser"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		Capabilities             struct{ Add, Drop []string }
		SeccompProfile           struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

type volume struct {
	Name      string
	ConfigMap *struct{ Name string } `yaml:"configMap"`
	Projected *struct {
		DefaultMode int `yaml:"defaultMode"`
		Sources     []struct{ Secret struct{ Name string } }
	}
	EmptyDir *struct{ Medium string } `yaml:"emptyDir"`
}

// manifest is what the tests look at in any manifest.
type manifest struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Data     map[string]string
	Spec     struct {
		Template podTemplate
		Job      struct {
			Spec struct{ Template podTemplate }
		} `yaml:"jobTemplate"`
	}
}

type podTemplate struct {
	Metadata struct{ Labels map[string]string }
	Spec     pod
}

// template is that of the pods, whatever kind of workload it is.
func (m manifest) template() podTemplate {
	if m.Kind == "CronJob" {
		return m.Spec.Job.Spec.Template
	}
	return m.Spec.Template
}

// parseManifests reads all of them.
func parseManifests(t *testing.T, text string) (manifests []manifest) {
	t.Helper()
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var m manifest
		if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
			return manifests
		} else if err != nil {
			t.Fatal(err)
		}
		manifests = append(manifests, m)
	}
}

// only is the first manifest of a kind.
func only(t *testing.T, kind, text string) manifest {
	t.Helper()
	for _, m := range parseManifests(t, text) {
		if m.Kind == kind {
			return m
		}
	}
	t.Fatal("there is no " + kind)
	return manifest{}
}

// podOf is the pod of the only Deployment among manifests.
func podOf(t *testing.T, manifests string) pod {
	t.Helper()
	return only(t, "Deployment", manifests).Spec.Template.Spec
}

func configMapOf(t *testing.T, manifests string) map[string]string {
	t.Helper()
	return only(t, "ConfigMap", manifests).Data
}

func sidecarOf(t *testing.T, manifests string) container {
	t.Helper()
	pod := podOf(t, manifests)
	if len(pod.Init) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("%d init containers and %d containers, want one each", len(pod.Init), len(pod.Containers))
	}
	return pod.Init[0]
}

// wantSidecarApart checks what makes the sidecar outlive the app, and keeps the app away from the
// secrets and the admin socket.
func wantSidecarApart(t *testing.T, manifests string) {
	t.Helper()
	pod, sidecar := podOf(t, manifests), sidecarOf(t, manifests)
	equal(t, "restart policy", sidecar.RestartPolicy, "Always")
	equal(t, "probes", fmt.Sprint(sidecar.Startup, sidecar.Readiness, sidecar.Liveness), "{{/live http-helper}} {{/ready http-helper}} {{/live http-helper}}")
	if sidecar.Resources.Requests["cpu"] == "" || sidecar.Resources.Requests["memory"] == "" || sidecar.Resources.Limits["memory"] == "" {
		t.Errorf("the sidecar has the resources %v", sidecar.Resources)
	}
	equal(t, "the pod's group", pod.SecurityContext.FSGroup, 65532)
	equal(t, "time for app and sidecar to end", pod.GracePeriod, 60)
	equal(t, "mounts of the app", len(pod.Containers[0].VolumeMounts), 0)
	equal(t, "shared process namespace", pod.ShareProcessNamespace, false)
	equal(t, "no token for the API of Kubernetes", pod.AutomountServiceAccountToken != nil && !*pod.AutomountServiceAccountToken, true)

	hardened := sidecar.SecurityContext
	equal(t, "non-root", hardened.RunAsNonRoot, true)
	equal(t, "fixed user", hardened.RunAsUser, nil) // OpenShift chooses one
	equal(t, "read-only", hardened.ReadOnlyRootFilesystem, true)
	equal(t, "escalation refused", hardened.AllowPrivilegeEscalation != nil && !*hardened.AllowPrivilegeEscalation, true)
	equal(t, "capabilities", fmt.Sprint(hardened.Capabilities), "{[] [ALL]}")
	equal(t, "seccomp profile", hardened.SeccompProfile.Type, "RuntimeDefault")

	volumes := map[string]volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
	}
	kinds := map[string]string{}
	for _, mount := range sidecar.VolumeMounts {
		v := volumes[mount.Name]
		switch {
		case v.ConfigMap != nil && mount.ReadOnly:
			kinds[mount.MountPath] = "config"
		case v.Projected != nil && v.Projected.DefaultMode == 0o440 && len(v.Projected.Sources) == 1 && mount.ReadOnly && mount.SubPath == "": // else a rotated secret does not arrive
			kinds[mount.MountPath] = "secrets"
		case v.EmptyDir != nil && v.EmptyDir.Medium == "Memory":
			kinds[mount.MountPath] = "memory"
		}
	}
	equal(t, "mounts", fmt.Sprint(kinds), "map[/etc/http_helper:config /run/http_helper:memory /run/secrets/http_helper:secrets]")
	equal(t, "number of mounts", len(sidecar.VolumeMounts), 3)
}
