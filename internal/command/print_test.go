package command

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

func TestScopeRules(t *testing.T) {
	for _, test := range []struct {
		form adminapi.Connector
		want string
	}{
		{adminapi.Connector{}, "no scopes"},
		{adminapi.Connector{Scopes: []adminapi.Scope{{Name: "a"}}}, "All of these"},
		{adminapi.Connector{Scopes: []adminapi.Scope{{Name: "a"}}, Permissions: adminapi.Permissions{CustomizeScopes: true}}, "choose among these scopes:"},
		{adminapi.Connector{Permissions: adminapi.Permissions{CustomizeScopes: true, AdditionalScopes: true}}, "The connector lists no scopes; connections may add some."},
	} {
		if got := scopeRule(test.form); !strings.Contains(got, test.want) {
			t.Errorf("%+v: %s", test.form, got)
		}
	}
}

// What people see of one moment, to the letter.
func TestPage(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	connector, tokenURL, code, next := "acme_crm", "https://emea.acme.example/oauth2/token", "invalid_client", now.Add(20*time.Second)
	confirmed, unconfirmed, lastError := true, false, "store: no space left"
	conns := []adminapi.Connection{
		{
			Name: "billing", Connector: &connector, State: token.StateReady, AuthMethod: "client_secret_basic", TokenURL: &tokenURL,
			BaseURL: "https://emea.acme.example/api",
			Scopes:  adminapi.Scopes{Requested: []string{"contacts.read", "contacts.write"}, Granted: []string{"contacts.read"}, Missing: []string{"contacts.write"}, Confirmed: &confirmed},
			Token:   &adminapi.Token{Obtained: now.Add(-10 * time.Minute), Expires: now.Add(50 * time.Minute), Refresh: now.Add(45 * time.Minute)},
			Counts:  adminapi.Counts{TokenRequests: 3, TokenFailures: 1, Rejected: 1},
			Allow: []adminapi.Allow{
				{Methods: []string{"GET", "HEAD"}, Paths: []string{"/contacts", "/contacts/*"}}, {Methods: []string{"POST"}}, {Paths: []string{"/me"}},
			},
			ConnectorAllow: []adminapi.Allow{{}},
		},
		{
			Name: "invoices", State: token.StateReady, AuthMethod: "client_secret_basic", BaseURL: "https://emea.acme.example/invoices",
			Scopes: adminapi.Scopes{Requested: []string{"invoices.read"}, Granted: []string{"invoices.read"}, Missing: []string{}, Confirmed: &unconfirmed},
			Token:  &adminapi.Token{Obtained: now, Expires: now.Add(time.Hour), Refresh: now.Add(55 * time.Minute), Source: adminapi.SourceShared},
			Counts: adminapi.Counts{Adopted: 2},
			Shared: adminapi.Shared{State: adminapi.SharedDegraded, LastError: &lastError},
		},
		{
			Name: "orders", State: token.StateDown,
			LastError:   &adminapi.Failure{At: now.Add(-3 * time.Minute), Class: oauth.ClassConfiguration, Code: &code, Message: "the token endpoint refused the request (status 401)"},
			NextAttempt: &next,
		},
		{
			Name: "stock", State: token.StateDown,
			LastError:   &adminapi.Failure{At: now, Class: "outage", Message: "the token endpoint cannot be reached: no such host"},
			NextAttempt: &now,
		},
	}
	other, soon := "https://apac.acme.example/oauth2/token", now.Add(5*time.Second)
	for _, name := range []string{"tenant-1", "tenant-2", "tenant-3", "tenant-4"} {
		conns = append(conns, adminapi.Connection{
			Name: name, State: token.StateFailing, TokenURL: &other,
			LastError:   &adminapi.Failure{At: now.Add(-time.Minute), Class: "outage", Message: "the token endpoint responded with status 503"},
			NextAttempt: &next,
		})
	}
	conns[5].LastError.At, conns[6].NextAttempt = now.Add(-time.Second), &soon
	var out strings.Builder
	p := newPrinter(&out, now, " --address unix//admin.sock")
	p.connections(conns)
	p.line("---")
	emea, audience, shardOf := "emea", "https://emea.acme.example\x1b[31m", "shard_of"
	p.connection(conns[0], adminapi.Values{
		Parameters: []adminapi.ParameterValue{
			{Key: "instance", Type: "text", Label: "Your instance name", Value: &emea},
			{Key: "pass", Type: "password", Label: "Passphrase"},
			{Key: "region", Type: "dropdown", Label: "Region"},
		},
		ConfigValues: []adminapi.ConfigValue{
			{Key: "audience", Type: "text", Label: "Audience", Value: &audience},
			{Key: "shard", Type: "text", Label: "Shard", Flow: &shardOf},
			{Key: "key", Type: "password", Label: "Key"},
		},
	}, nil)
	p.line("---")
	p.connection(conns[1], adminapi.Values{}, nil)
	p.flush()
	want, err := os.ReadFile("testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got:\n%s", out.String())
	}
}

// TestKeyFilesThatAreNotUsable are a problem while tokens are shared all the same: the next restart fails.
func TestKeyFilesThatAreNotUsable(t *testing.T) {
	lastError := "key_file: /k: the key is empty; the last good keys stay in use"
	all := problemsOf(adminapi.Connection{Name: "orders", Shared: adminapi.Shared{State: adminapi.SharedOn, LastError: &lastError}})
	if len(all) != 1 || !strings.HasSuffix(all[0].text, ": "+lastError) || all[0].advice != adminapi.AdviceKeyFiles {
		t.Errorf("problems %+v", all)
	}
}
