package integration

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// documentedUse is what must come of a command in the documentation.
type documentedUse struct {
	typed  string // what is typed instead, where only the command's name is documented
	stdin  string
	status int
	prints []string
}

// documentedUses are the commands that the documentation names, as they are written there.
var documentedUses = map[string]documentedUse{
	"caddy http-helper":                                    {status: 2, prints: []string{"Available Commands:"}},
	"caddy http-helper list":                               {prints: []string{"NAME", "billing", "my-connection"}},
	"caddy http-helper list --config Caddyfile.example":    {prints: []string{"NAME", "billing", "my-connection"}},
	"caddy http-helper show":                               {status: 2, prints: []string{"show takes the name of a connection"}},
	"caddy http-helper show billing":                       {prints: []string{"Name", "billing", "acme", "Token endpoint"}},
	"caddy http-helper show orders":                        {prints: []string{"Name", "billing"}},
	"caddy http-helper show NAME":                          {prints: []string{"Name", "billing"}},
	"caddy http-helper ping NAME":                          {prints: []string{"billing works: the API responded with 200 OK"}},
	"caddy http-helper ping billing":                       {prints: []string{"billing works: the API responded with 200 OK"}},
	"caddy http-helper refresh NAME":                       {prints: []string{"billing has a new token, which expires in 59 minutes"}},
	"caddy http-helper connectors":                         {prints: []string{"acme", "billing"}},
	"caddy http-helper new acme":                           {stdin: "n1\n\n\n\n\nmine\n", prints: []string{"connection mine acme {"}},
	"caddy http-helper new acme --save connections":        {stdin: "n1\ns1\n\n\n\nmine\n", prints: []string{"connection mine acme {", "/connections/mine.caddyfile"}},
	"caddy http-helper run":                                {typed: "caddy http-helper run --help", prints: []string{"--token-url"}},
	"caddy http-helper ping":                               {status: 2, prints: []string{"there are several connections; name one of them: billing, my-connection"}},
	"caddy http-helper refresh":                            {status: 2, prints: []string{"refresh takes the name of a connection"}},
	"caddy http-helper new":                                {status: 2, prints: []string{"new takes the name of a connector"}},
	"caddy http-helper console":                            {typed: "caddy http-helper console --help", prints: []string{"--listen"}},
	"caddy http-helper console --open":                     {typed: "caddy http-helper console --help", prints: []string{"--allow-host"}},
	"caddy http-helper console --config Caddyfile":         {typed: "caddy http-helper console --help", prints: []string{"--save"}},
	"caddy completion bash":                                {prints: []string{"bash completion"}},
	"caddy http-helper new acme --help":                    {prints: []string{"in this order: the client id, then the secret"}},
	"caddy http-helper connectors acme":                    {prints: []string{"Client ID", "Region", "eu (Europe), the default", "a  always"}},
	"caddy http-helper refresh billing":                    {prints: []string{"billing has a new token"}},
	"caddy http-helper new <connector> --config Caddyfile": {stdin: "n1\n\n\n\n\nmine\n", prints: []string{"connection mine acme {"}},
	"caddy http-helper ping api.example.com":               {typed: "caddy http-helper ping my-connection", prints: []string{"my-connection works: a token was obtained"}},
	"caddy http-helper refresh api.example.com --address unix//run/http_helper/admin.sock": {typed: "caddy http-helper refresh my-connection --address unix//run/http_helper/admin.sock", prints: []string{"my-connection has a new token"}},
	"caddy http-helper show <connection>":                                                  {prints: []string{"Name", "billing"}},
	"caddy http-helper ping <connection>":                                                  {prints: []string{"billing works"}},
	"caddy adapt":                                                                          {prints: []string{`"handler":"http_helper"`}},
	"caddy list-modules --versions":                                                        {prints: []string{"http.handlers.http_helper v"}},
	"caddy validate --config Caddyfile":                                                    {prints: []string{"Valid configuration"}},
	"docker exec sidecar /caddy http-helper list --address unix//run/http_helper/admin.sock":                                      {prints: []string{"billing"}},
	"kubectl exec POD --container http-helper -- /caddy http-helper list --address unix//run/http_helper/admin.sock":              {prints: []string{"billing"}},
	"kubectl exec POD --container http-helper -- /caddy http-helper ping orders --address unix//run/http_helper/admin.sock":       {prints: []string{"billing works"}},
	`kubectl exec "$pod" --container http-helper -- /caddy http-helper refresh orders --address unix//run/http_helper/admin.sock`: {prints: []string{"billing has a new token"}},
	"caddy reload --config Caddyfile --address unix//run/http_helper/admin.sock":                                                  {},
	"curl --unix-socket /run/http_helper/admin.sock http://localhost/http_helper/connections/billing":                             {prints: []string{`{"name":"billing","connector":"acme"`}},
	"curl --unix-socket /run/http_helper/admin.sock http://localhost/http_helper/connections":                                     {prints: []string{`[{"name":"billing","connector":"acme"`}},
}

