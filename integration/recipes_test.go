package integration

import (
	"regexp"
	"strings"
	"testing"
)

// TestWorkloadIdentityInRecipes puts the volume of docs/recipes.md into a pod, as the page says.
func TestWorkloadIdentityInRecipes(t *testing.T) {
	t.Parallel()
	page := readShipped(t, "docs/recipes.md")
	found := regexp.MustCompile("(?s)```yaml\n(   volumes:.*?)   ```").FindStringSubmatch(page)
	if found == nil {
		t.Fatal("docs/recipes.md has no volume")
	}
	if !strings.Contains(page, "client_assertion_file /var/run/secrets/tokens/http_helper") {
		t.Error("the recipe names another file")
	}
	wantValid(t, `apiVersion: v1
kind: Pod
metadata:
  name: app
spec:
  containers:
    - name: app
      image: app
      volumeMounts:
        - name: assertion
          mountPath: /var/run/secrets/tokens
`+regexp.MustCompile(`(?m)^ `).ReplaceAllString(found[1], ""))
}
