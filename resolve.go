package httphelper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
)

// resolver reads the values of a connection's texts as they are now, each once.
type resolver struct {
	ctx     context.Context
	c       *activeConnection
	answers map[string]string
	secrets []string // that were met on the way

	failedFlows map[*Flow]error

	revocation string // the revocation endpoint, once the token endpoint is known
}

func (c *activeConnection) resolver(ctx context.Context) *resolver {
	return &resolver{ctx: ctx, c: c, answers: make(map[string]string), failedFlows: make(map[*Flow]error)}
}

// lookup finds the value of a `{param.*}` or `{config.*}`.
func (r *resolver) lookup(kind, key string) (string, error) {
	if kind == kindConfig {
		return r.configValue(key)
	}
	return r.answer(key)
}

// answer is the connection's answer to a parameter.
func (r *resolver) answer(key string) (string, error) {
	if value, ok := r.answers[key]; ok {
		return value, nil
	}
	param, _ := r.c.connector.parameter(key)
	answer := r.c.texts.answers[key]
	value, err := answer.value.expand(nil)
	if answer.file != nil {
		value, err = r.file(answer.file)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("parameter %s: %w", key, err)
	case value == "":
		return "", fmt.Errorf("parameter %s is empty", key)
	case param.Type == typeDropdown && !slices.Contains(param.optionValues(), value):
		return "", fmt.Errorf("parameter %s: the answer is none of its options; %s", key, thereAre(param.optionValues()))
	}
	if param.Type == typePassword {
		r.secrets = append(r.secrets, value)
	}
	r.answers[key] = value
	return value, nil
}

func (r *resolver) configValue(key string) (string, error) {
	config, _ := r.c.connector.configValue(key)
	var value string
	var err error
	if config.Flow != "" {
		value, err = r.flow(r.c.connector.flow(config.Flow))
	} else {
		value, err = r.c.texts.values[key].expand(r.lookup)
	}
	if err != nil {
		return "", fmt.Errorf("config_value %s: %w", key, err)
	}
	if value == "" {
		return "", fmt.Errorf("config_value %s is empty", key)
	}
	if config.Type == typePassword {
		r.secrets = append(r.secrets, value)
	}
	return value, nil
}

// file reads the file whose path a text holds.
func (r *resolver) file(path *text) (string, error) {
	name, err := path.expand(nil)
	if err != nil {
		return "", err
	}
	return readSecretFile(name)
}

// expand expands an optional text.
func (r *resolver) expand(option string, t *text) (string, error) {
	if t == nil {
		return "", nil
	}
	value, err := t.expand(r.lookup)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	return value, nil
}

// material reads the client's credentials.
func (r *resolver) material() (authMaterial, error) {
	t := r.c.texts
	m := authMaterial{
		rawBasic: r.c.service.BasicEncoding == encodingRaw,
		alg:      r.c.config.SigningAlg,
		lifetime: time.Duration(r.c.config.AssertionLifetime),

		secretOption: given("client_secret", t.secretFile),
		keyOption:    given("client_key", t.keyFile),
	}
	var errs []error
	read := func(into *string, option string, value, file *text) {
		var err error
		if file != nil {
			*into, err = r.file(file)
			err = ofOption(given(option, file), err)
		} else {
			*into, err = r.expand(option, value)
		}
		errs = append(errs, err)
	}
	key, err := r.privateKey(m.keyOption)
	errs = append(errs, err)
	read(&m.clientID, "client_id", t.clientID, nil)
	read(&m.secret, "client_secret", t.clientSecret, t.secretFile)
	read(&m.keyID, "key_id", t.keyID, nil)
	read(&m.audience, "assertion_audience", t.audience, nil)
	read(&m.assertion, "client_assertion", nil, t.assertionFile)
	m.key = []byte(key)
	for _, secret := range []string{m.secret, key, m.assertion} {
		if secret != "" {
			r.secrets = append(r.secrets, secret)
		}
	}
	return m, errors.Join(errs...)
}

// privateKey reads the client's private key, if it has one.
func (r *resolver) privateKey(option string) (string, error) {
	t := r.c.texts
	var key string
	var err error
	switch {
	case t.keyFile != nil:
		key, err = r.file(t.keyFile)
	case t.clientKey != nil:
		key, err = t.clientKey.expandLines(nil)
	default:
		return "", nil
	}
	return r.c.key.of(key, ofOption(option, err), func(text string) (string, error) {
		_, err := parsePrivateKey([]byte(text))
		return text, ofOption(option, err)
	})
}

// given is the option as which a value, or a file that holds it, is given.
func given(option string, file *text) string {
	if file != nil {
		return option + "_file"
	}
	return option
}

// ofOption says which option an error is about.
func ofOption(option string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", option, err)
}

// fetch makes one token request with everything as it is now.
func (c *activeConnection) fetch(ctx context.Context) (*grantedToken, error) {
	request, err := c.resolver(ctx).tokenRequest()
	if err != nil {
		return nil, unresolved(err)
	}
	granted, err := request.do(ctx, c.client(request.certificate))
	if err != nil {
		c.issuers.doubt()
	}
	return granted, err
}

