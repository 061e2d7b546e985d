// An authorization server made of oidc-provider, for the tests. Its configuration is the JSON in
// the environment variable OIDC:
//
//   socket   path of the unix socket to listen on
//   issuer   issuer identifier: the address under which a proxy in front of the socket is reached
//   clients  client metadata as of OpenID registration
//   ttl      lifetime of tokens in seconds, default 3600
//   scopes   scopes that clients may ask for
//   resources  resource indicators (RFC 8707) that exist
//   dpopNonce  whether proofs of possession need a nonce, default false
//
// Whoever stands in front passes the client's certificate on, as the header x-client-certificate:
// PEM, percent-encoded. It is good for certificate-bound tokens and for mutual TLS.

import { X509Certificate, randomBytes } from 'node:crypto';
import { Provider, errors } from 'oidc-provider';

const { socket, issuer, clients, ttl = 3600, scopes = [], resources = [], dpopNonce = false } = JSON.parse(process.env.OIDC);

function clientCertificate(ctx) {
  const pem = ctx.get('x-client-certificate');
  return pem ? new X509Certificate(decodeURIComponent(pem)) : undefined;
}

function resourceServer(ctx, indicator) {
  if (!resources.includes(indicator)) {
    throw new errors.InvalidTarget();
  }
  return { scope: scopes.join(' '), accessTokenTTL: ttl, accessTokenFormat: 'opaque' };
}

const provider = new Provider(issuer, {
  clients: clients.map((client) => ({
    grant_types: ['client_credentials'],
    response_types: [],
    redirect_uris: [],
    ...client,
  })),
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
    'tls_client_auth', 'self_signed_tls_client_auth', 'none',
  ],
  enabledJWA: {
    clientAuthSigningAlgValues: [
      'HS256', 'HS384', 'HS512', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA',
    ],
  },
  scopes,
  ttl: { ClientCredentials: ttl },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    dPoP: {
      enabled: true,
      nonceSecret: dpopNonce ? randomBytes(32) : undefined,
      requireNonce: () => dpopNonce,
    },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      getCertificate: clientCertificate,
      certificateAuthorized: (ctx) => clientCertificate(ctx) !== undefined,
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
        && clientCertificate(ctx).subject.split('\n').reverse().join(',') === expected,
    },
    resourceIndicators: {
      enabled: resources.length > 0,
      getResourceServerInfo: resourceServer,
    },
  },
});

// The address in the issuer, not the socket, is what clients see.
provider.proxy = true;
provider.listen(socket);
