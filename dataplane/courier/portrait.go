package courier

import (
	"encoding/json"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// portraits are what records say of principals: authn gives the same one to all
// requests with the same credential. The zero value is ready.
type portraits struct {
	once  sync.Once
	seed  maphash.Seed
	slots [1024]atomic.Pointer[portrait]
}

// portrait is the end of a record: a message is the fields of all of its parts.
type portrait struct {
	of      *policy.Principal
	encoded []byte
	ok      bool
}

// of returns the fields of a record that tell of a principal, and of what other
// credentials proved. It reports false where a name in them is not text. They are not
// to be changed.
func (p *portraits) of(who *policy.Principal) ([]byte, bool) {
	if who == nil {
		return nil, true
	}
	p.once.Do(func() { p.seed = maphash.MakeSeed() })
	slot := &p.slots[maphash.Comparable(p.seed, who)%uint64(len(p.slots))]
	known := slot.Load()
	if known == nil || known.of != who {
		known = paint(who)
		slot.Store(known)
	}
	return known.encoded, known.ok
}

func paint(who *policy.Principal) *portrait {
	m := &decisionv1.Decision{Principal: portray(who)}
	for _, other := range who.Beside {
		m.Beside = append(m.Beside, portray(other))
	}
	encoded, err := proto.Marshal(m)
	return &portrait{who, encoded, err == nil}
}

func portray(p *policy.Principal) *decisionv1.Principal {
	m := &decisionv1.Principal{
		Kind: p.Kind.String(), Id: clip(p.ID, maxID), Issuer: clip(p.Issuer, maxID), SpiffeId: clip(p.SPIFFEID, maxID),
		Groups: list(p.Groups), Scopes: list(p.Scopes), Provider: p.Provider, Key: p.KeyName, AuthenticatedBy: p.AuthenticatedBy,
		KeyId: clip(p.KeyID, maxName), IssuedAt: moment(p.IssuedAt), ExpiresAt: moment(p.Expires),
		AuthenticatedAt: moment(p.AuthenticatedAt), Acr: clip(p.ACR, maxValue), Amr: list(p.AMR),
	}
	if len(p.Claims) == 0 {
		return m
	}
	claims, err := json.Marshal(p.Claims)
	if m.ClaimsOmitted = err != nil || len(claims) > maxClaims; !m.ClaimsOmitted {
		m.Claims = valid(string(claims))
	}
	return m
}

func list(from []string) []string {
	to := make([]string, 0, min(len(from), maxList))
	for _, s := range from[:min(len(from), maxList)] {
		to = append(to, clip(s, maxValue))
	}
	return to
}
