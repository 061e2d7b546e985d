package integration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// networkPolicy is what the tests look at in one.
type networkPolicy struct {
	Spec struct {
		PodSelector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		} `yaml:"podSelector"`
		PolicyTypes []string `yaml:"policyTypes"`
		Ingress     []networkRule
		Egress      []networkRule
	}
}

type networkRule struct {
	From, To []networkPeer
	Ports    []struct {
		Protocol string
		Port     int
		EndPort  int `yaml:"endPort"`
	}
}

type networkPeer struct {
	NamespaceSelector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	} `yaml:"namespaceSelector"`
	IPBlock struct{ CIDR string } `yaml:"ipBlock"`
}

// permits reports whether one of the rules lets a peer through, a namespace or a block of addresses.
func permits(rules []networkRule, peer, protocol string, port int) bool {
	return slices.ContainsFunc(rules, func(rule networkRule) bool {
		peers := slices.Concat(rule.From, rule.To)
		matches := len(peers) == 0 || slices.ContainsFunc(peers, func(p networkPeer) bool {
			return p.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"] == peer || p.IPBlock.CIDR == peer
		})
		open := len(rule.Ports) == 0
		for _, ports := range rule.Ports {
			open = open || cmp.Or(ports.Protocol, "TCP") == protocol && ports.Port <= port && port <= max(ports.Port, ports.EndPort)
		}
		return matches && open
	})
}

// TestNetworkPolicies looks at whom the shipped policies let in and out.
func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	read := func(name string) (policy networkPolicy) {
		text := deployedFile(t, "kubernetes/example/"+name)
		wantValid(t, text)
		if err := yaml.Unmarshal([]byte(text), &policy); err != nil {
			t.Fatal(err)
		}
		equal(t, "pods of "+name, fmt.Sprint(policy.Spec.PodSelector.MatchLabels), "map[app:app http-helper.sidecar:enabled]")
		return policy
	}
	ingress, egress := read("networkpolicy.yaml"), read("networkpolicy-egress.yaml")
	// The example closes nothing of the app's, neither its ports nor its way to a database.
	equal(t, "what the example is about", fmt.Sprint(ingress.Spec.PolicyTypes), "[Ingress]")
	if strings.Contains(deployedFile(t, "kubernetes/example/kustomization.yaml"), "networkpolicy-egress.yaml") {
		t.Error("the example closes the app's egress")
	}
	for _, port := range []int{80, 3000, 8080, 8082, 9090, 65535} {
		equal(t, fmt.Sprintf("somebody at the app's port %d", port), permits(ingress.Spec.Ingress, "default", "TCP", port), true)
	}
	equal(t, "somebody at the app's UDP port", permits(ingress.Spec.Ingress, "default", "UDP", 8081), true)
	equal(t, "somebody at port 8081", permits(ingress.Spec.Ingress, "default", "TCP", 8081), false)
	equal(t, "Prometheus at port 8081", permits(ingress.Spec.Ingress, "monitoring", "TCP", 8081), true)

	equal(t, "what the other policy is about", fmt.Sprint(egress.Spec.PolicyTypes), "[Egress]")
	for _, way := range []struct {
		peer, protocol string
		port           int
		open           bool
	}{
		{"kube-system", "UDP", 53, true},
		{"kube-system", "TCP", 53, true},
		{"0.0.0.0/0", "TCP", 443, true},
		{"::/0", "TCP", 443, true},
		{"0.0.0.0/0", "TCP", 80, false},
		{"default", "TCP", 5432, false},
	} {
		equal(t, fmt.Sprint("the way to ", way.peer, way.port), permits(egress.Spec.Egress, way.peer, way.protocol, way.port), way.open)
	}

	// What is in comments.
	shipped := deployedFile(t, "kubernetes/example/networkpolicy-egress.yaml")
	shipped = uncomment(shipped, "        # With NodeLocal DNSCache:\n", "      ports:\n")
	shipped = uncomment(shipped, "    # With share_tokens, Redis:\n", "    # The app's own")
	wantValid(t, shipped)
	if err := yaml.Unmarshal([]byte(shipped), &egress); err != nil {
		t.Fatal(err)
	}
	equal(t, "the way to NodeLocal DNSCache", permits(egress.Spec.Egress, "169.254.20.10/32", "UDP", 53), true)
	equal(t, "the way to Redis", permits(egress.Spec.Egress, "shared", "TCP", 6379), true)

	// What is left of the policy where another one restricts ingress.
	var documented struct{ Ingress []networkRule }
	if err := yaml.Unmarshal([]byte(documentedYAML(t, "docs/kubernetes.md", "ingress:\n")), &documented); err != nil {
		t.Fatal(err)
	}
	equal(t, "the documented rule", fmt.Sprint(documented.Ingress), fmt.Sprint(ingress.Spec.Ingress[1:]))
}

// uncomment makes the lines between two texts part of a file.
func uncomment(text, begin, end string) string {
	_, comment, _ := strings.Cut(text, begin)
	comment, _, _ = strings.Cut(comment, end)
	return strings.Replace(text, comment, strings.ReplaceAll(comment, "# ", ""), 1)
}
