package httphelper

import (
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestFlowModules(t *testing.T) {
	for id, want := range map[string]string{"http_helper.flows.request": "*flows.Request", "http_helper.flows.template": "*flows.Template"} {
		module, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%T", module.New()); got != want {
			t.Errorf("%s is %s", id, got)
		}
	}
}
