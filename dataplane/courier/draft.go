package courier

import (
	"encoding/hex"
	"encoding/json"
	"hash/maphash"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// Bounds of what a record holds of a request, in bytes and in number.
const (
	maxPath    = 2048
	maxTarget  = 2048
	maxDetail  = 1024
	maxValue   = 256
	maxAddress = 261 // [host]:port
	maxTries   = 100
	maxName    = 128
	maxHeaders = 64
	maxQueries = 32
	maxClaims  = 4096
	maxList    = 256
	maxID      = 2048
)

// told are the fields whose values are recorded: none of them is a credential.
var told = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "Content-Length": true,
	"Content-Type": true, "Origin": true, "User-Agent": true,
}

// draft is a message that is made again and again.
type draft struct {
	decision decisionv1.Decision
	at       timestamppb.Timestamp
	request  decisionv1.Request
	signals  decisionv1.Signals
	address  decisionv1.Address
	tls      decisionv1.TLS
	device   device
	timings  decisionv1.Timings
	known    durationpb.Duration
	decided  durationpb.Duration
	ages     [2]durationpb.Duration
	headers  [maxHeaders]decisionv1.Header

	client, peer text
}

// drafts makes records. The zero value is ready, and safe for concurrent use.
type drafts struct {
	idle    sync.Pool // of *draft
	endings sync.Pool // of *ending
	buffers sync.Pool // of *[]byte
	people  portraits
}

// encode returns the record of d, which stands for count requests, until release. It
// is empty where d has a name that is not text, and then nobody takes it.
func (p *drafts) encode(d *record.Decision, count int64) *[]byte {
	m, ok := p.idle.Get().(*draft)
	if !ok {
		m = &draft{}
	}
	defer p.idle.Put(m)
	m.write(d, count)
	b := p.bytes(&m.decision)
	if about, ok := p.people.of(d.Principal); ok && len(*b) > 0 {
		*b = append(*b, about...)
	} else {
		*b = (*b)[:0]
	}
	return b
}

// bytes returns those of a message, until release; none if it has what is not text.
func (p *drafts) bytes(m proto.Message) *[]byte {
	b, ok := p.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	encoded, err := proto.MarshalOptions{}.MarshalAppend((*b)[:0], m)
	if err != nil {
		encoded = (*b)[:0]
	}
	*b = encoded
	return b
}

func (p *drafts) release(b *[]byte) { p.buffers.Put(b) }

func (m *draft) write(d *record.Decision, count int64) {
	m.at.Seconds, m.at.Nanos = d.Time.Unix(), int32(d.Time.Nanosecond()) //nolint:gosec // below a second
	to := &m.decision
	to.Id, to.Time, to.Count = d.ID, &m.at, count
	to.Epoch, to.Revision = d.Epoch, d.Revision
	to.Listener, to.Route, to.Policy = d.Listener, d.Route, d.Policy
	to.Allow, to.Reason, to.Detail = d.Allow, d.Reason, clip(d.Detail, maxDetail)
	to.Status, to.Closes = int32(d.Status), d.Closes //nolint:gosec // of HTTP
	to.Request, to.Signals, to.Timings = &m.request, &m.signals, &m.timings
	to.TraceId = traced(d.Trace)
	m.explain(d)
	m.ask(d)
	m.signal(d)
	m.timings.Authenticated = nil
	if d.Authenticated > 0 {
		m.timings.Authenticated = since(&m.known, d.Authenticated)
	}
	m.timings.Decided = since(&m.decided, d.Took)
}

// traced is a trace's ID in hexadecimal digits; empty for none.
func traced(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	var digits [2 * len(id)]byte
	hex.Encode(digits[:], id[:])
	return string(digits[:])
}

func since(to *durationpb.Duration, d time.Duration) *durationpb.Duration {
	to.Seconds, to.Nanos = int64(d/time.Second), int32(d%time.Second)
	return to
}

