package command_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// enough are the flags that every sidecar needs.
var enough = []string{
	"run", "--to", "https://api.example.com/v2", "--token-url", "https://auth.example.com/oauth2/token",
	"--client-id", "my-app", "--client-secret-file", "/run/secrets/client_secret",
}

func TestRunPrintsCaddyfile(t *testing.T) {
	cli(t, "", append(enough, "--print-caddyfile")...).want(t, 0, `{
	admin unix/http_helper_admin.sock
	persist_config off
	auto_https off
	grace_period 20s
	servers {
		protocols h1
		max_header_size 64KiB
	}
	log {
		exclude admin
	}
}
http://:8080 {
	bind 127.0.0.1
	http_helper https://api.example.com/v2 {
		token_url https://auth.example.com/oauth2/token
		client_id my-app
		client_secret_file /run/secrets/client_secret
	}
}
`)
	cli(t, "", append(enough,
		"--from", "unix//run/app/sidecar.sock", "--admin", "unix//run/app/admin.sock", "--name", "orders",
		"--scope", "a b", "--scope", "c,d", "--param", "audience=https://x y", "--param", "b=1", "--param", "audience=2=3",
		"--header", "X-Key: {env.KEY}", "--ping", "GET /me?x=y 200", "--allow-clients", "10.0.0.0/8,private_ranges",
		"--allow-hosts", "sidecar,tools.example", "--caller-token-file", "/run/app/caller token", "--allow-insecure", "--warm", "--debug", "--access-log", "--print-caddyfile",
	)...).want(t, 0, `{
	admin unix//run/app/admin.sock
	persist_config off
	auto_https off
	grace_period 20s
	servers {
		protocols h1
		max_header_size 64KiB
	}
	log {
		exclude admin
	}
	debug
}
http:// {
	bind unix//run/app/sidecar.sock
	log
	http_helper https://api.example.com/v2 {
		name orders
		token_url https://auth.example.com/oauth2/token
		client_id my-app
		client_secret_file /run/secrets/client_secret
		scopes a b c,d
		token_request_param audience "https://x y" 2=3
		token_request_param b 1
		api_header X-Key {env.KEY}
		ping GET /me?x=y 200
		allow_insecure
		warm
		allow_clients 10.0.0.0/8 private_ranges
		allow_hosts sidecar tools.example
		caller_token_file "/run/app/caller token"
	}
}
`)
	cli(t, "", "run", "--to", "https://api.example.com", "--issuer", "https://auth.example.com", "--client-id", "a",
		"--auth-method", "private_key_jwt", "--client-key-file", "key.pem", "--key-id", "k",
		"--client-certificate-file", "c.pem", "--client-certificate-key-file", "k.pem", "--print-caddyfile").want(t, 0,
		"\t\tissuer https://auth.example.com\n", "\t\tauth_method private_key_jwt\n", "\t\tclient_key_file key.pem\n", "\t\tkey_id k\n", "\t\tclient_certificate c.pem k.pem\n")
	cli(t, "", append(enough[:len(enough)-2:len(enough)-2], "--client-secret-env", "MY_SECRET", "--print-caddyfile")...).want(t, 0, "client_secret {env.MY_SECRET}")
	cli(t, "secret", append(enough[:len(enough)-1:len(enough)-1], "-", "--print-caddyfile")...).want(t, 0, "client_secret {env.HTTP_HELPER_CLIENT_SECRET}")
}

