package authn

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/token"
)

// Proof is what a route demands of bearer tokens besides themselves: that who
// sends one can show that it is theirs. Whatever is demanded, a token that says
// whom it is bound to is of no use to anybody else.
type Proof uint8

// The demands. One that is not known is met by nothing.
const (
	NoProof          Proof = iota // tokens that are bound to nobody are taken
	CertificateProof              // bound to the client certificate (RFC 8705)
	KeyProof                      // bound to a key that signs each request (RFC 9449)
	AnyProof                      // one of the two
)

// The window in which a DPoP proof may be used, around its iat. Older and newer
// ones are of a clock that is wrong, or were made in advance.
const (
	proofPast   = 60 * time.Second
	proofFuture = 30 * time.Second
)

// binding is to whom a token says that it is bound (RFC 7800 §3.1). The zero
// value is nobody.
type binding struct {
	toCertificate, toKey bool
	certificate, key     token.Thumbprint
}

// bindingOf is not ok for a confirmation that is not understood in all parts:
// what it demands cannot be checked.
func bindingOf(claims map[string]any) (b binding, ok bool) {
	cnf, given := claims["cnf"]
	if !given {
		return binding{}, true
	}
	members, ok := cnf.(map[string]any)
	if !ok || len(members) == 0 {
		return binding{}, false
	}
	for name, value := range members {
		text, _ := value.(string)
		switch name {
		case "x5t#S256":
			b.certificate, b.toCertificate = token.ParseThumbprint(text)
			ok = b.toCertificate
		case "jkt":
			b.key, b.toKey = token.ParseThumbprint(text)
			ok = b.toKey
		default:
			ok = false
		}
		if !ok {
			return binding{}, false
		}
	}
	return b, true
}

// meets reports whether a token that is bound so is what a route demands.
func (b *binding) meets(p Proof) bool {
	switch p {
	case NoProof:
		return true
	case CertificateProof:
		return b.toCertificate
	case KeyProof:
		return b.toKey
	case AnyProof:
		return b.toCertificate || b.toKey
	}
	return false
}

// possession checks that a verified token is its sender's own. It is asked for
// each request, whether the token was remembered or not.
func (a *Authenticator) possession(try *attempt, raw string, claims map[string]any) Reason {
	b, ok := bindingOf(claims)
	switch {
	case !ok:
		return ConfirmationUnknown
	case !b.meets(try.accept.Proof):
		return ProofMissing
	case b.toKey && !try.dpop:
		return ProofDowngraded
	case !b.toKey && try.dpop:
		return ProofUnbound
	}
	if b.toCertificate {
		if reason := try.Peer.holds(b.certificate, try.now); reason != "" {
			return reason
		}
	}
	if b.toKey {
		return a.proofs.check(try, raw, b.key)
	}
	return ""
}

// holds checks that the connection's client certificate is the one of that
// thumbprint.
func (p *Peer) holds(want token.Thumbprint, now time.Time) Reason {
	switch {
	case p.Thumbprint == token.Thumbprint{}:
		return ProofMissing
	case p.Thumbprint != want:
		return ProofWrongKey
	case !now.Before(p.Expires):
		return CertificateExpired
	}
	return ""
}

// proofs checks DPoP proofs. It is safe for concurrent use, and shared by all
// Authenticators of a pool.
type proofs struct {
	replays *replays
	nonces  nonces
}

// check checks the proof of a request by the key that its token is bound to, in
// the order of RFC 9449 §4.3 but for its last: only a proof that is good is
// remembered. A nil proofs takes none.
func (p *proofs) check(try *attempt, raw string, key token.Thumbprint) Reason {
	proof, reason := readProof(try.Header["Dpop"])
	switch {
	case reason != "":
		return reason
	case proof.Key != key:
		return ProofWrongKey
	case proof.Method != try.Method || !sameURL(proof.URL, &try.Credentials):
		return ProofWrongRequest
	case proof.Token != token.Hash(raw):
		return ProofWrongToken
	case !fresh(proof, try.now):
		return ProofNotFresh
	case p == nil:
		return ProofCacheFull
	case try.accept.Nonce && !p.nonces.valid(proof.Nonce, try.now):
		return ProofNonce
	}
	reason = p.replays.take(proof, try.now)
	if reason == "" && try.accept.Nonce && try.Supply != nil {
		p.supply(try, proof.Nonce)
	}
	return reason
}

// supply hands out a nonce before the one that was used is taken no more: past half
// of its life, another one is current (RFC 9449 §8.2).
func (p *proofs) supply(try *attempt, used string) {
	if current := p.nonces.current(try.now); current != used {
		try.Supply(current)
	}
}

func readProof(values []string) (*token.Proof, Reason) {
	switch len(values) {
	case 0:
		return nil, ProofMissing
	case 1:
	default:
		return nil, ProofMalformed
	}
	proof, err := token.VerifyProof(values[0])
	if err == nil {
		return proof, ""
	}
	if e, ok := errors.AsType[*token.Error](err); ok && e.Reason == token.BadSignature {
		return nil, ProofBadSignature
	}
	return nil, ProofMalformed
}

func fresh(p *token.Proof, now time.Time) bool {
	latest := now.Add(proofFuture)
	return !p.IssuedAt.Before(now.Add(-proofPast)) && !p.IssuedAt.After(latest) && !p.NotBefore.After(latest) &&
		(p.Expires.IsZero() || now.Before(p.Expires))
}

// sameURL compares an htu with the request as RFC 9449 §4.3 wants it: after
// normalisation, which is the one that the request went through, and without
// query and fragment.
func sameURL(htu string, c *Credentials) bool {
	const scheme = "https://"
	if len(htu) < len(scheme) || !strings.EqualFold(htu[:len(scheme)], scheme) {
		return false
	}
	rest, _, _ := strings.Cut(htu[len(scheme):], "#")
	rest, _, _ = strings.Cut(rest, "?")
	authority, path := rest, "/"
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	same, err := request.Canonicalise(request.Raw{Method: http.MethodGet, Target: path, Host: authority, ProtoMajor: 2})
	return err == nil && same.Host == c.Host && same.Path == c.Path && portOf(authority) == portOf(c.Authority)
}

// portOf is the port of an authority that has been accepted, or that of https.
func portOf(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		return authority[i+1:]
	}
	return "443"
}