func (m *draft) ask(d *record.Decision) {
	r := &m.request
	r.Protocol, r.Method, r.Host, r.Path = d.Protocol, clip(d.Method, maxName), clip(d.Host, maxValue), clip(d.Path, maxPath)
	r.QueryNames = queryNames(r.QueryNames[:0], d.RawQuery)
	r.Values = r.Values[:0]
	for _, v := range d.Values {
		r.Values = append(r.Values, &decisionv1.Value{Field: valid(v.Field), Value: clip(v.Value, maxValue)})
	}
	r.Headers = r.Headers[:0]
	for name, values := range d.Header {
		if len(r.Headers) == maxHeaders {
			break
		}
		h := &m.headers[len(r.Headers)]
		h.Name, h.Value = clip(name, maxName), ""
		if told[name] && len(values) > 0 {
			h.Value = clip(values[0], maxValue)
		}
		r.Headers = append(r.Headers, h)
	}
}

// queryNames appends the names of the parameters of a query.
func queryNames(to []string, query string) []string {
	for query != "" && len(to) < maxQueries {
		var one string
		one, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(one, "=")
		if name == "" {
			continue
		}
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		to = append(to, clip(name, maxName))
	}
	return to
}

func (m *draft) signal(d *record.Decision) {
	m.signals.Ip, m.signals.Tls, m.signals.Geo, m.signals.Device = nil, nil, located(d.Place), m.device.write(d.Device)
	m.signals.Denials = counted(d.Denials)
	m.signals.ConfigurationAge, m.signals.SecurityAge = aged(&m.ages[0], d.Ages.Configuration), aged(&m.ages[1], d.Ages.Security)
	if d.ClientIP.IsValid() || d.PeerIP.IsValid() {
		m.address.Address, m.address.Peer = m.client.written(d.ClientIP), m.peer.written(d.PeerIP)
		m.address.Source, m.address.Unknown = d.ClientIPSource, d.ClientIPUnknown
		m.signals.Ip = &m.address
	}
	if d.TLSVersion != "" {
		m.tls.Version, m.tls.Sni, m.tls.Alpn = d.TLSVersion, clip(d.ServerName, maxValue), d.ALPN
		m.signals.Tls = &m.tls
	}
}

// located is where a client is, nil where no policy asked.
func located(p *policy.Place) *decisionv1.Geo {
	if p == nil {
		return nil
	}
	to := &decisionv1.Geo{
		Country: clip(p.Country, maxName), Continent: clip(p.Continent, maxName), City: clip(p.City, maxValue),
		Asn: p.ASN, AsOrganization: clip(p.Organization, maxValue),
	}
	for _, d := range p.Databases {
		to.Databases = append(to.Databases, &decisionv1.GeoDatabase{Type: clip(d.Type, maxValue), Built: timestamppb.New(d.Built)})
	}
	if a := p.Anonymity; a != nil {
		to.Anonymity = &decisionv1.Anonymity{Anonymous: a.Any, Vpn: a.VPN, Hosting: a.Hosting, Tor: a.Tor, Proxy: a.Proxy}
	}
	return to
}

// aged is an age, nil where it is not known.
func aged(to *durationpb.Duration, a policy.Age) *durationpb.Duration {
	if !a.Known {
		return nil
	}
	return since(to, a.Is)
}

// counted is how often there were denials, nil where no policy asked.
func counted(d policy.Denials) *decisionv1.Denials {
	if !d.Asked {
		return nil
	}
	to := &decisionv1.Denials{}
	if d.Principal.Known {
		to.Principal = &d.Principal.Number
	}
	if d.Address.Known {
		to.Address = &d.Address.Number
	}
	return to
}

// text is the last address that was written: the next is often the same.
type text struct {
	of netip.Addr
	is string
}

// written is an address without its zone, which may be any text; empty for none.
func (t *text) written(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return ""
	case a != t.of:
		t.of, t.is = a, a.WithZone("").String()
	}
	return t.is
}

// explain writes of what would have changed an outcome the lightest way alone: the
// others follow from asking again.
func (m *draft) explain(d *record.Decision) {
	to, why := &m.decision, &d.Explanation
	to.Explanation, to.Changes, to.Omitted = evaluate.Steps(why.Steps, 1), evaluate.Changes(why.Changes), int32(why.Omitted) //nolint:gosec // policies of a route
	to.Shadow = evaluate.Shadow(d.Shadow)
}

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

func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// clip returns s as text of at most n bytes.
func clip(s string, n int) string { return valid(s[:min(len(s), n)]) }

// valid is s: what is not UTF-8 in it becomes U+FFFD.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
