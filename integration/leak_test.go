package integration

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// leakLength is how many consecutive characters of a secret count as a leak.
const leakLength = 12

// leaks searches texts for secrets, in the forms in which they could be written, and for pieces of
// them.
type leaks struct {
	mu     sync.Mutex
	pieces map[string]string // a piece to the name of its secret
	fresh  map[string]int    // how many secrets of a name were made on the way
}

func newLeaks() *leaks { return &leaks{pieces: make(map[string]string), fresh: make(map[string]int)} }

// secret makes a secret that is found from now on. It has characters that are often escaped.
func (l *leaks) secret(name string) string {
	secret := rand.Text() + "/+=&" + rand.Text()
	l.add(name, secret)
	return secret
}

// token is a secret that is allowed in a header.
func (l *leaks) token(name string) string {
	token := rand.Text() + rand.Text()
	l.add(name, token)
	return token
}

func (l *leaks) add(name, secret string) { l.addForms(name, formsOf(secret)) }

// manyFresh is how many secrets of one name that are made for one request each are looked for in
// every form. Of the others only as they are: there are hundreds, and they are made alike.
const manyFresh = 20

// addFresh adds a secret that is made for one request.
func (l *leaks) addFresh(name, secret string) {
	if secret == "" {
		return
	}
	l.mu.Lock()
	l.fresh[name]++
	many := l.fresh[name] > manyFresh
	l.mu.Unlock()
	if many {
		l.addForms(name, []string{secret})
		return
	}
	l.add(name, secret)
}

func (l *leaks) addForms(name string, forms []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, form := range forms {
		for i := 0; i+leakLength <= len(form); i++ {
			if piece := form[i : i+leakLength]; l.pieces[piece] == "" {
				l.pieces[piece] = name
			}
		}
	}
}

// formsOf are the ways in which a secret could be written.
func formsOf(secret string) []string {
	quoted, _ := json.Marshal(secret)
	forms := []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), strings.Trim(string(quoted), `"`),
		hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))),
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			// What is around the secret changes the characters at both ends.
			encoded := encoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
			forms = append(forms, encoded[4:len(encoded)-4])
		}
	}
	return forms
}

