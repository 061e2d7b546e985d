package command

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// stdinSecretVariable is where the sidecar's placeholder finds a secret that came by standard input.
const stdinSecretVariable = "HTTP_HELPER_CLIENT_SECRET" //nolint:gosec // a name, not a secret

// runOptions are the flags of `run`.
type runOptions struct {
	from, to, name                    string
	tokenURL, issuer                  string
	clientID, secretFile, secretEnv   string
	keyFile, keyID, certFile, certKey string
	authMethod, ping, admin           string
	scopes, params, headers, clients  []string
	hosts                             []string
	callerTokenFile                   string
	insecure, warm                    bool
	debug, accessLog, print           bool
}

func runCommand() *cobra.Command {
	o := new(runOptions)
	methods := oauth.MethodNames()
	cmd := &cobra.Command{
		Use:   "run --to <url> --token-url <url> --client-id <id> --client-secret-file <path>",
		Short: "Runs a sidecar without a configuration file",
		Long: `
Runs a sidecar: what an app sends to --from in plain HTTP goes to --to with a token.

Secrets are given by file, by environment variable or by standard input, never as an
argument, where other users and logs can see them. They are read again at every token
request, so that they can be rotated.

With --caller-token-file callers must send Proxy-Authorization: Bearer and the token in
that file. How is printed at start.

The admin endpoint is a unix socket in your own runtime directory. It is printed at
start, and the other commands of http-helper look there first.`,
		Example: `  caddy http-helper run --from 127.0.0.1:8080 --to https://api.example.com/v2 \
    --token-url https://auth.example.com/oauth2/token \
    --client-id my-app --client-secret-file ./secret --scope orders.read`,
		Args:              takes(0, 0, "flags only"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              withExitStatus(func(cmd *cobra.Command, _ []string) error { return o.run(cmd) }),
	}
	o.addFlags(cmd.Flags())
	cmd.Flag("auth-method").Usage += strings.Join(methods, ", ") + " (default " + oauth.DefaultMethod + ")"
	_ = cmd.RegisterFlagCompletionFunc("auth-method", cobra.FixedCompletions(methods, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *runOptions) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVarP(&o.from, "from", "f", ":8080", "Address that the app calls; without a host: loopback. Also unix//path/to/socket")
	f.StringVarP(&o.to, "to", "t", "", "Root of the API")
	f.StringVar(&o.tokenURL, "token-url", "", "URL of the token endpoint")
	f.StringVar(&o.issuer, "issuer", "", "Issuer whose metadata name the token endpoint, instead of --token-url")
	f.StringVar(&o.clientID, "client-id", "", "Client identifier")
	f.StringVar(&o.secretFile, "client-secret-file", "", "File with the client secret; - for standard input")
	f.StringVar(&o.secretEnv, "client-secret-env", "", "Name of the environment variable with the client secret")
	f.StringVar(&o.keyFile, "client-key-file", "", "File with the private key, PEM or JWK, for private_key_jwt")
	f.StringVar(&o.keyID, "key-id", "", "Key id in assertions")
	f.StringVar(&o.certFile, "client-certificate-file", "", "File with the client certificate, PEM")
	f.StringVar(&o.certKey, "client-certificate-key-file", "", "File with the client certificate's private key, PEM")
	f.StringVar(&o.authMethod, "auth-method", "", "How the client authenticates: ")
	f.StringArrayVar(&o.scopes, "scope", nil, "Scope to request; may be repeated")
	f.StringArrayVar(&o.params, "param", nil, "Further parameter of the token request, as name=value; may be repeated")
	f.StringArrayVar(&o.headers, "header", nil, `Header of every request to the API, as "Name: value"; a secret value as {env.NAME} or {file./path}; may be repeated`)
	f.StringVar(&o.ping, "ping", "", `Request that proves the connection, such as "GET /me 200"`)
	f.StringVar(&o.name, "name", "", "Name of the connection (default: the host of --to)")
	f.StringSliceVar(&o.clients, "allow-clients", nil, "IP ranges of those who may call besides loopback")
	f.StringSliceVar(&o.hosts, "allow-hosts", nil, "Names, besides localhost, that requests may be addressed to")
	f.StringVar(&o.callerTokenFile, "caller-token-file", "", "File with the tokens of callers, one a line; made with a random one if it is not there")
	f.BoolVar(&o.insecure, "allow-insecure", false, "Permit http to hosts that are not loopback")
	f.BoolVar(&o.warm, "warm", false, "Fetch the first token at start, and keep one ready while idle")
	f.StringVar(&o.admin, "admin", "", "Address of the admin endpoint, or off (default: a socket in your runtime directory)")
	f.BoolVar(&o.accessLog, "access-log", false, "Enable the access log")
	f.BoolVarP(&o.debug, "debug", "v", false, "Enable verbose debug logs")
	f.BoolVar(&o.print, "print-caddyfile", false, "Print the configuration as a Caddyfile instead of running it")
}

func (o *runOptions) run(cmd *cobra.Command) error {
	if o.callerTokenFile == "" && cmd.Flags().Changed("caller-token-file") {
		return usageErrorf("--caller-token-file: must not be empty; leave it out if callers need no token") // a variable is not set
	}
	if err := o.check(); err != nil {
		return err
	}
	listen, err := parseFrom(o.from)
	if err != nil {
		return err
	}
	o.admin = adminapi.UnixPath(o.admin)
	switch {
	case o.admin != "":
	case o.print:
		// The one of this process will be gone, and without any Caddy's own is open to everybody.
		o.admin = "unix/http_helper_admin.sock"
	default:
		if o.admin, err = newAdminSocket(listen); err != nil {
			return err
		}
	}
	text, err := o.caddyfile(listen)
	if err != nil {
		return usageError{err}
	}
	config, err := adaptFlags(text)
	if err != nil {
		return usageError{err}
	}
	if o.print {
		fmt.Fprint(cmd.OutOrStdout(), text)
		return nil
	}
	return o.start(cmd, listen, config)
}

// check looks for flags that are missing or contradict each other.
func (o *runOptions) check() error {
	var missing []string
	for _, flag := range []struct{ name, value string }{
		{"--to", o.to},
		{"--token-url", o.tokenURL + o.issuer},
		{"--client-id", o.clientID},
	} {
		if flag.value == "" {
			missing = append(missing, flag.name)
		}
	}
	method, err := oauth.Method(o.authMethod)
	switch {
	case len(missing) > 0:
		return usageErrorf("needed: %s; see caddy http-helper run --help", strings.Join(missing, ", "))
	case err != nil:
		return usageError{fmt.Errorf("--auth-method: %w", err)}
	case !strings.Contains(o.to, "://"):
		return usageErrorf("--to: a URL is needed, such as https://api.example.com/v2")
	case o.tokenURL != "" && o.issuer != "":
		return usageErrorf("--token-url and --issuer exclude each other")
	case o.secretFile != "" && o.secretEnv != "":
		return usageErrorf("--client-secret-file and --client-secret-env exclude each other")
	case method.NeedsSecret && o.secretFile+o.secretEnv == "":
		return usageErrorf("needed: --client-secret-file or --client-secret-env")
	case o.secretEnv != "" && !variableName.MatchString(o.secretEnv):
		return usageErrorf("--client-secret-env takes the name of a variable, not the secret itself")
	case (o.certFile == "") != (o.certKey == ""):
		return usageErrorf("--client-certificate-file and --client-certificate-key-file need each other")
	}
	return nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// sidecarAddress is where a sidecar listens.
type sidecarAddress struct {
	network, dial string // to see whether it is taken
	site, bind    string // in a Caddyfile
	label         string // in the name of the admin socket
}

func (a sidecarAddress) String() string {
	if a.network == "unix" {
		return "unix/" + a.dial
	}
	return "http://" + a.dial
}

// parseFrom reads --from. No host means loopback, not every interface.
func parseFrom(from string) (sidecarAddress, error) {
	from = adminapi.UnixPath(from)
	a, err := caddy.ParseNetworkAddressWithDefaults(strings.TrimPrefix(from, "http://"), "tcp", 0)
	switch {
	case err != nil:
		return sidecarAddress{}, usageErrorf("--from: not an address: use one such as 127.0.0.1:8080")
	case a.Network == "unix":
		return sidecarAddress{network: "unix", dial: a.Host, site: "http://", bind: "unix/" + a.Host, label: "unix"}, nil
	case a.Network != "tcp" || strings.Contains(from, "/") && !strings.HasPrefix(from, "http://"):
		return sidecarAddress{}, usageErrorf("--from: only TCP and unix sockets are possible, in plain HTTP")
	case a.StartPort == 0 || a.PortRangeSize() > 1:
		return sidecarAddress{}, usageErrorf("--from: a port is needed, such as 127.0.0.1:8080")
	}
	host, port := cmp.Or(a.Host, "127.0.0.1"), strconv.FormatUint(uint64(a.StartPort), 10)
	dial := net.JoinHostPort(host, port)
	return sidecarAddress{network: "tcp", dial: dial, site: "http://:" + port, bind: strings.TrimSuffix(dial, ":"+port), label: port}, nil
}

// maxSocketPath is how long the path of a unix socket may be on every system.
const maxSocketPath = 103

// newAdminSocket chooses a socket for the admin endpoint, in a directory that only the user can
// enter.
func newAdminSocket(listen sidecarAddress) (string, error) {
	var errs []error
	for _, dir := range adminapi.RuntimeDirs() {
		socket := filepath.Join(dir, "run-"+listen.label+"-"+strconv.Itoa(os.Getpid())+".sock")
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			err = os.Chmod(dir, 0o700)
		}
		switch {
		case err == nil && len(socket) <= maxSocketPath:
			return "unix/" + socket, nil
		case err == nil:
			err = fmt.Errorf("%s: the path is too long for a socket", socket)
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("there is no directory for the admin endpoint: set XDG_RUNTIME_DIR, or choose with --admin\n%w", errors.Join(errs...))
}

// removeLeftSockets tidies up after sidecars that could not.
func removeLeftSockets() {
	_, left := adminapi.Sockets()
	for _, socket := range left {
		_ = os.Remove(socket)
	}
}

// start runs the sidecar until a signal ends the process.
func (o *runOptions) start(cmd *cobra.Command, listen sidecarAddress, config []byte) error {
	if o.secretFile == "-" {
		secret, err := readStdinSecret(cmd)
		if err != nil {
			return err
		}
		if err := os.Setenv(stdinSecretVariable, secret); err != nil {
			return usageErrorf("--client-secret-file: the secret contains a NUL")
		}
	}
	// Caddy shares ports with other processes, so that it would not notice.
	if adminapi.Accepts(listen.network, listen.dial) {
		return fmt.Errorf("something listens on %s already; choose another address with --from", listen)
	}
	if err := o.makeCallerToken(); err != nil {
		return err
	}
	removeLeftSockets()
	caddy.TrapSignals()
	if err := caddy.Load(config, true); err != nil {
		if socket, ok := strings.CutPrefix(o.admin, "unix/"); ok {
			_ = os.Remove(socket)
		}
		return errors.New(asFlags(aboutConnection(err)))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "http-helper: %s goes to %s\n", listen, o.to)
	if o.callerTokenFile != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "http-helper: callers need a token: %s\n", listen.curl(o.callerTokenFile))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "http-helper: admin endpoint %s\n", o.admin)
	select {}
}

// makeCallerToken makes the file with the callers' token, unless there is one.
func (o *runOptions) makeCallerToken() error {
	if o.callerTokenFile == "" {
		return nil
	}
	file, err := os.OpenFile(o.callerTokenFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // loading the configuration checks it
	}
	if err == nil {
		_, err = io.WriteString(file, rand.Text()+rand.Text()+"\n")
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(o.callerTokenFile)
		}
	}
	if err != nil {
		return fmt.Errorf("--caller-token-file: making it: %w", err)
	}
	return nil
}

// curl returns the command by which somebody calls the sidecar with the token in the first line of a file.
func (a sidecarAddress) curl(tokenFile string) string {
	command := []string{"curl", "--header", fmt.Sprintf(`"Proxy-Authorization: Bearer $(head -n 1 %s)"`, shellWord(tokenFile))}
	if a.network == "unix" {
		return strings.Join(append(command, "--unix-socket", shellWord(a.dial), "http://localhost/"), " ")
	}
	return strings.Join(append(command, a.String()+"/"), " ")
}

// aboutConnection describes an error of loading a configuration. One about a connection does not name the
// modules of Caddy that it passed through.
func aboutConnection(err error) string {
	if _, reason, found := strings.Cut(err.Error(), ": connection "); found {
		return "connection " + reason
	}
	return err.Error()
}

// maxSecretBytes bounds what is read from standard input.
const maxSecretBytes = 1 << 20

// readStdinSecret reads the secret from standard input, up to its end. Somebody who types it sees
// nothing of it.
func readStdinSecret(cmd *cobra.Command) (string, error) {
	secret := ""
	if ask, piped := newAsker(cmd); piped == nil {
		if err := ask([]*question{{kind: secretText, title: "Client secret", value: &secret}}); err != nil {
			return "", err
		}
	} else {
		content, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxSecretBytes))
		if err != nil {
			return "", fmt.Errorf("--client-secret-file: reading standard input: %w", err)
		}
		secret = strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	}
	if secret == "" {
		return "", usageErrorf("--client-secret-file: there is no secret on standard input")
	}
	return secret, nil
}
