package httphelper

import (
	"strings"
	"testing"
)

// secretMark stands for a secret. It is no name, key, scope or duration.
const secretMark = "s€cr=t;§"

// secretLines are lines with a secret: where it belongs and where it has gone astray.
var secretLines = []string{
	"client_secret %s",
	"client_secret %s oops",
	"client_secret oops %s",
	"client_secret oops {\n\t%s\n}",
	"client_secret %s {\n\toops\n}",
	"client_secret {%s}",
	"client_secret pa{oops}%s",
	"client_secret {http.%s}",
	"client_secret\n%s",
	"client_secret \"oops\n%s oops\" oops",
	"client_secret `oops\n%s` oops",
	"client_secret=%s",
	"client_secert %s",
	"%s",
	"client_key %s oops",
	"client_key -----BEGIN PRIVATE KEY-----\n%s",
	"client_secret_file %s %s",
	"client_certificate %s",
	"client_assertion_file %s %s",
	"token_url https://auth.example.com/%%zz?key=%s",
	"token_url https://app:%s@auth.example.com",
	"token_url https://auth.example.com/#%s",
	"token_url ://%s",
	"base_url https://app:%s@api.example.com",
	"token_request_param %s",
	"token_request_param assertion %s {oops}",
	"token_request_header \"X-Key: %s\" oops",
	"token_request_header X-Key %s oops",
	"api_header \"X-Key: %s\" oops",
	"api_header X-Key %s oops",
	"api_query %s",
	"access_token_header %s oops oops",
	"parameter pin %s oops",
	"parameter %s pin",
	"parameter pin {%s.oops}",
	"config_value key password %s",
	"config_value key password {\n\tvalue %s oops\n}",
	"config_value key password {\n\t%s\n}",
	"refresh_before %s",
	"replay_buffer %s",
	"allow_clients %s",
	"name %s",
	"connections %s",
	"dpop %s %s",
	"ping %s",
	"resource %s",
}

// TestErrorsQuoteNoSecret puts each line everywhere, whether it belongs there or not.
func TestErrorsQuoteNoSecret(t *testing.T) {
	for _, line := range secretLines {
		line = strings.ReplaceAll(strings.ReplaceAll(line, "%s", secretMark), "%%", "%")
		for where, caddyfile := range everywhere(line) {
			if _, err := adapt(caddyfile); err != nil && strings.Contains(err.Error(), secretMark) {
				t.Errorf("%s: %q leads to an error with the secret: %v", where, line, err)
			}
		}
	}
}

// everywhere puts lines into each block that we parse.
func everywhere(lines string) map[string]string {
	return map[string]string{
		"global option":     inGlobal(lines),
		"connector":         inConnector(lines),
		"connection":        inConnection(lines),
		"with a connector":  withConnector(lines),
		"inline":            inInline(lines),
		"named":             inSite("http_helper orders {\n" + lines + "\n}"),
		"placeholder":       inSite("http_helper {header.X} {\nconnections orders\n" + lines + "\n}"),
		"transport":         inSite("reverse_proxy https://api.example.com {\ntransport http_helper {\n" + lines + "\n}\n}"),
		"arguments":         inSite("http_helper orders " + lines),
		"connector's name":  inGlobal("connector " + lines),
		"connection's name": inGlobal("connection orders acme " + lines),
	}
}

func FuzzCaddyfile(f *testing.F) {
	for _, line := range secretLines {
		before, after, _ := strings.Cut(line, "%s")
		f.Add(before, after)
	}
	for _, line := range []string{"scope a required {", "flow a request GET https://x {", "token_transport {", "}\n}", "to {", "handle_response {", "transport http {", "\"", "{}", "scopes"} {
		f.Add(line, "")
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, "import") || strings.Contains(before+after, "<<") {
			return // Caddy's own: it reads files, and quotes what ends a heredoc
		}
		for where, caddyfile := range everywhere(before + secretMark + after) {
			_, err := adapt(caddyfile)
			if err == nil || !isSecretLine(before, after) || !strings.Contains(err.Error(), secretMark) {
				continue
			}
			t.Errorf("%s: %q, %q lead to an error with the secret: %v", where, before, after, err)
		}
	})
}

// isSecretLine tells whether all there is are the arguments of an option with a secret.
func isSecretLine(before, after string) bool {
	if strings.ContainsAny(before+after, "\n\r\\\"`{}") {
		return false
	}
	option, _, _ := strings.Cut(before, " ")
	return option == "client_secret" || option == "client_key" || option == "client_secret_file"
}