// in returns the names of the secrets in a text.
func (l *leaks) in(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for i := 0; i+leakLength <= len(text); i++ {
		if name, ok := l.pieces[text[i:i+leakLength]]; ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestTheSearchForLeaksFindsEveryForm(t *testing.T) {
	t.Parallel()
	l := newLeaks()
	secret := l.secret("secret")
	basic := base64.StdEncoding.EncodeToString([]byte("app:" + secret))
	quoted, _ := json.Marshal(map[string]string{"a": secret})
	for _, text := range []string{
		secret, "a " + secret + " b", url.QueryEscape(secret), string(quoted), basic, fmt.Sprintf("%q", secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret),
		base64.URLEncoding.EncodeToString([]byte("a" + secret)), secret[:20], secret[15:35], secret[:13] + "\n" + secret[13:],
	} {
		if got := l.in("some text before " + text + " and after"); !slices.Equal(got, []string{"secret"}) {
			t.Errorf("%q: found %q", text, got)
		}
	}
	for _, text := range []string{"", "nothing", secret[:leakLength-1], strings.Repeat("text ", 1000)} {
		if got := l.in(text); got != nil {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

// leakWorld is a world whose servers quote the requests that they get, in every way that there is.
type leakWorld struct {
	*world
	*leaks
	ca        *harness.CA
	secure    *harness.TokenEndpoint // the token endpoint again, over TLS
	secureAPI *harness.API           // the API again, over TLS
	secrets   map[string]string      // by name

	mu        sync.Mutex
	tokenMode string
	apiMode   string
	outputs   map[string]string // what the process has said, by where
}

func (w *leakWorld) modes() (token, api string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tokenMode, w.apiMode
}

func (w *leakWorld) set(token, api string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokenMode, w.apiMode = token, api
}

// quoteOf is all that a request says, as a server would quote it.
func quoteOf(r *http.Request) (quote, secret string) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	_, password, _ := r.BasicAuth()
	secret, _ = url.QueryUnescape(password)
	for _, candidate := range []string{form.Get("client_secret"), form.Get("client_assertion"), noSecret} {
		if secret == "" {
			secret = candidate
		}
	}
	quote = strings.Join([]string{
		r.URL.String(), r.Header.Get("Authorization"), r.Header.Get("DPoP"), r.Header.Get("X-Ticket"), r.Header.Get("X-Api-Key"), string(body), secret,
	}, " ")
	return quote, secret
}

// noSecret is the placeholder for the secret of a request that has none.
const noSecret = "this request carries no secret and no assertion"

// tokenModes are responses of the token endpoint that quote the request.
var tokenModes = map[string]func(w http.ResponseWriter, quote, secret string){
	"code": response(400, func(quote, secret string) any {
		return map[string]string{"error": secret, "error_description": quote, "error_uri": quote}
	}),
	"code in base64": response(400, func(_, secret string) any {
		return map[string]string{"error": base64.StdEncoding.EncodeToString([]byte(secret))[:40]}
	}),
	"code, escaped": response(400, func(_, secret string) any { return map[string]string{"error": url.QueryEscape(secret)[:40]} }),
	"piece": response(400, func(_, secret string) any {
		return map[string]string{"error": "no " + secret[:min(20, len(secret))] + "."}
	}),
	"ticket": response(400, func(quote, _ string) any { return map[string]string{"error": lastField(quote, 3)} }),
	"description": response(401, func(quote, _ string) any {
		return map[string]string{"error": "invalid_client", "error_description": quote}
	}),
	"outage": response(500, func(quote, _ string) any { return quote }),
	"later": response(503, func(quote, _ string) any {
		return map[string]string{"error": "temporarily_unavailable", "error_description": quote}
	}),
	"page":       response(200, func(quote, _ string) any { return "<html>" + quote }),
	"no token":   response(200, func(quote, _ string) any { return map[string]string{"message": quote} }),
	"type":       response(200, func(quote, secret string) any { return map[string]string{"access_token": secret, "token_type": quote} }),
	"bad token":  response(200, func(quote, _ string) any { return map[string]string{"access_token": quote + "\r\n"} }),
	"long token": response(200, func(quote, _ string) any { return map[string]string{"access_token": strings.Repeat(quote, 1000)} }),
	"redirect":   response(307, func(quote, _ string) any { return quote }),
	"no HTTP":    raw("HTTP/1.1 %s\r\n\r\n"),
	"no header":  raw("HTTP/1.1 200 OK\r\n%s\r\n\r\n"),
	"cut":        raw("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n%s"),
	"no length":  raw("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"),
	"not gzip":   raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n%s"),
	"more":       raw("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}%s"),
	"hang":       func(http.ResponseWriter, string, string) { time.Sleep(1500 * time.Millisecond) },
}

func lastField(text string, fromEnd int) string {
	fields := strings.Fields(text)
	return fields[max(0, len(fields)-fromEnd)]
}

func response(status int, body func(quote, secret string) any) func(http.ResponseWriter, string, string) {
	return func(w http.ResponseWriter, quote, secret string) {
		w.Header().Set("Location", "https://elsewhere.example/?"+url.QueryEscape(quote))
		harness.Reply(status, body(quote, secret), "X-Quote", quote, "WWW-Authenticate", `Basic realm="`+quote+`"`).ServeHTTP(w, nil)
	}
}

// raw responds with bytes as they are.
func raw(format string) func(http.ResponseWriter, string, string) {
	return func(w http.ResponseWriter, quote, _ string) {
		conn, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(buffer, format, quote)
		_ = buffer.Flush()
		// The sidecar looks at what comes after a response.
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = bufio.NewReader(conn).ReadByte()
	}
}

func (w *leakWorld) serveToken(rw http.ResponseWriter, r *http.Request) {
	quote, secret := quoteOf(r)
	if strings.Contains(quote, "client_assertion=") {
		w.addFresh("assertion", secret)
	}
	w.addFresh("proof at the token endpoint", r.Header.Get("DPoP"))
	mode, _ := w.modes()
	if misbehave := tokenModes[mode]; misbehave != nil {
		misbehave(rw, quote, secret)
		return
	}
	tokenType := "Bearer"
	if r.Header.Get("DPoP") != "" {
		tokenType = "DPoP"
	}
	harness.Reply(http.StatusOK, map[string]any{
		"access_token": w.token("token"), "refresh_token": w.token("refresh token"), "token_type": tokenType,
		"expires_in": 3600, "scope": "read " + secret + " " + secret[:min(20, len(secret))],
	}, "X-Quote", quote).ServeHTTP(rw, nil)
}

// apiModes are responses of the API that quote the request.
var apiModes = map[string]func(w http.ResponseWriter, quote, secret string){
	"no HTTP":   raw("HTTP/1.1 %s\r\n\r\n"),
	"no header": raw("HTTP/1.1 200 OK\r\n%s\r\n\r\n"),
	"no chunk":  raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"),
	"trailer":   raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%s\r\n\r\n"),
	"no length": raw("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"),
	"cut":       raw("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n%s"),
	"upgrade":   raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\n\r\n"),
	"echo":      response(200, func(quote, _ string) any { return quote }),
	"refusal":   response(401, func(quote, _ string) any { return quote }),
	"scope":     response(403, func(quote, _ string) any { return quote }),
}

func (w *leakWorld) serveAPI(rw http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/flow/") {
		harness.Reply(http.StatusOK, map[string]string{"shard": w.secrets["shard"]}).ServeHTTP(rw, nil)
		return
	}
	w.addFresh("proof at the API", r.Header.Get("DPoP"))
	_, mode := w.modes()
	if misbehave := apiModes[mode]; misbehave != nil {
		quote, secret := quoteOf(r)
		misbehave(rw, quote, secret)
		return
	}
	_, _ = io.WriteString(rw, "hello")
}

const leakyOptions = `
	debug
	metrics
	servers {
		log_credentials
		trace
	}
	http_helper {
		connector service {
			base_url $API/v2/{param.pin}
			token_url $TOKENS?key={param.pin}
			revocation_url $TOKENS?revoke={param.pin}
			parameter pin password
			config_value derived password {
				value before-{param.pin}-after
			}
			config_value shard password {
				flow shard_of
			}
			flow shard_of request POST $API/flow/{param.pin} {
				header X-Pin {param.pin}
				body "{\"pin\":\"{param.pin}\"}"
				pointer /shard
			}
			parameter ticket password
			parameter header password
			parameter key password
			token_request_param ticket {param.ticket}
			token_request_param derived {config.derived} {config.shard}
			token_request_header X-Ticket {param.header}
			api_header X-Api-Key {param.pin}
			api_header X-Env-Key {param.key}
			api_query key {config.derived}
			ping GET /ping
		}
		connection env service {
			client_id app
			client_secret {env.SECRET}
			parameter pin {env.PIN}
			parameter ticket {env.TICKET}
			parameter header {env.HEADER}
			parameter key {env.KEY}
			token_timeout 1s
		}
		connection literal service {
			client_id app
			client_secret $LITERAL
			parameter pin {file.$DIR/pin}
			parameter ticket {env.TICKET}
			parameter header {env.HEADER}
			parameter key {env.KEY}
			token_timeout 1s
		}
		connection jwt {
			base_url $API/jwt
			token_url $TOKENS
			auth_method private_key_jwt
			client_id app
			client_key_file $DIR/key.pem
			token_timeout 1s
			ping GET /ping
		}
		connection rsa {
			base_url $API/rsa
			token_url $TOKENS
			auth_method private_key_jwt
			client_id app
			client_key {file.$DIR/rsa.pem}
			signing_alg PS256
			token_timeout 1s
		}
		connection jwk {
			base_url $API/jwk
			token_url $TOKENS
			auth_method private_key_jwt
			client_id app
			client_key {env.JWK}
			dpop $DIR/dpop.jwk
			token_timeout 1s
			ping GET /ping
		}
		connection hmac {
			base_url $API/hmac
			token_url $TOKENS
			auth_method client_secret_jwt
			client_id app
			client_secret {env.HMAC}
			token_timeout 1s
		}
		connection assertion {
			base_url $API/assertion
			token_url $TOKENS
			auth_method private_key_jwt
			client_id app
			client_assertion_file $DIR/assertion
			token_timeout 1s
		}
		connection certificate {
			base_url $SECURE_API/certificate
			token_url $SECURE_TOKENS
			token_transport {
				versions 1.1
			}
			auth_method tls_client_auth
			client_id app
			client_certificate $DIR/tls.crt $DIR/tls.key
			token_timeout 1s
			ping GET /ping
		}
		connection none {
			base_url $API/none
			token_url $TOKENS
			auth_method none
			client_id app
			token_request_param ticket {env.TICKET}
			dpop
			token_timeout 1s
			ping GET /ping
		}
	}`

const leakySite = `
	log
	handle /env* {
		http_helper env {
			handle_response {
				header X-Placeholders "{rp.header.X-Other} {rp.status_text}"
				copy_response
			}
		}
	}
	handle /literal* {
		http_helper literal
	}
	handle /jwt* {
		http_helper jwt
	}
	handle /rsa* {
		http_helper rsa
	}
	handle /jwk* {
		http_helper jwk
	}
	handle /hmac* {
		http_helper hmac
	}
	handle /assertion* {
		http_helper assertion
	}
	handle /certificate* {
		http_helper certificate {
			transport http {
				versions 1.1
			}
		}
	}
	handle /none* {
		http_helper none
	}
	handle {
		http_helper $API/file {
			name file
			token_url $TOKENS
			auth_method client_secret_post
			client_id app
			client_secret_file $DIR/secret
			token_timeout 1s
		}
	}
	handle_errors {
		respond "{http.error} {http.error.message} {http.error.trace} {http.error.id} {http.reverse_proxy.upstream.address} {http.request.header.Authorization}"
	}`

// leakyConnections are of every authentication method.
var leakyConnections = []string{"env", "literal", "jwt", "rsa", "jwk", "hmac", "assertion", "certificate", "none", "file"}

func newLeakWorld(t *testing.T) (*leakWorld, harness.Config) {
	ca := harness.NewCA(t)
	w := &leakWorld{
		world: newWorld(t, nil), leaks: newLeaks(), ca: ca, secure: harness.NewTokenEndpoint(t, ca), secureAPI: harness.NewAPI(t, ca, nil),
		secrets: make(map[string]string), outputs: make(map[string]string),
	}
	for _, name := range []string{"env", "literal", "file", "pin", "pin in a file", "ticket", "header", "key", "shard", "hmac"} {
		w.secrets[name] = w.secret(name)
	}
	w.File(t, "secret", w.secrets["file"])
	w.File(t, "pin", w.secrets["pin in a file"])
	w.File(t, "key.pem", w.privateKey(t, "ES256").pem(t))
	w.File(t, "rsa.pem", w.privateKey(t, "PS256").pem(t))
	w.File(t, "dpop.jwk", w.privateKey(t, "ES256").jwk(t))
	w.File(t, "assertion", w.token("mounted assertion")+"."+w.token("mounted assertion"))
	certificate, key := ca.ClientPEM(t, "app")
	block, _ := pem.Decode([]byte(key))
	w.add("key of the certificate", string(block.Bytes))
	w.File(t, "tls.crt", certificate)
	w.File(t, "tls.key", key)
	for _, tokens := range []*harness.TokenEndpoint{w.tokens, w.secure} {
		tokens.RespondWith(http.HandlerFunc(w.serveToken))
	}
	for _, api := range []*harness.API{w.api, w.secureAPI} {
		api.Accept(nil)
		api.RespondWith(http.HandlerFunc(w.serveAPI))
	}
	config := w.expand(options{env: []string{
		"SECRET=" + w.secrets["env"], "PIN=" + w.secrets["pin"], "TICKET=" + w.secrets["ticket"],
		"HEADER=" + w.secrets["header"], "KEY=" + w.secrets["key"], "HMAC=" + w.secrets["hmac"],
		"JWK=" + w.privateKey(t, "EdDSA").jwk(t), "SSL_CERT_FILE=" + ca.File,
	}}, harness.Config{
		Options: strings.NewReplacer("$LITERAL", w.secrets["literal"], "$SECURE_TOKENS", w.secure.URL, "$SECURE_API", w.secureAPI.URL).Replace(leakyOptions),
		Site:    leakySite,
	})
	return w, config
}

// privateKey makes a key whose secret parts are found from now on.
func (w *leakWorld) privateKey(t *testing.T, alg string) *signer {
	signer := newSigner(t, alg, "")
	var parts [][]byte
	switch key := signer.key.(type) {
	case *ecdsa.PrivateKey:
		private, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		parts = [][]byte{private}
	case ed25519.PrivateKey:
		parts = [][]byte{key.Seed()}
	case *rsa.PrivateKey:
		parts = [][]byte{key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes()}
	}
	for _, part := range parts {
		w.add("private key", string(part))
	}
	return signer
}

// keep remembers what the process has said.
func (w *leakWorld) keep(where, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outputs[where] += text + "\n"
}

// requestAll makes a request for each connection and keeps what is not the API's own response.
func (w *leakWorld) requestAll(t *testing.T, what string) {
	t.Helper()
	var all sync.WaitGroup
	for _, name := range leakyConnections {
		all.Go(func() {
			req, _ := http.NewRequest(http.MethodPost, w.URL+"/"+name+"/x?a=b", strings.NewReader("body"))
			req.Header.Set("Authorization", "Bearer "+w.secrets["app"])
			response, err := w.Do(req)
			if err == nil && response.Header.Get("Proxy-Status") != "" { // neither cut off nor the API's own
				w.keep("errors for the app: "+what, fmt.Sprint(response.Header, response.Text, response.Trailer))
			}
		})
	}
	all.Wait()
}

// steer keeps what the admin endpoint says about a command for each connection.
func (w *leakWorld) steer(t *testing.T, command string) {
	t.Helper()
	var all sync.WaitGroup
	for _, name := range leakyConnections {
		all.Go(func() {
			path := "/http_helper/connections/" + name + "/" + command
			_, text, err := w.Admin(http.MethodPost, path, "", "")
			w.keep("POST "+path, fmt.Sprint(text, err))
		})
	}
	all.Wait()
}

func (w *leakWorld) admin(t *testing.T, method, path, contentType, body string) string {
	t.Helper()
	_, text, err := w.Admin(method, path, contentType, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	w.keep(method+" "+path, text)
	return text
}

func (w *leakWorld) look(t *testing.T) {
	t.Helper()
	for _, path := range []string{
		"/http_helper/connections", "/http_helper/connections/env", "/http_helper/connections/env/values", "/http_helper/connections/env/events", "/http_helper/connectors", "/http_helper/connectors/service", "/metrics",
		"/reverse_proxy/upstreams", "/debug/vars", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/debug/pprof/goroutine?debug=1",
		"/debug/pprof/heap?debug=1", "/debug/pprof/allocs", "/debug/pprof/trace?seconds=0.2", "/debug/pprof/profile?seconds=1", "/config/", "/id/x",
	} {
		w.admin(t, http.MethodGet, path, "", "")
	}
}

func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	w, config := newLeakWorld(t)
	w.secrets["app"] = rand.Text() // the app's own: Caddy was told to log it
	w.Run(t, config)

	// Without a token, every kind of failure.
	for mode := range tokenModes {
		w.set(mode, "")
		w.steer(t, "refresh")
		w.requestAll(t, "token endpoint: "+mode)
		w.steer(t, "ping")
	}
	w.look(t)

	// With one: success, replay and every kind of failure of the API.
	w.set("", "")
	w.steer(t, "refresh")
	w.requestAll(t, "success")
	for _, name := range leakyConnections {
		response := w.Get(t, "/"+name+"/x", "Authorization", "Bearer "+w.secrets["app"])
		equal(t, "status with a token of "+name, response.StatusCode, http.StatusOK)
	}
	for mode := range apiModes {
		w.set("", mode)
		w.requestAll(t, "API: "+mode)
		w.steer(t, "ping")
	}
	w.wantEcho(t)
	w.look(t)
	for _, mode := range []string{"code", "more", "outage", "description"} {
		w.set(mode, "")
		w.steer(t, "refresh")
		w.requestAll(t, "refresh: "+mode)
	}

	// Rotation and reloads, good and bad. A connection that goes revokes its token.
	w.secrets["rotated"] = w.secret("rotated")
	w.File(t, "secret", w.secrets["rotated"])
	key := w.privateKey(t, "ES256").pem(t)
	w.File(t, "key.pem", key[:len(key)-40])
	w.set("", "")
	w.steer(t, "refresh")
	w.WaitLog(t, "cannot be used; the last good one stays in use")
	w.File(t, "key.pem", key)
	w.reloads(t, config)
	w.look(t)
	w.collect(t, config)
	w.check(t)
}

// wantEcho: an API may return to the app what it was sent, in its header too.
func (w *leakWorld) wantEcho(t *testing.T) {
	t.Helper()
	w.set("", "echo")
	response := w.Get(t, "/literal/x")
	if got := response.Header.Get("X-Quote"); !slices.Contains(w.in(got), "token") {
		t.Errorf("the API's own header has not arrived: %q", got)
	}
}

func (w *leakWorld) reloads(t *testing.T, config harness.Config) {
	t.Helper()
	broken := config
	broken.Options = strings.Replace(config.Options, "ping GET /ping", "ping GET", 1)
	unset := config
	unset.Options = strings.ReplaceAll(config.Options, "{env.PIN}", "{env.UNSET}")
	misplaced := config
	misplaced.Options = strings.Replace(config.Options, "client_secret "+w.secrets["literal"], "client_secret "+w.secrets["literal"]+" oops", 1)
	for what, c := range map[string]harness.Config{"broken": broken, "unset": unset, "misplaced": misplaced} {
		err := w.Reload(c)
		if err == nil {
			t.Errorf("the %s config was accepted", what)
			continue
		}
		w.keep("error at load: "+what, err.Error())
	}
	fewer := config
	fewer.Site = strings.Replace(config.Site, "http_helper env {", "http_helper jwt {", 1)
	head, rest, _ := strings.Cut(config.Options, "connection env service {")
	_, tail, _ := strings.Cut(rest, "}\n\t\tconnection literal")
	fewer.Options = head + "connection literal" + tail
	w.set("code", "") // what the revocation endpoint quotes
	for _, c := range []harness.Config{fewer, config} {
		if err := w.Reload(c); err != nil {
			t.Fatal(err)
		}
	}
	w.WaitLog(t, "revoking a token failed")
	w.set("", "")
	w.requestAll(t, "after reloads")
}

// collect keeps what is left: adapted and saved configs, the log, and what a crash prints.
func (w *leakWorld) collect(t *testing.T, config harness.Config) {
	t.Helper()
	adapted, err := w.Adapt(t, config)
	if err != nil {
		t.Fatal(err)
	}
	w.keep("adapted", adapted)
	w.keep("autosave", readFile(t, filepath.Join(w.Dir, ".config", "caddy", "autosave.json")))
	w.admin(t, http.MethodPost, "/adapt", "text/caddyfile", w.Caddyfile(config))
	w.Signal(syscall.SIGABRT)
	<-w.Exited()
	w.keep("log", w.Logs())
}

// check looks for leaks, and that there was anything to find.
func (w *leakWorld) check(t *testing.T) {
	t.Helper()
	var size int
	for where, text := range w.outputs {
		size += len(text)
		found := w.in(text)
		switch where {
		case "GET /config/", "adapted", "autosave", "POST /adapt":
			// Caddy shows them as they are written, literals included.
			if !slices.Equal(found, []string{"literal"}) {
				t.Errorf("%s: found %q, want the literal that is there", where, found)
			}
		default:
			if found != nil {
				t.Errorf("%s: found %q\n%s", where, found, w.around(text, found))
			}
		}
	}
	t.Logf("searched %d outputs, %d bytes, for %d pieces of secrets", len(w.outputs), size, len(w.pieces))
	for _, want := range []string{
		"upstream roundtrip", "sent a request to the API", "http_helper.token_failed", `"level":"debug"`, "SIGABRT: abort", "goroutine ",
		"Bearer " + w.secrets["app"], "http.log.access", "is a literal in the configuration",
	} {
		if !strings.Contains(w.outputs["log"], want) {
			t.Errorf("the log has no %s", want)
		}
	}
	if n := len(w.outputs); n < 40 {
		t.Errorf("only %d outputs", n)
	}
}

// around shows the first place of each secret in a text.
func (w *leakWorld) around(text string, names []string) string {
	var places []string
	for _, name := range names {
		for i := 0; i+leakLength <= len(text); i++ {
			if slices.Contains(w.in(text[i:i+leakLength]), name) {
				places = append(places, name+": "+text[max(0, i-300):min(len(text), i+200)])
				break
			}
		}
	}
	return strings.Join(places, "\n\n")
}
