package httphelper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// activeConnection is a connection in a loaded config: everything that gets tokens and places
// requests.
type activeConnection struct {
	// What each request needs.
	source  *tokenSource
	fixed   *apiTarget // nil: it depends on what may change while the config runs
	metrics *connectionMetrics
	sent    atomic.Pointer[grantedToken] // the last one
	app     *App

	name      string
	config    *Connection
	service   *Service
	connector *Connector // nil: the connection holds its service itself
	method    authMethod
	logger    *zap.Logger

	requested, required []string // scopes

	texts       connectionTexts
	certificate *certificateLoader          // nil: no client certificate
	key         lastGood[string, string]    // the private key of the client, PEM or JWK
	dpop        *dpopKey                    // made at start; nil: bearer tokens, or the key is in a file
	dpopFile    lastGood[string, *dpopKey]  // the key in the file, with what it has learned
	issuers     issuerCache                 // metadata of the issuer, if the token endpoint is found that way
	transport   *reverseproxy.HTTPTransport // towards the authorization server
	certified   *certificateTransports      // the same with the certificate; nil without one
	watching    chan struct{}               // closed when the certificate is not looked at any more; nil: it is not
	user        sourceUser
	header      atomic.Pointer[preparedHeader]
	api         *lateTarget // where fixed is nil

	// How the app's requests go, and pings with them: as the first handler and transport say.
	injection *Injection
	way       *route
	upstream  string // the first address of the user's; empty: the base URL's own
	ownWay    *route // nil: the way is a transport's
}

// preparedHeader is the unusual value of a header with a token, prepared once for many requests.
type preparedHeader struct {
	token  *grantedToken
	prefix string
	value  [1]string
}

// activate checks a connection against its connector and gets it its token source. Nobody is
// contacted.
func (c *activeConnection) activate(app *App, name string, config *Connection) error {
	c.name, c.app, c.config, c.logger = name, app, config, app.logger
	if err := errors.Join(validName(name), c.checkAlone(app)); err != nil {
		return err
	}
	requested, required, warnings, err := c.connector.requestedScopes(config)
	c.requested, c.required = requested, required
	if err := errors.Join(err, c.provisionKeys(), c.provisionTransport(app)); err != nil {
		return err
	}
	if err := c.checkValues(); err != nil {
		return err
	}
	for _, warning := range slices.Concat(warnings, c.literalSecrets(), c.secretsInHost()) {
		c.logger.Warn(warning, zap.String("connection", name))
	}
	for _, what := range c.service.AllowInsecure {
		c.logger.Warn("allow_insecure permits to send secrets or tokens where others can read them",
			zap.String("connection", name), zap.String("url", what))
	}
	c.acquire()
	return nil
}

// checkAlone checks the connection without its environment.
func (c *activeConnection) checkAlone(app *App) error {
	if err := c.findService(app); err != nil {
		return err
	}
	var errs []error
	if c.connector == nil {
		errs = append(errs, c.service.check())
	}
	errs = append(errs, c.checkOptions())
	if !strings.Contains(strings.Join(c.config.Scopes, "")+c.config.AdditionalScopes, "{") {
		_, _, _, err := c.connector.requestedScopes(c.config)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.parseTexts())...)
}

// findService sets where c's service is described.
func (c *activeConnection) findService(app *App) error {
	if c.config.Connector == "" {
		c.service = c.config.ownService()
		return nil
	}
	connector := app.Connectors[c.config.Connector]
	if connector == nil {
		return fmt.Errorf("there is no connector %s", c.config.Connector)
	}
	if own := c.config.Service; own != nil && !reflect.ValueOf(*own).IsZero() {
		return fmt.Errorf("options of the service belong into the connector %s", c.config.Connector)
	}
	c.connector, c.service = connector, &connector.Service
	return nil
}

