package registry

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// ProxyID returns the name of a proxy process.
func ProxyID(spiffeID, instance string) storage.ProxyID {
	return storage.ProxyID(spiffeID + "#" + instance)
}

// Registration is what a proxy says of itself.
type Registration struct {
	SPIFFEID        string // from its certificate
	Instance        string
	Build           string
	ProtocolVersion int32
	SealingKey      []byte // to which secrets are sealed for it; empty for none
	Cloud, Region   string // where it says that it runs
	StartedAt       time.Time
	AckKey          []byte // with which it signs what it acknowledges; empty for none
	// Binding binds these keys to its SVID for others; nil for nothing.
	Binding *proxyv1.KeyBinding
}

// given is what is kept of it besides the status.
func (r Registration) given(keeps bool) given {
	if !keeps {
		return given{sealing: r.SealingKey}
	}
	return given{r.SealingKey, r.Binding}
}

// claim is where the process says that it is; nil if nowhere.
func (r Registration) claim() *adminv1.Place {
	cloud, region := clip(r.Cloud, maxLabel), clip(r.Region, maxLabel)
	if cloud == "" && region == "" {
		return nil
	}
	return &adminv1.Place{Cloud: cloud, Region: region, Claimed: true}
}

// startedAt is when the process says that it began; nil if it does not.
func (r Registration) startedAt() *timestamppb.Timestamp {
	if r.StartedAt.IsZero() {
		return nil
	}
	return timestamppb.New(r.StartedAt)
}

// same reports whether it is the process that is known.
func (r Registration) same(p *adminv1.Proxy) bool {
	return bytes.Equal(r.AckKey, p.GetAckKey()) && proto.Equal(r.startedAt(), p.GetStartedAt())
}

// Register records a proxy process. It returns where it is admitted, or
// ErrNotAdmitted: then it stays pending, unless it is ErrBarred: then nothing that it
// says is recorded. ErrTooMany, ErrInstance.
func (r *Registry) Register(reg Registration) (Admission, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	admission, refused := r.admit(reg.SPIFFEID)
	if errors.Is(refused, ErrBarred) {
		return admission, refused
	}
	id, old, err := r.known(reg)
	if err != nil {
		return Admission{}, err
	}
	p := proto.CloneOf(old.proxy)
	p.Build, p.ProtocolVersion, p.LastSeenAt = clip(reg.Build, maxBuild), reg.ProtocolVersion, timestamppb.New(r.now())
	p.Lacks = snapshot.Protocol(reg.ProtocolVersion).Lacks()
	p.Environment, p.Labels = admission.Environment, admission.Labels
	said := old.acks
	if !reg.same(p) {
		p.Proofs, p.SecurityProof, said = nil, nil, nil // they are of another process
	}
	p.Place, p.StartedAt, p.AckKey = reg.claim(), reg.startedAt(), reg.AckKey
	switch pending := p.GetConnection() == adminv1.Connection_CONNECTION_PENDING; {
	case old.session != nil: // its stream says what it is
	case refused != nil && !pending:
		p.Connection = adminv1.Connection_CONNECTION_PENDING
		r.log.Info("proxy is pending", "proxy", string(id), "err", refused)
	case refused == nil && pending:
		p.Connection = adminv1.Connection_CONNECTION_UNSPECIFIED
	}
	r.given[id] = reg.given(r.keeps)
	r.put(id, &entry{proxy: p, session: old.session, acks: said})
	return admission, refused
}

// known returns the entry of a process, or a new one. It needs the mutex.
func (r *Registry) known(reg Registration) (storage.ProxyID, *entry, error) {
	id := ProxyID(reg.SPIFFEID, reg.Instance)
	if e := r.local[id]; e != nil {
		return id, e, nil
	}
	switch {
	case !isInstance(reg.Instance):
		return "", nil, ErrInstance
	case r.instances[reg.SPIFFEID] >= maxInstances:
		return "", nil, ErrTooMany
	}
	return id, &entry{proxy: &adminv1.Proxy{
		Id: string(id), SpiffeId: reg.SPIFFEID, Instance: reg.Instance, RegisteredAt: timestamppb.New(r.now()),
	}}, nil
}

// isInstance is the rule of proxy.proto: it keeps what a process calls itself
// from passing for something else in logs, listings and keys.
func isInstance(s string) bool {
	alphanumeric := func(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' }
	for i := range len(s) {
		if !alphanumeric(s[i]) && !strings.ContainsRune("._-", rune(s[i])) {
			return false
		}
	}
	return s != "" && len(s) <= 253 && alphanumeric(s[0]) && alphanumeric(s[len(s)-1])
}
