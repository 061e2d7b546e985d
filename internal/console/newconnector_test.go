package console

import (
	"net/url"
	"reflect"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

func TestRows(t *testing.T) {
	form := url.Values{"scopes.0.name": {"a"}, "scopes.1.name": {"b"}, "scopes.1.required": {"yes"}, "scopes.2.name": {"c"}, "scopes.2.description": {"C"}, "name": {"n"}, "scopes_delimiter": {"space"}}
	if first := addRow(form, "scopes"); first != "scopes.3.name" || rows(form, "scopes") != 4 {
		t.Errorf("added %s, now there are %d", first, rows(form, "scopes"))
	}
	removeRow(form, "scopes.1")
	want := url.Values{"scopes.0.name": {"a"}, "scopes.1.name": {"c"}, "scopes.1.description": {"C"}, "scopes.2.name": {""}, "name": {"n"}, "scopes_delimiter": {"space"}}
	if !reflect.DeepEqual(form, want) {
		t.Errorf("%v, want %v", form, want)
	}
	for _, nonsense := range []string{"", "scopes", "scopes.", "scopes.-1", "scopes.3", "scopes.x", "name.0", "nothing.0", "scopes.99999999999999999999"} {
		removeRow(form, nonsense)
		if !reflect.DeepEqual(form, want) {
			t.Fatalf("%q changes it to %v", nonsense, form)
		}
	}
	if addRow(form, "nothing") != "" || addRow(form, "") != "" {
		t.Error("a row was added to a list that is not there")
	}
	for range 2 * maxRows {
		addRow(form, "scopes")
	}
	if n := rows(form, "scopes"); n != maxRows {
		t.Errorf("%d rows", n)
	}
}

func TestLines(t *testing.T) {
	options := optionLines("eu = Europe\r\nus\n = x\na=b=c")
	if want := []draft.OptionDraft{{Value: "eu", Label: "Europe"}, {Value: "us"}, {Label: "x"}, {Value: "a", Label: "b=c"}}; !reflect.DeepEqual(options, want) {
		t.Errorf("%v, want %v", options, want)
	}
	headers := pairLines("Accept: application/json\nX-Empty:\nno colon", ":")
	if want := []draft.PairDraft{{Name: "Accept", Value: "application/json"}, {Name: "X-Empty"}, {Name: "no colon"}}; !reflect.DeepEqual(headers, want) {
		t.Errorf("%v, want %v", headers, want)
	}
}

// A secret of a connector is neither in the draft nor in the form that is shown again.
func TestSecretOfAConnector(t *testing.T) {
	form := url.Values{"config_values.0.key": {"api_key"}, "config_values.0.type": {adminapi.TypePassword}, "config_values.0.value": {"typed"}}
	if value := configValueOf(form, 0); value.Value != secretOfConnector || form.Get("config_values.0.value") != "" {
		t.Errorf("%+v of %v", value, form)
	}
	form = url.Values{"config_values.0.source": {draft.SourceRequest}, "config_values.0.type": {adminapi.TypePassword}, "config_values.0.value": {"typed"}}
	if value := configValueOf(form, 0); value.Value != "" || form.Get("config_values.0.value") != "" {
		t.Errorf("%+v of %v", value, form)
	}
}

func TestHeaderWithoutColon(t *testing.T) {
	form := url.Values{
		"config_values.0.key": {"a"}, "config_values.0.source": {"request"}, "config_values.0.headers": {"X-Key: 1\r\n\r\nX-Empty:\r\n"},
		"config_values.1.key": {"b"}, "config_values.1.source": {"static"}, "config_values.1.headers": {"does not count"},
		"config_values.2.key": {"c"}, "config_values.2.source": {"request"}, "config_values.2.headers": {"X-Key: 1\r\nX-Other\r\nX-Third"},
	}
	if got := headerProblems(form); len(got) != 1 || got[0].Field != "config_values.2.headers" {
		t.Errorf("problems %v", got)
	}
}