// checkOptions checks that the options of the connection are complete and fit together.
func (c *activeConnection) checkOptions() error {
	method, err := lookupAuthMethod(c.service.AuthMethod)
	if err != nil {
		return nil // reported by Service.check
	}
	c.method = method
	conn := c.config
	errs := []error{c.checkCredentialOptions(), c.checkAnswers()}
	if conn.ClientID == "" {
		errs = append(errs, errors.New("client_id is missing"))
	}
	for _, d := range []struct {
		option string
		value  caddy.Duration
	}{
		{"refresh_before", conn.RefreshBefore},
		{"default_lifetime", conn.DefaultLifetime},
		{"token_timeout", conn.TokenTimeout},
		{"assertion_lifetime", conn.AssertionLifetime},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative", d.option))
		}
	}
	if lifetime := time.Duration(conn.AssertionLifetime); lifetime > 0 && lifetime < time.Second {
		errs = append(errs, errors.New("assertion_lifetime must be a second at least, which is how finely assertions tell time"))
	}
	return errors.Join(errs...)
}

// checkCredentialOptions compares the credentials given with what the method needs.
func (c *activeConnection) checkCredentialOptions() error {
	conn, method := c.config, c.service.authMethod()
	var errs []error
	given := func(options map[string]string) []string {
		var names []string
		for _, option := range sortedKeys(options) {
			if options[option] != "" {
				names = append(names, option)
			}
		}
		return names
	}
	one := func(needed bool, names []string, need string) {
		switch {
		case len(names) > 1:
			errs = append(errs, fmt.Errorf("%s exclude each other", strings.Join(names, " and ")))
		case needed && len(names) == 0:
			errs = append(errs, fmt.Errorf("auth_method %s needs %s", method, need))
		case !needed && len(names) == 1:
			errs = append(errs, fmt.Errorf("%s is not for auth_method %s", names[0], method))
		}
	}
	one(c.method.needsSecret, given(map[string]string{"client_secret": conn.ClientSecret, "client_secret_file": conn.ClientSecretFile}),
		"client_secret or client_secret_file")
	one(c.method.needsKey, given(map[string]string{"client_key": conn.ClientKey, "client_key_file": conn.ClientKeyFile, "client_assertion_file": conn.ClientAssertionFile}),
		"client_key_file, client_key or client_assertion_file")
	signing := given(map[string]string{"key_id": conn.KeyID, "signing_alg": conn.SigningAlg, "assertion_audience": conn.AssertionAudience})
	if conn.AssertionLifetime != 0 {
		signing = append(signing, "assertion_lifetime")
	}
	if len(signing) > 0 && (!c.method.signs || conn.ClientAssertionFile != "") {
		errs = append(errs, fmt.Errorf("%s: nothing is signed here with auth_method %s", strings.Join(signing, ", "), method))
	}
	return errors.Join(append(errs, c.checkCertificateOptions())...)
}

func (c *activeConnection) checkCertificateOptions() error {
	conn := c.config
	switch {
	case (conn.ClientCertificateFile == "") != (conn.ClientCertificateKeyFile == ""):
		return errors.New("client_certificate needs both the certificate's file and the key's")
	case c.method.needsCertificate && conn.ClientCertificateFile == "":
		return fmt.Errorf("auth_method %s needs client_certificate", c.service.authMethod())
	default:
		return nil
	}
}

// checkAnswers compares the connection's answers with the connector's questions.
func (c *activeConnection) checkAnswers() error {
	var errs []error
	for _, key := range sortedKeys(c.config.Parameters) {
		answer := c.config.Parameters[key]
		switch {
		case c.connector == nil:
			return errors.New("parameter needs a connector that asks for it")
		case answer.Value != "" && answer.File != "":
			errs = append(errs, fmt.Errorf("parameter %s: parameter and parameter_file exclude each other", key))
		}
		if _, ok := c.connector.parameter(key); !ok {
			errs = append(errs, fmt.Errorf("parameter %s: the connector %s does not ask for it", key, c.connector.name))
		}
	}
	if c.connector == nil {
		return nil
	}
	for _, p := range c.connector.Parameters {
		if answer := c.answer(p); answer == (Answer{}) {
			errs = append(errs, fmt.Errorf("parameter %s is missing: the connector %s asks for it", p.Key, c.connector.name))
		}
	}
	return errors.Join(errs...)
}

