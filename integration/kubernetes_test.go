package integration

import (
	"errors"
	"io"
	"os"
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
	for name, render := range map[string]func(*testing.T) string{"kustomize": renderKustomize, "helm": renderHelm} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifests := render(t)
			if out, err := validateManifests(t, manifests); err != nil {
				t.Errorf("%v\n%s\n%s", err, out, manifests)
			}
			// A check that finds nothing proves nothing.
			if _, err := validateManifests(t, strings.Replace(manifests, "readinessProbe", "readynessProbe", 1)); err == nil {
				t.Error("a manifest with a mistake passes")
			}
			wantSidecarApart(t, manifests)
		})
	}
}

func renderKustomize(t *testing.T) string {
	t.Helper()
	return output(t, kustomize.command(t, "build", filepath.Join(harness.Root(), "deploy/kubernetes/example")))
}

func renderHelm(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() // helm puts the library into the chart
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(harness.Root(), "deploy/kubernetes/helm"))); err != nil {
		t.Fatal(err)
	}
	chart := filepath.Join(dir, "example")
	for _, cmd := range [][]string{{"dependency", "build", chart}, {"lint", "--strict", chart}} {
		output(t, helm.command(t, cmd...))
	}
	return output(t, helm.command(t, "template", "demo", chart))
}

func validateManifests(t *testing.T, manifests string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	harness.WriteFile(t, file, manifests)
	out, err := kubectlValidate.command(t, "--version", "1.30", file).CombinedOutput()
	return string(out), err
}

type container struct {
	Name          string
	RestartPolicy string `yaml:"restartPolicy"`
	VolumeMounts  []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	SecurityContext struct {
		RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
	} `yaml:"securityContext"`
}

// wantSidecarApart checks what keeps the app away from the secrets and the admin socket.
func wantSidecarApart(t *testing.T, manifests string) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(manifests))
	for {
		var manifest struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers, Containers []container `yaml:",omitempty"`
						Init                       []container `yaml:"initContainers"`
						ShareProcessNamespace      bool        `yaml:"shareProcessNamespace"`
					}
				}
			}
		}
		if err := decoder.Decode(&manifest); errors.Is(err, io.EOF) {
			t.Fatal("there is no Deployment")
		} else if err != nil {
			t.Fatal(err)
		}
		if manifest.Kind != "Deployment" {
			continue
		}
		pod := manifest.Spec.Template.Spec
		if len(pod.Init) != 1 || len(pod.Containers) != 1 {
			t.Fatalf("%d init containers and %d containers, want one each", len(pod.Init), len(pod.Containers))
		}
		sidecar := pod.Init[0]
		equal(t, "restart policy", sidecar.RestartPolicy, "Always")
		equal(t, "mounts of the sidecar", len(sidecar.VolumeMounts), 3)
		equal(t, "mounts of the app", len(pod.Containers[0].VolumeMounts), 0)
		equal(t, "shared process namespace", pod.ShareProcessNamespace, false)
		hardened := sidecar.SecurityContext
		equal(t, "non-root", hardened.RunAsNonRoot, true)
		equal(t, "read-only", hardened.ReadOnlyRootFilesystem, true)
		equal(t, "escalation refused", hardened.AllowPrivilegeEscalation != nil && !*hardened.AllowPrivilegeEscalation, true)
		return
	}
}