// documentedCaddyfile has what the commands in the documentation are about.
const documentedCaddyfile = `http_helper {
		connector acme {
			base_url $API
			token_url $TOKENS
			scope a required
			scope b
			customize_scopes
			additional_scopes
			parameter region dropdown {
				label "Region"
				option eu "Europe"
				option us
				default eu
			}
			ping GET /me 200
		}
		connection billing acme {
			client_id app
			client_secret {env.SECRET}
		}
		connection my-connection {
			base_url $API
			token_url $TOKENS
			client_id app
			client_secret {env.SECRET}
		}
	}`

var (
	shellFence  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	anyFence    = regexp.MustCompile("(?ms)^```.*?^```$")
	inlineCode  = regexp.MustCompile("`[^`]+`")
	continued   = regexp.MustCompile(`\\\n\s*`)
	shellRemark = regexp.MustCompile(`\s+# .*`)
	ours        = regexp.MustCompile(`caddy (?:http-helper|completion|reload|validate|adapt|list-modules)\b|/http_helper/connections`)
)

// documentedCommands are the commands about connections in the documentation, each on one line.
func documentedCommands(t *testing.T) []string {
	t.Helper()
	var commands []string
	add := func(command string) {
		command = strings.TrimPrefix(command, "./") // ./caddy is a caddy
		if command = strings.Join(strings.Fields(shellRemark.ReplaceAllString(command, "")), " "); ours.MatchString(command) {
			commands = append(commands, command)
		}
	}
	for _, file := range shipped(t, ".md") {
		text := readShipped(t, file)
		for _, block := range shellFence.FindAllStringSubmatch(text, -1) {
			for line := range strings.Lines(continued.ReplaceAllString(block[1], "")) {
				add(line)
			}
		}
		for _, code := range inlineCode.FindAllString(anyFence.ReplaceAllString(text, ""), -1) {
			if code = strings.Trim(code, "`"); !strings.HasPrefix(code, "POST ") && !strings.HasPrefix(code, "GET ") {
				add(code)
			}
		}
	}
	slices.Sort(commands)
	return slices.Compact(commands)
}