// answer is what stands for a parameter: the connection's answer or a dropdown's default.
func (c *activeConnection) answer(p Parameter) Answer {
	if answer, ok := c.config.Parameters[p.Key]; ok && answer != (Answer{}) {
		return answer
	}
	return Answer{Value: p.Default}
}

// literalSecrets are warnings about secrets that stand in the config itself.
func (c *activeConnection) literalSecrets() []string {
	var warnings []string
	warn := func(option string) {
		warnings = append(warnings, option+" stands in the config as it is, where Caddy shows it: use {env.*}, {file.*} or a file")
	}
	if c.texts.clientSecret != nil && c.texts.clientSecret.literal() {
		warn("client_secret")
	}
	if c.texts.clientKey != nil && c.texts.clientKey.literal() {
		warn("client_key")
	}
	if c.connector == nil {
		return warnings
	}
	for _, p := range c.connector.Parameters {
		if answer := c.texts.answers[p.Key]; p.Type == typePassword && answer.file == nil && answer.value.literal() {
			warn("parameter " + p.Key)
		}
	}
	for _, v := range c.connector.ConfigValues {
		if t := c.texts.values[v.Key]; v.Type == typePassword && v.Flow == "" && t.literal() {
			warn("config_value " + v.Key)
		}
	}
	return warnings
}

// secretsInHost warns about a host that is made of what people may not see: Caddy knows it as an
// upstream.
func (c *activeConnection) secretsInHost() []string {
	if c.fixed == nil {
		return nil
	}
	var warnings []string
	d := c.display()
	for _, kind := range []string{kindParam, kindConfig} {
		for _, key := range c.texts.baseURL.keys(kind) {
			value, err := d.resolver.lookup(kind, key)
			if err == nil && !d.mayShow(kind, key) && strings.Contains(c.fixed.base.Host, strings.ToLower(value)) {
				warnings = append(warnings, "base_url has {"+kind+"."+key+"} in its host, which Caddy's log and admin endpoint show")
			}
		}
	}
	return warnings
}

// provisionKeys finds what the client has besides a secret.
func (c *activeConnection) provisionKeys() error {
	t := c.texts
	c.key.owner, c.dpopFile.owner = c, c
	if t.certificateFile != nil {
		certFile, err := t.certificateFile.expand(nil)
		keyFile, keyErr := t.certificateKey.expand(nil)
		if err := errors.Join(err, keyErr); err != nil {
			return fmt.Errorf("client_certificate: %w", err)
		}
		c.certificate = &certificateLoader{certFile: certFile, keyFile: keyFile}
		c.certificate.last.owner = c
	}
	if c.config.DPoP == nil {
		return nil
	}
	var err error
	if t.dpop == nil {
		c.dpop, err = generateDPoPKey()
		return err
	}
	_, err = c.resolver(context.Background()).dpopKey()
	return err
}

// warnUnusable tells of a key or certificate that cannot be used any more.
func (c *activeConnection) warnUnusable(reason error) {
	c.logger.Warn("a key or certificate on disk cannot be used; the last good one stays in use for a moment",
		zap.String("connection", c.name), zap.Duration("moment", replacementTime), zap.String("reason", reason.Error()))
}

// provisionTransport builds what talks to the authorization server.
func (c *activeConnection) provisionTransport(app *App) error {
	var err error
	if c.transport, err = app.tokenTransport(c.service.TokenTransport); err != nil {
		return err
	}
	if c.transport.TLS != nil && c.transport.TLS.InsecureSkipVerify && !c.service.allowsInsecure("token_url") {
		return errors.New("token_transport: tls_insecure_skip_verify needs allow_insecure token_url")
	}
	if c.certificate != nil {
		c.certified = &certificateTransports{base: c.transport.Transport}
	}
	return nil
}

// plainClient makes requests to the authorization server that prove nothing.
func (c *activeConnection) plainClient() *http.Client { return newTokenClient(c.transport) }

