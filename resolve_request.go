package httphelper

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// tokenRequest resolves everything that the token request is made of, and the flows that requests to
// the API need: so a flow that fails is known as early and as widely as if the token needed it.
func (r *resolver) tokenRequest() (*tokenRequest, error) {
	s := r.spec
	request := &tokenRequest{
		scopes:            s.requestedScopes,
		required:          s.requiredScopes,
		requireGranted:    s.requireGrantedScopes,
		grantType:         s.grantType,
		format:            s.requestFormat,
		separator:         s.scopeSeparator,
		tokenPointer:      s.tokenPointer,
		expiresInPointer:  s.expiresInPointer,
		defaultLifetime:   s.defaultLifetime,
		certificateProves: s.method.needsCertificate,
	}
	_, err := r.client(request)
	return request, errors.Join(err, r.extras(request), r.flowsOfTarget())
}

// client resolves who makes the request, and to which endpoint. It returns the revocation endpoint, if
// there is one.
func (r *resolver) client(request *tokenRequest) (revocation string, err error) {
	m, err := r.credentials()
	request.clientID = m.clientID
	errs := []error{err, r.keys(request)}
	revocation, err = r.endpoints(request, &m)
	if err := errors.Join(append(errs, err)...); err != nil {
		return "", err
	}
	request.auth, err = r.spec.method.make(m)
	return revocation, err
}

// credentials reads what proves the client, once in a pass.
func (r *resolver) credentials() (authMaterial, error) {
	if !r.credentialsRead {
		r.credentialsRead = true
		r.authMaterial, r.credentialsErr = r.readCredentials()
	}
	return r.authMaterial, r.credentialsErr
}

func (r *resolver) readCredentials() (authMaterial, error) {
	s := r.spec
	m := authMaterial{
		rawBasic: s.rawBasic,
		alg:      s.signingAlg,
		lifetime: s.assertionLifetime,

		secretOption: valueOrFileOption("client_secret", s.secretFile),
		keyOption:    valueOrFileOption("client_key", s.keyFile),
	}
	var errs []error
	read := func(into *string, option string, value, file *text) {
		var err error
		if file != nil {
			*into, err = r.fileOf(file)
			err = withOption(valueOrFileOption(option, file), err)
		} else {
			*into, err = r.expand(option, value)
		}
		errs = append(errs, err)
	}
	key, err := r.privateKey(m.keyOption)
	errs = append(errs, err)
	read(&m.clientID, "client_id", s.clientID, nil)
	read(&m.secret, "client_secret", s.clientSecret, s.secretFile)
	read(&m.keyID, "key_id", s.keyID, nil)
	read(&m.audience, "assertion_audience", s.audience, nil)
	read(&m.assertion, "client_assertion", nil, s.assertionFile)
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
	var key string
	var err error
	switch {
	case r.spec.keyFile != nil:
		key, err = r.fileOf(r.spec.keyFile)
	case r.spec.clientKey != nil:
		key, err = r.spec.clientKey.expandLines(r.values)
	default:
		return "", nil
	}
	return r.c.key.of(key, withOption(option, err), func(text string) (string, error) {
		_, err := parsePrivateKey([]byte(text))
		return text, withOption(option, err)
	})
}

// keys reads what the request proves besides the client's credentials.
func (r *resolver) keys(request *tokenRequest) error {
	var errs []error
	var err error
	request.certificate, err = r.certificate()
	errs = append(errs, err)
	if r.spec.dpop {
		request.dpop, err = r.dpopKey()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// certificate is the client certificate, nil for a connection without one.
func (r *resolver) certificate() (*tls.Certificate, error) {
	if r.c.certificate == nil {
		return nil, nil
	}
	return r.c.certificate.loadWith(r.readFile)
}

func (r *resolver) dpopKey() (*dpopKey, error) {
	if r.c.dpop != nil {
		return r.c.dpop, nil
	}
	text, err := r.fileOf(r.spec.dpopKeyFile)
	if err == nil {
		r.secrets = append(r.secrets, text)
	}
	return r.c.dpopFile.of(text, withOption("dpop", err), parseDPoPKey)
}

// endpoints finds the token endpoint, and the revocation endpoint if any.
func (r *resolver) endpoints(request *tokenRequest, m *authMaterial) (revocation string, err error) {
	s := r.spec
	u, revocationErr := r.url("revocation_url", s.revocationURL)
	if u != nil {
		revocation = u.String()
	}
	if s.issuer == nil {
		u, err := r.url("token_url", s.tokenURL)
		if u != nil {
			request.tokenURL = u.String()
		}
		return revocation, errors.Join(revocationErr, err)
	}
	issuer, err := r.url("issuer", s.issuer)
	if err != nil {
		return "", errors.Join(revocationErr, err)
	}
	m.audience = cmp.Or(m.audience, issuer.String())
	found, err := r.c.issuer.endpoints(r.ctx, r.c.clients.client(request.certificate), issuerRequest{
		issuer: issuer.String(), allowInsecure: s.insecureURLs.token, method: s.authMethod, withCertificate: request.certificate != nil,
	})
	if err == nil {
		scheme, _, _ := strings.Cut(found.Token, ":")
		err = s.method.checkEndpoint(scheme)
	}
	request.tokenURL = found.Token
	return cmp.Or(revocation, found.Revocation), errors.Join(revocationErr, err)
}

// extras resolves what the request carries besides.
func (r *resolver) extras(request *tokenRequest) error {
	var errs [3]error
	request.params, errs[0] = r.params()
	request.headers, errs[1] = r.tokenHeaders()
	request.resources, errs[2] = r.resources()
	return errors.Join(errs[:]...)
}

func (r *resolver) params() (url.Values, error) {
	params := make(url.Values)
	var errs []error
	for _, p := range r.spec.params {
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
	fields, err := r.fields("token_request_header", r.spec.tokenHeaders, true)
	header := make(http.Header)
	for _, f := range fields {
		header.Set(f.Name, f.Value)
	}
	return header, err
}

func (r *resolver) resources() ([]string, error) {
	resources := make([]string, len(r.spec.resources))
	errs := make([]error, len(resources))
	for i, t := range r.spec.resources {
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