// What the flags become can be loaded, whatever is in them.
func TestRunUsedWrongly(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"run"}, "needed: --to, --token-url, --client-id"},
		{enough[: len(enough)-2 : len(enough)-2], "--client-secret-file or --client-secret-env"},
		{append(enough, "--issuer", "https://a.example"), "--token-url and --issuer exclude each other"},
		{append(enough, "--client-secret-env", "A"), "exclude each other"},
		{append(enough, "--auth-method", "magic"), "--auth-method: must be one of"},
		{append(enough, "--auth-method", "none"), "--client-secret-file is not for --auth-method none"},
		{append(enough, "--client-certificate-file", "a"), "need each other"},
		{append(enough, "--from", "8080"), "a port is needed"},
		{append(enough, "--from", "127.0.0.1"), "a port is needed"},
		{append(enough, "--from", "127.0.0.1:0"), "a port is needed"},
		{append(enough, "--from", ":8080-8081"), "a port is needed"},
		{append(enough, "--from", "https://localhost:8080"), "plain HTTP"},
		{append(enough, "--from", "udp/:8080"), "plain HTTP"},
		{append(enough, "--from", "http://localhost:x"), "not an address"},
		{append(enough, "--param", "x"), "--param takes name=value"},
		{append(enough, "--param", "scope=x"), "scope cannot be set here"},
		{append(enough, "--header", "x"), `--header takes "Name: value"`},
		{append(enough, "--header", "Host: x"), "--header: Host cannot be set here"},
		{append(enough, "--scope", `a"b`), "is not a scope"},
		{append(enough, "--ping", "nowhere"), "ping"},
		{append(enough, "--allow-hosts", "http://tools"), "connection api.example.com: --allow-hosts: takes names of hosts, without scheme, port"},
		{append(enough, "--caller-token-file", ""), "--caller-token-file: must not be empty; leave it out if callers need no token"},
		{append(enough, "--to", "http://api.example.com"), "--to is http and its host is not loopback: use https, or permit it with --allow-insecure\n"},
		{append(enough, "--to", "api.example.com/v2"), "--to: a URL is needed"},
		{append(enough, "--token-url", "nonsense"), "connection api.example.com: --token-url: not an http or https URL: write it in full, beginning with https://\n"},
		{append(enough, "--name", "a b"), "a name consists of"},
		{append(enough, "--client-id", "a\nb"), "client_id: the value contains a control character"},
		{append(enough, "--client-id", "a } b"), ""},
		{append(enough, "--client-id", "a{$HOME}"), "client_id: the value contains {$, which begins a variable that Caddy replaces"},
		{append(enough, "--header", "X-A: {$HOME}"), "api_header: the value contains {$"},
	} {
		got := cli(t, "", append(test.args, "--print-caddyfile")...)
		status := exitUsage
		if test.want == "" {
			status = 0
		}
		got.want(t, status, test.want)
		if strings.Contains(got.stderr, "Caddyfile:") {
			t.Errorf("an error is about a file that nobody has seen: %s", got.stderr)
		}
	}
}

func TestRunAddressTaken(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("XDG_RUNTIME_DIR", socketDir(t))
	cli(t, "", append(enough, "--from", listener.Addr().String())...).want(t, 1, "something listens on http://"+listener.Addr().String()+" already")
}

// A sidecar that cannot start says why in words about its connection, and leaves no socket.
func TestRunCannotStart(t *testing.T) {
	dir := socketDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	missing := filepath.Join(dir, "missing")
	flags := append(enough[:len(enough)-1:len(enough)-1], missing, "--from", freeAddress(t))
	got := cli(t, "", flags...)
	got.want(t, 1, "Error: connection api.example.com: --client-secret-file: reading file "+missing)
	if left, _ := filepath.Glob(filepath.Join(dir, "http_helper", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	flags = append(enough[:len(enough)-2:len(enough)-2], "--client-secret-env", "HTTP_HELPER_TEST_UNSET", "--from", freeAddress(t), "--admin", "off")
	cli(t, "", flags...).want(t, 1, "Error: connection api.example.com: --client-secret-env: {env.HTTP_HELPER_TEST_UNSET} is not set or empty")
	if _, err := os.Stat("off"); err == nil {
		t.Error("there is a file off")
	}
}

func TestNoSecretOnStandardInput(t *testing.T) {
	cli(t, "", append(enough[:len(enough)-1:len(enough)-1], "-", "--admin", "off")...).want(t, exitUsage, "no secret on standard input")
}