// revokeRemoved revokes the last token of a connection that the running config does not have any
// more. One that has only changed may have been given the same token again, and so may one that is
// here again when the process has been restarted.
func (c *activeConnection) revokeRemoved(token *grantedToken) {
	if app := activeApp(); caddy.Exiting() || app.active[c.name] != nil {
		return
	}
	c.revoke(token)
}

// revoke tells the authorization server that a token is not needed any more, if it wants to know
// (RFC 7009). Nothing depends on it.
func (c *activeConnection) revoke(token *grantedToken) {
	if c.texts.revocationURL == nil && c.texts.issuer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout())
	defer cancel()
	r := c.resolver(ctx)
	request := new(tokenRequest)
	err := r.client(request)
	if err == nil && r.revocation != "" {
		err = request.revoke(ctx, c.client(request.certificate), r.revocation, token)
	}
	if err != nil {
		c.logger.Warn("revoking a token failed", zap.String("connection", c.name), zap.Error(unresolved(err)))
	}
}

// unresolved is the failure of a value that could not be had: a flow's own, or a mistake.
func unresolved(err error) error {
	if failed, ok := errors.AsType[*tokenError](err); ok {
		return failed // it says itself what it is about, whatever needs the value
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &tokenError{class: classConfiguration, status: http.StatusBadGateway, message: err.Error()}
}

// tokenRequest resolves everything that the token request is made of.
func (r *resolver) tokenRequest() (*tokenRequest, error) {
	s := r.c.service
	request := &tokenRequest{
		scopes:            r.c.requested,
		required:          r.c.required,
		requireGranted:    s.RequireGrantedScopes,
		grantType:         s.GrantType,
		format:            s.TokenRequestFormat,
		separator:         s.TokenRequestScopeSeparator,
		tokenPointer:      s.TokenPointer,
		expiresInPointer:  s.ExpiresInPointer,
		defaultLifetime:   time.Duration(r.c.config.DefaultLifetime),
		certificateProves: r.c.method.needsCertificate,
	}
	err := errors.Join(r.client(request), r.extras(request), r.flowsOfTarget())
	request.secrets = append(r.secrets, r.c.knownSecrets()...)
	return request, err
}

// client resolves who makes the request, and to whom.
func (r *resolver) client(request *tokenRequest) error {
	m, err := r.material()
	request.clientID = m.clientID
	if err := errors.Join(err, r.keys(request), r.endpoints(request, &m)); err != nil {
		return err
	}
	request.auth, err = r.c.method.make(m)
	return err
}

// extras resolves what the request carries besides.
func (r *resolver) extras(request *tokenRequest) error {
	var errs [3]error
	request.params, errs[0] = r.params()
	request.headers, errs[1] = r.tokenHeaders()
	request.resources, errs[2] = r.resources()
	return errors.Join(errs[:]...)
}

// keys reads what the request proves besides the client's credentials.
func (r *resolver) keys(request *tokenRequest) error {
	var errs []error
	var err error
	if r.c.certificate != nil {
		request.certificate, err = r.c.certificate.load()
		errs = append(errs, err)
	}
	if r.c.config.DPoP != nil {
		request.dpop, err = r.dpopKey()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *resolver) dpopKey() (*dpopKey, error) {
	if r.c.dpop != nil {
		return r.c.dpop, nil
	}
	text, err := r.file(r.c.texts.dpop)
	if err == nil {
		r.secrets = append(r.secrets, text)
	}
	return r.c.dpopFile.of(text, ofOption("dpop", err), parseDPoPKey)
}

// endpoints finds the token endpoint, and the revocation endpoint if any.
func (r *resolver) endpoints(request *tokenRequest, m *authMaterial) error {
	t := r.c.texts
	revocation, err := r.url("revocation_url", t.revocationURL)
	errs := []error{err}
	if revocation != nil {
		r.revocation = revocation.String()
	}
	if t.issuer == nil {
		u, err := r.url("token_url", t.tokenURL)
		if u != nil {
			request.tokenURL = u.String()
		}
		return errors.Join(append(errs, err)...)
	}
	issuer, err := r.url("issuer", t.issuer)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	m.audience = orDefault(m.audience, issuer.String())
	found, err := r.c.issuers.get(issuer.String(), r.c.service.allowsInsecure("token_url")).
		find(r.ctx, r.c.client(request.certificate), r.c.service.authMethod(), request.certificate != nil)
	if err == nil {
		scheme, _, _ := strings.Cut(found.Token, ":")
		err = r.c.method.checkEndpoint(scheme)
	}
	request.tokenURL = found.Token
	r.revocation = orDefault(r.revocation, found.Revocation)
	return errors.Join(append(errs, err)...)
}

func (r *resolver) url(option string, t *text) (*url.URL, error) {
	if t == nil {
		return nil, nil
	}
	u, err := r.c.service.expandURL(option, *t, r.lookup)
	if err == nil && option == "token_url" {
		err = r.c.method.checkEndpoint(u.Scheme)
	}
	if err != nil {
		err = r.unusable(*t, err)
	}
	return u, err
}

func (r *resolver) params() (url.Values, error) {
	params := make(url.Values)
	var errs []error
	for _, p := range r.c.texts.params {
		for _, t := range p.values {
			value, err := r.expand("token_request_param "+p.name, &t)
			r.noteSecret(&t, value)
			errs = append(errs, err)
			params.Add(p.name, value)
		}
	}
	return params, errors.Join(errs...)
}

func (r *resolver) tokenHeaders() (http.Header, error) {
	fields, err := r.fields("token_request_header", r.c.texts.tokenHeaders, true)
	header := make(http.Header)
	for _, f := range fields {
		header.Set(f.Name, f.Value)
	}
	return header, err
}

func (r *resolver) resources() ([]string, error) {
	resources := make([]string, len(r.c.texts.resources))
	errs := make([]error, len(resources))
	for i, t := range r.c.texts.resources {
		resources[i], errs[i] = r.expand("resource", &t)
		if errs[i] == nil {
			errs[i] = checkResourceURI(resources[i])
		}
		if errs[i] != nil {
			errs[i] = r.unusable(t, errs[i])
		}
	}
	return resources, errors.Join(errs...)
}

func (r *resolver) fields(option string, texts []fieldText, header bool) ([]Field, error) {
	fields := make([]Field, len(texts))
	errs := make([]error, len(texts))
	for i, t := range texts {
		value, err := r.expand(option+" "+t.name, &t.value)
		if err == nil && header && !httpguts.ValidHeaderFieldValue(value) {
			err = fmt.Errorf("%s %s: the value may not stand in a header", option, t.name)
		}
		r.noteSecret(&t.value, value)
		fields[i], errs[i] = Field{Name: t.name, Value: value}, err
	}
	return fields, errors.Join(errs...)
}

// noteSecret takes a value that somebody has kept out of the config for a secret, unless it is too
// short for one.
func (r *resolver) noteSecret(t *text, value string) {
	if len(t.keys(kindEnv))+len(t.keys(kindFile)) > 0 && len(value) >= minPiece {
		r.secrets = append(r.secrets, value)
	}
}

// fingerprint is a digest of the credentials and answers, and of what else goes into a token request,
// as they are now.
func (c *activeConnection) fingerprint() (string, error) {
	r := c.resolver(context.Background())
	m, err := r.material()
	errs := []error{err}
	proofKey := ""
	if c.texts.dpop != nil {
		key, err := r.dpopKey()
		errs = append(errs, err)
		if err == nil {
			proofKey = key.thumbprint
		}
	}
	for key := range c.texts.answers {
		_, err := r.answer(key)
		errs = append(errs, err)
	}
	certificate := ""
	if c.certificate != nil {
		certificate, err = c.certificate.fingerprint()
		errs = append(errs, err)
	}
	return digestOf(m.clientID, m.secret, string(m.key), m.assertion, proofKey, certificate, r.answers, r.remainder()), errors.Join(errs...)
}

// remainder is what goes into a token request besides credentials and answers, as it is now: an API
// key in a header may be what is wrong too. What helper flows yield is left out, because they ask
// somebody; what cannot be read is a value too, until it can.
func (r *resolver) remainder() []any {
	t := r.c.texts
	var values []any
	add := func(texts ...text) {
		for _, text := range texts {
			if !r.c.dependsOnFlow(text) {
				value, err := text.expand(r.lookup)
				values = append(values, value, err != nil)
			}
		}
	}
	for _, optional := range []*text{t.tokenURL, t.issuer, t.keyID, t.audience} {
		if optional != nil {
			add(*optional)
		}
	}
	for _, param := range t.params {
		add(param.values...)
	}
	add(valuesOf(t.tokenHeaders)...)
	add(t.resources...)
	return values
}

// dependsOnFlow tells whether a text's value takes a helper flow.
func (c *activeConnection) dependsOnFlow(t text) bool { return len(c.flowsOf(t)) > 0 }

// flowsOf are the helper flows that a text's value takes.
func (c *activeConnection) flowsOf(t text) []*Flow {
	var flows []*Flow
	for _, key := range t.keys(kindConfig) {
		config, _ := c.connector.configValue(key)
		if f := c.connector.flow(config.Flow); f != nil && !slices.Contains(flows, f) {
			flows = append(flows, f)
		}
	}
	return flows
}

// constant tells whether a text's value stays the same while the config runs.
func (c *activeConnection) constant(t text) bool {
	if len(t.keys(kindFile)) > 0 || c.dependsOnFlow(t) {
		return false
	}
	for _, key := range t.keys(kindParam) {
		if answer := c.texts.answers[key]; answer.file != nil || !c.constant(answer.value) {
			return false
		}
	}
	for _, key := range t.keys(kindConfig) {
		if !c.constant(c.texts.values[key]) {
			return false
		}
	}
	return true
}

// digestOf is a digest of values, which may be secret.
func digestOf(values ...any) string {
	sum := sumOf(values...)
	return hex.EncodeToString(sum[:])
}

func sumOf(values ...any) [sha256.Size]byte {
	encoded, err := json.Marshal(values)
	if err != nil {
		panic(err) // plain data only
	}
	return sha256.Sum256(encoded)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
