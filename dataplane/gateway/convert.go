package gateway

import (
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/token"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func providers(from []*compile.Provider) []authn.Provider {
	to := make([]authn.Provider, 0, len(from))
	for _, p := range from {
		if p.Spec.GetX509() == nil {
			to = append(to, provider(p))
		}
	}
	return to
}

func provider(p *compile.Provider) authn.Provider {
	return authn.Provider{
		Namespace: p.Key.Namespace, Name: p.Key.Name, Digest: p.Digest,
		Issuer: p.Spec.GetIssuer(), JWKSURL: p.Spec.GetJwksUrl(), Discovery: p.Spec.GetDiscovery(), JWKS: p.Spec.GetJwks(),
		Introspection: introspection(p.Spec.GetIntrospection()), AllowPrivateAddresses: p.Spec.GetAllowPrivateAddresses(),
		Audiences: p.Spec.GetAudiences(), SubjectClaim: p.Spec.GetSubjectClaim(), GroupsClaim: p.Spec.GetGroupsClaim(),
		Required: requirements(p.Spec.GetRequiredClaims()),
		Leeway:   orNone(p.Spec.GetLeeway(), token.NoLeeway), MaxLifetime: p.Spec.GetMaxLifetime().AsDuration(),
		Algorithms: named[token.Algorithm](p.Spec.GetAlgorithms()), Types: tokenTypes(p.Spec.GetTokenTypes()),
	}
}

func introspection(from *resourcev1.Introspection) *authn.Introspection {
	if from == nil {
		return nil
	}
	return &authn.Introspection{
		Endpoint: from.GetEndpoint(), ClientID: from.GetClientId(), ClientSecretFile: from.GetClientSecretFile(),
		Timeout: from.GetTimeout().AsDuration(), Cache: orNone(from.GetCache(), -1),
	}
}

// orNone tells a duration of zero from one that is absent, which stands for a
// default.
func orNone(d *durationpb.Duration, none time.Duration) time.Duration {
	if d != nil && d.AsDuration() == 0 {
		return none
	}
	return d.AsDuration()
}

func requirements(from []*resourcev1.RequiredClaim) []token.Requirement {
	var to []token.Requirement
	for _, r := range from {
		to = append(to, token.Requirement{Claim: r.GetClaim(), Values: r.GetValues()})
	}
	return to
}

func named[T ~string](from []string) []T {
	var to []T
	for _, s := range from {
		to = append(to, T(s))
	}
	return to
}

func tokenTypes(from []string) []token.Type {
	to := named[token.Type](from)
	for i, t := range to {
		if t == "absent" {
			to[i] = token.NoType
		}
	}
	return to
}

// authorities are the providers that vouch by client certificates.
func authorities(from []*compile.Provider) (to []authority.Spec) {
	for _, p := range from {
		if x := p.Spec.GetX509(); x != nil {
			to = append(to, authority.Spec{
				Namespace: p.Key.Namespace, Name: p.Key.Name, Issuer: p.Spec.GetIssuer(),
				CA: x.GetCa(), CAFile: x.GetCaFile(), CRLFile: x.GetCrlFile(), Subject: subject(x.GetSubject()), Names: x.GetNames(),
			})
		}
	}
	return to
}

func subject(s resourcev1.X509Subject) authority.Subject {
	switch s {
	case resourcev1.X509Subject_X509_SUBJECT_SAN_DNS:
		return authority.DNSName
	case resourcev1.X509Subject_X509_SUBJECT_SAN_EMAIL:
		return authority.EmailAddress
	case resourcev1.X509Subject_X509_SUBJECT_SAN_URI:
		return authority.URI
	case resourcev1.X509Subject_X509_SUBJECT_COMMON_NAME:
		return authority.CommonName
	}
	return 0 // no name at all
}

func federated(from []*compile.TrustDomain) []identity.Federated {
	to := make([]identity.Federated, len(from))
	for i, d := range from {
		to[i] = identity.Federated{
			TrustDomain: identity.TrustDomain(d.Spec.GetTrustDomain()), Bundle: d.Spec.GetBundle(), File: d.Spec.GetBundleFile(),
			Endpoint: bundleEndpoint(d.Spec.GetBundleEndpoint()),
		}
	}
	return to
}

func bundleEndpoint(from *resourcev1.BundleEndpoint) identity.Endpoint {
	to := identity.Endpoint{URL: from.GetUrl(), Private: from.GetAllowPrivateAddresses()}
	switch of := from.GetProfile().(type) {
	case *resourcev1.BundleEndpoint_Web:
		to.Profile = identity.WebProfile
	case *resourcev1.BundleEndpoint_Spiffe:
		to.Profile = identity.SPIFFEProfile
		to.ID, to.Bootstrap = identity.ID(of.Spiffe.GetEndpointSpiffeId()), of.Spiffe.GetBootstrap()
	}
	return to
}

