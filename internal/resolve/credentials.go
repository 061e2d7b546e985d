package resolve

import (
	"crypto/tls"
	"errors"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// readCredentials reads what proves the client. Use r.credentials, which calls it once.
func (r *resolver) readCredentials() (oauth.Credentials, error) {
	s := r.spec
	creds := oauth.Credentials{
		RawBasic: s.RawBasic,
		Alg:      s.SigningAlg,
		Lifetime: s.AssertionLifetime,

		AssertionTyp:  s.AssertionTyp,
		AssertionType: s.ClientAssertionType,

		SecretOption: valueOrFileOption("client_secret", s.SecretFile),
		KeyOption:    valueOrFileOption("client_key", s.KeyFile),
	}
	var errs []error
	read := func(into *string, option string, value, file *placeholder.Template) {
		var err error
		if file != nil {
			*into, err = r.fileOf(file)
			err = withOption(valueOrFileOption(option, file), err)
		} else {
			*into, err = r.expand(option, value)
		}
		errs = append(errs, err)
	}
	key, err := r.privateKey(creds.KeyOption)
	errs = append(errs, err)
	read(&creds.ClientID, "client_id", s.ClientID, nil)
	read(&creds.Secret, "client_secret", s.ClientSecret, s.SecretFile)
	read(&creds.KeyID, "key_id", s.KeyID, nil)
	read(&creds.Audience, "assertion_audience", s.Audience, nil)
	read(&creds.Assertion, "client_assertion", nil, s.AssertionFile)
	creds.Key, creds.CertificateThumbprint = []byte(key.text), key.thumbprint
	errs = append(errs, withOption(creds.SecretOption, placeholder.CheckValue(creds.Secret)))
	for _, secret := range []string{creds.Secret, key.text, creds.Assertion} {
		r.addSecret(secret)
	}
	return creds, errors.Join(errs...)
}

// keyPair is the content of the client's private key and of the certificate that belongs to it.
type keyPair struct{ key, certificate string }

// clientKey is a private key, PEM or JWK, and the thumbprint of its certificate; both are "" without one.
type clientKey struct{ text, thumbprint string }

// privateKey reads the client's private key, if it has one, and the certificate that belongs to it.
func (r *resolver) privateKey(option string) (clientKey, error) {
	var pair keyPair
	var err, certificateErr error
	switch {
	case r.spec.KeyFile != nil:
		pair.key, err = r.fileOf(r.spec.KeyFile)
	case r.spec.ClientKey != nil:
		pair.key, err = r.spec.ClientKey.ExpandLines(r.values)
	default:
		return clientKey{}, nil
	}
	if r.spec.KeyCertificateFile != nil {
		pair.certificate, certificateErr = r.fileOf(r.spec.KeyCertificateFile)
	}
	err = errors.Join(withOption(option, err), withOption("client_key_certificate", certificateErr))
	return r.c.key.Get(pair, err, func(pair keyPair) (clientKey, error) {
		if err := keys.Check([]byte(pair.key)); err != nil || r.spec.KeyCertificateFile == nil {
			return clientKey{text: pair.key}, withOption(option, err)
		}
		thumbprint, err := keys.CertificateThumbprint([]byte(pair.certificate), []byte(pair.key))
		return clientKey{pair.key, thumbprint}, withOption("client_key_certificate", err)
	})
}

// keys reads the keys of a request besides the client's credentials: the client certificate and the DPoP
// key.
func (r *resolver) keys(request *oauth.Request) error {
	var errs []error
	var err error
	request.Certificate, err = r.certificate()
	errs = append(errs, err)
	if r.spec.DPoP {
		request.DPoP, err = r.dpopKey()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// certificate reads the client certificate, or nil if there is none.
func (r *resolver) certificate() (*tls.Certificate, error) {
	if r.c.Certificate == nil {
		return nil, nil
	}
	return r.c.Certificate.LoadWith(r.readFile)
}

// dpopKey reads the DPoP key, unless it was made at start.
func (r *resolver) dpopKey() (*oauth.DPoPKey, error) {
	if r.c.dpop != nil {
		return r.c.dpop, nil
	}
	text, err := r.fileOf(r.spec.DPoPKeyFile)
	if err == nil {
		r.addSecret(text)
	}
	return r.c.dpopFile.Get(text, withOption("dpop", err), oauth.ParseDPoPKey)
}