// client makes requests to the authorization server, with the client certificate if there is one.
func (c *activeConnection) client(certificate *tls.Certificate) *http.Client {
	if certificate == nil {
		return c.plainClient()
	}
	return newTokenClient(c.certified.showing(certificate))
}

// acquire takes the source of the connection's tokens, which a running config may hold already.
func (c *activeConnection) acquire() {
	c.metrics = acquireMetrics(c.name)
	c.user = sourceUser{
		name:          c.name,
		host:          c.tokenHost(),
		fetcher:       tracedFetcher{c},
		refreshBefore: time.Duration(c.config.RefreshBefore),
		timeout:       time.Duration(c.config.TokenTimeout),
		warm:          c.config.Warm,
		logger:        c.logger,
		owner:         c,
	}
	c.source = acquireTokenSource(c.identity(), &c.user)
}

// release lets go of the connection's token source.
func (c *activeConnection) release() {
	c.source.release(&c.user)
	c.metrics.release()
	if c.ownWay != nil {
		_ = c.ownWay.Cleanup()
	}
	if c.certified != nil {
		c.certified.CloseIdleConnections()
	}
	if c.watching != nil {
		close(c.watching)
	}
}

// accepts checks where the token goes against the connector's own headers.
func (c *activeConnection) accepts(i *Injection) error {
	if c.injection == nil {
		c.injection = i
	}
	for _, f := range c.service.APIHeaders {
		if f.Name == i.AccessTokenHeader.Field {
			return fmt.Errorf("connection %s: api_header %s is where the token goes", c.name, f.Name)
		}
	}
	return nil
}

// headerValue is the value of the header that carries a token. It is shared by requests and must
// not be changed.
func (c *activeConnection) headerValue(ctx context.Context, i *Injection, token *grantedToken) []string {
	if c.sent.Load() != token {
		c.app.tracing.learn(ctx) // once a token is often enough, and need not be paid by every request
		c.sent.Store(token)
	}
	prefix := i.prefix(token)
	if token.usuallyBehind(prefix) {
		return token.usual[:]
	}
	if h := c.header.Load(); h != nil && h.token == token && h.prefix == prefix {
		return h.value[:]
	}
	h := &preparedHeader{token: token, prefix: prefix, value: [1]string{prefix + token.value}}
	c.header.Store(h)
	return h.value[:]
}

// refresh replaces the connection's token now, and revokes the old one.
func (c *activeConnection) refresh(ctx context.Context) error {
	old := c.source.peek()
	if err := c.source.refresh(ctx); err != nil {
		return err
	}
	if now := c.source.peek(); old != nil && now != nil && now.value != old.value {
		go c.revoke(old) //nolint:gosec // it must outlive the request that asked for the refresh
	}
	return nil
}

// token returns the token for a request. The connection's own token_timeout bounds the wait, even
// where it shares the token with a more patient one.
func (c *activeConnection) token(ctx context.Context) (*grantedToken, error) {
	if token := c.source.ready(ctx); token != nil {
		return token, nil
	}
	limited, cancel := context.WithTimeout(ctx, c.timeout()+timeoutGrace)
	defer cancel()
	token, err := c.source.Token(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil, errTokenTimeout
	}
	return token, err
}

// timeoutGrace lets an attempt that began with a wait end by itself, and say why.
const timeoutGrace = 100 * time.Millisecond

// target is where the connection's requests go.
func (c *activeConnection) target(ctx context.Context) (*apiTarget, error) {
	if c.fixed != nil {
		return c.fixed, nil
	}
	return c.api.get(ctx)
}

// authMethod is the name of the method, the default included.
func (s *Service) authMethod() string {
	if s.AuthMethod == "" {
		return defaultAuthMethod
	}
	return s.AuthMethod
}

// optionValues are what a dropdown can be answered with.
func (p Parameter) optionValues() []string {
	values := make([]string, len(p.Options))
	for i, option := range p.Options {
		values[i] = option.Value
	}
	return values
}