func apiKeys(from []*compile.APIKey) []authn.APIKey {
	to := make([]authn.APIKey, len(from))
	for i, k := range from {
		to[i] = authn.APIKey{
			Namespace: k.Key.Namespace, Name: k.Key.Name,
			Owner: k.Spec.GetOwner(), Scopes: k.Spec.GetScopes(), Groups: k.Spec.GetGroups(),
		}
		for _, s := range k.Spec.GetSecrets() {
			to[i].Secrets = append(to[i].Secrets, apiKeySecret(s))
		}
	}
	return to
}

// apiKeySecret is a secret of a document that package resource has accepted; of
// anything else it is the digest of nothing.
func apiKeySecret(s *resourcev1.ApiKeySecret) authn.APIKeySecret {
	to := authn.APIKeySecret{ID: s.GetId(), CreatedAt: s.GetCreatedAt().AsTime()}
	if sum, err := hex.DecodeString(s.GetSha256()); err == nil {
		copy(to.Digest[:], sum)
	}
	if s.GetNotAfter() != nil {
		to.NotAfter = s.GetNotAfter().AsTime()
	}
	return to
}

// accept says what a route takes as proof of identity.
func accept(r *compile.Route) authn.Accept {
	to := authn.Accept{
		Introspected:       r.Authentication.GetRequireIntrospection(),
		ClientCertificates: r.Authentication.GetClientCertificates(),
		Anonymous:          r.Authentication.GetAnonymous(),
		All:                r.Authentication.GetRequire() == resourcev1.Require_REQUIRE_ALL,
		Proof:              proof(r.Authentication.GetProof()),
		Nonce:              r.Authentication.GetDpopNonce(),
	}
	if s := r.Authentication.GetJwtSvids(); s != nil {
		to.JWTAudiences = s.GetAudiences()
	}
	if r.Authentication.GetApiKeys() {
		to.APIKeys = r.Key.Namespace
	}
	if s := r.Authentication.GetStepUp(); s != nil {
		to.StepUp = &authn.StepUp{ACRValues: s.GetAcrValues(), AMR: s.GetAmr(), MaxAge: s.GetMaxAge().AsDuration()}
	}
	if r.SignIn != nil {
		to.Sessions = authn.Sessions{Provider: providerName(r.SignIn.Key), Lifetime: r.SessionLifetime}
	}
	for _, p := range r.Providers {
		if p.Spec.GetX509() != nil {
			to.Authorities = append(to.Authorities, authority.Name{Namespace: p.Key.Namespace, Name: p.Key.Name})
			continue
		}
		to.Providers = append(to.Providers, providerName(p.Key))
	}
	return to
}

// proof makes what is not known a demand that nothing meets.
func proof(p resourcev1.Proof) authn.Proof {
	switch p {
	case resourcev1.Proof_PROOF_UNSPECIFIED:
		return authn.NoProof
	case resourcev1.Proof_PROOF_CERTIFICATE:
		return authn.CertificateProof
	case resourcev1.Proof_PROOF_DPOP:
		return authn.KeyProof
	case resourcev1.Proof_PROOF_ANY:
		return authn.AnyProof
	}
	return authn.AnyProof + 1
}

func providerName(k resource.Key) authn.ProviderName {
	return authn.ProviderName{Namespace: k.Namespace, Name: k.Name}
}

// openID returns where people sign in, nil for no provider or one that is not for
// that.
func openID(p *compile.Provider) *signin.Provider {
	if p == nil || p.Spec.GetSignIn() == nil {
		return nil
	}
	client := p.Spec.GetSignIn()
	return &signin.Provider{
		Name: providerName(p.Key), Issuer: p.Spec.GetIssuer(), ClientID: client.GetClientId(),
		SecretFile: client.GetClientSecretFile(), Private: p.Spec.GetAllowPrivateAddresses(), Scopes: client.GetScopes(), Claims: client.GetClaims(),
		UserInfo: client.GetUserinfo(),
	}
}

// peers leaves out what is no pattern, so that it matches nobody.
func peers(from []string) []identity.Pattern {
	var to []identity.Pattern
	for _, text := range from {
		if p, err := pattern.ParseSPIFFE(text); err == nil {
			to = append(to, p)
		}
	}
	return to
}

func upstreamName(k resource.Key) upstream.Name {
	return upstream.Name{Namespace: k.Namespace, Name: k.Name}
}

func name(k resource.Key) string { return k.Namespace + "/" + k.Name }