// TestCommandsInDocs runs every command of the documentation, against a sidecar that is found as that
// of one's own `run` is. A command that is documented and not known here fails, and the other way round.
func TestCommandsInDocs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	u := harness.NewUser(t)
	socket := filepath.Join(u.Runtime, "http_helper", "run-8080-1.sock")
	if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.Addr)
	whole := w.expand(options{}, harness.Config{Options: documentedCaddyfile, Site: "http_helper billing"})
	caddyfile := "{\nadmin unix/" + socket + "\n" + whole.Options + "\n}\n:" + port + " {\nbind 127.0.0.1\n" + whole.Site + "\n}\n"
	w.Run(t, harness.Config{Whole: caddyfile, Env: whole.Env})
	u.File(t, "Caddyfile", caddyfile)
	u.File(t, "Caddyfile.example", caddyfile)
	u.InstallCaddy(t)
	u.Env = append(u.Env, whole.Env...)
	here := strings.NewReplacer(
		"unix//run/http_helper/admin.sock", "unix/"+socket, "/run/http_helper/admin.sock", socket, "docker exec sidecar /caddy", "caddy",
		"kubectl exec POD --container http-helper -- /caddy", "caddy", `kubectl exec "$pod" --container http-helper -- /caddy`, "caddy",
		"NAME", "billing", "<connection>", "billing", " orders", " billing", "<connector>", "acme",
	)
	commands := documentedCommands(t)
	for _, command := range commands {
		if strings.HasPrefix(command, "caddy http-helper run --") {
			continue // TestRunInDocs
		}
		t.Run(command, func(t *testing.T) {
			use, known := documentedUses[command]
			if !known {
				t.Fatal("the command is documented, and no test says what must come of it")
			}
			if use.typed == "" {
				use.typed = command
			}
			cmd := u.Program("sh", "-c", here.Replace(use.typed))
			cmd.Stdin = strings.NewReader(use.stdin)
			got := harness.Execute(t, cmd)
			equal(t, "exit status", got.Status, use.status)
			for _, text := range use.prints {
				if !strings.Contains(got.Stdout+got.Stderr, text) {
					t.Errorf("%q is not in %s%s", text, got.Stdout, got.Stderr)
				}
			}
		})
	}
	for command := range documentedUses {
		if !slices.Contains(commands, command) {
			t.Errorf("%s is not in the documentation", command)
		}
	}
}

// TestRunInDocs runs each `caddy http-helper run` of the documentation.
func TestRunInDocs(t *testing.T) {
	t.Parallel()
	found := 0
	for _, command := range documentedCommands(t) {
		if !strings.HasPrefix(command, "caddy http-helper run --") {
			continue
		}
		found++
		ca := harness.NewCA(t)
		l := newLaptop(t)
		l.tokens = harness.NewTokenEndpoint(t, ca)
		l.api = harness.NewAPI(t, ca, l.tokens)
		l.Env = append(l.Env, "SSL_CERT_FILE="+ca.File)
		l.InstallCaddy(t)
		port := harness.Port(t)
		command = strings.NewReplacer("127.0.0.1:8080", "127.0.0.1:"+port, "https://api.example.com", l.api.URL,
			"https://auth.example.com/oauth2/token", l.tokens.URL).Replace(command)
		r := awaitRunning(t, harness.Background(t, l.Program("sh", "-c", "exec "+command)))
		equal(t, "status", l.get(t, "127.0.0.1:"+port), http.StatusOK)
		equal(t, "request", l.api.Last(t).RequestURI, "/v2/orders")
		l.wantDocumentedList(t)
		r.wantGone(t, syscall.SIGTERM)
	}
	equal(t, "documented uses of run", found, 2)
}

// wantDocumentedList checks the table that the documentation shows for `list`.
func (l *laptop) wantDocumentedList(t *testing.T) {
	t.Helper()
	_, shown, _ := strings.Cut(readShipped(t, "docs/cli.md"), "\n```\nNAME")
	shown, _, _ = strings.Cut("NAME"+shown, "\n```")
	want := strings.Fields(strings.ReplaceAll(shown, "api.example.com", "127.0.0.1"))
	if got := l.Run(t, "list"); !slices.Equal(strings.Fields(got.Stdout), want) {
		t.Errorf("list prints\n%swhere the documentation shows\n%s", got.Stdout, shown)
	}
}

// TestNewInDocs gives the answers that lead to the connection in the documentation.
func TestNewInDocs(t *testing.T) {
	t.Parallel()
	_, want, _ := strings.Cut(readShipped(t, "docs/cli.md"), "\n```\n# Secrets to store:")
	want, _, _ = strings.Cut("# Secrets to store:"+want, "```")
	u := harness.NewUser(t)
	file := u.File(t, "Caddyfile", strings.NewReplacer("$API", "https://api.example.com", "$TOKENS", "https://auth.example.com/token").
		Replace("{\n"+strings.ReplaceAll(documentedCaddyfile, "connection billing", "connection other")+"\n}\n"))
	cmd := u.Command(t, "new", "acme", "--config", file, "--adapter", "caddyfile")
	cmd.Stdin = strings.NewReader("n1\n\n\n\n\n\n")
	got := harness.Execute(t, cmd)
	equal(t, "exit status", got.Status, 0)
	equal(t, "printed", got.Stdout, want)
}
