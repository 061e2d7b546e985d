package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// helmValues are values of a chart that needs more than the defaults.
const helmValues = `podSecurityContext: null
httpHelper:
  env:
    - name: HTTPS_PROXY
      value: http://proxy.example:3128
  volumes:
    - name: corporate-ca
      configMap:
        name: corporate-ca
  volumeMounts:
    - name: corporate-ca
      mountPath: /etc/corporate-ca
      readOnly: true
  resources:
    requests:
      memory: 32Mi
    limits:
      cpu: "1"
`

// TestHelmMore gives the sidecar variables and files, as a corporate network needs them, and some of its
// resources: the others stay.
func TestHelmMore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "values.yaml")
	harness.WriteFile(t, file, helmValues)
	manifests := renderHelm(t, "--values", file)
	wantValid(t, manifests)
	sidecar, pod := sidecarOf(t, manifests), podOf(t, manifests)
	equal(t, "variable", fmt.Sprint(sidecar.Env[len(sidecar.Env)-1]), "{HTTPS_PROXY http://proxy.example:3128}")
	equal(t, "mount", fmt.Sprint(sidecar.VolumeMounts[len(sidecar.VolumeMounts)-1]), "{corporate-ca /etc/corporate-ca  true}")
	volume := pod.Volumes[len(pod.Volumes)-1]
	if volume.ConfigMap == nil || volume.ConfigMap.Name != "corporate-ca" {
		t.Errorf("the pod's last volume is %v", volume)
	}
	equal(t, "resources", fmt.Sprint(sidecar.Resources), "{map[cpu:10m memory:32Mi] map[cpu:1 memory:192Mi]}")
	equal(t, "group of the pod", pod.SecurityContext.FSGroup, 0)

	manifests = renderHelm(t, "--set", "httpHelper.resources.limits=null", "--set", "httpHelper.resources.requests.cpu=null")
	wantValid(t, manifests)
	equal(t, "resources", fmt.Sprint(sidecarOf(t, manifests).Resources), "{map[memory:64Mi] map[]}")
}

// TestHelmPort has the probes and Prometheus ask another port, by the same name.
func TestHelmPort(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{"httpHelper.port=null": "[{http-helper 8081}]", "httpHelper.port=8181": "[{http-helper 8181}]"} {
		manifests := renderHelm(t, "--set", option)
		wantValid(t, manifests)
		wantSidecarApart(t, manifests)
		equal(t, "ports with "+option, fmt.Sprint(sidecarOf(t, manifests).Ports), want)
	}
}

// TestHelmNewCaddyfile changes the configuration: the pods are replaced, and the object that old pods mount
// has the same name, or Helm would delete it before they have ended.
func TestHelmNewCaddyfile(t *testing.T) {
	t.Parallel()
	chart := helmExample(t)
	render := func(caddyfile string) string {
		return output(t, helm.command(t, "template", "demo", chart, "--set", "httpHelper.caddyfile="+caddyfile))
	}
	before, after := render(":8080"), render(":8088")
	equal(t, "name of the ConfigMap", only(t, "ConfigMap", after).Metadata.Name, only(t, "ConfigMap", before).Metadata.Name)
	if fmt.Sprint(sidecarOf(t, before)) == fmt.Sprint(sidecarOf(t, after)) {
		t.Error("the pods stay as they are")
	}
	equal(t, "same again", render(":8080"), before)
	equal(t, "label of the pods", only(t, "Deployment", before).template().Metadata.Labels["http-helper.sidecar"], "enabled")
}

// TestHelmSharedTokens gives the sidecar a second Secret, and the app none.
func TestHelmSharedTokens(t *testing.T) {
	t.Parallel()
	manifests := renderHelm(t, "--set", "httpHelper.shareTokens.secret=shared-tokens")
	wantValid(t, manifests)
	equal(t, "second secrets", wantSharedSecret(t, podOf(t, manifests)), 1)
	equal(t, "second secrets by default", wantSharedSecret(t, podOf(t, renderHelm(t))), 0)
	out, err := helm.command(t, "template", "demo", helmExample(t), "--set", "httpHelper.shareTokens.other=x").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "httpHelper.shareTokens.secret is missing") {
		t.Errorf("without the secret's name: %v, %s", err, out)
	}
}
