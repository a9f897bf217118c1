package courier

import (
	"net/url"
	"strings"
	"sync"
	"time"

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

// drafts makes records. The zero value is ready, and safe for concurrent use.
type drafts struct {
	buffers sync.Pool // of *[]byte
	people  portraits
}

// encode returns the record of d, which stands for count requests, until release. It
// is empty where d has a name that is not text, and then nobody takes it.
func (p *drafts) encode(d *record.Decision, count int64) *[]byte {
	b := p.buffer()
	m := message{bytes: *b}
	m.decision(d, count)
	about, ok := p.people.of(d.Principal)
	m.bytes = append(m.bytes, about...)
	*b = m.bytes
	if m.bad || !ok {
		*b = (*b)[:0]
	}
	return b
}

// buffer returns an empty buffer, until release.
func (p *drafts) buffer() *[]byte {
	b, ok := p.buffers.Get().(*[]byte)
	if !ok {
		return new([]byte)
	}
	*b = (*b)[:0]
	return b
}

func (p *drafts) release(b *[]byte) { p.buffers.Put(b) }

// Fields of sallyport.decision.v1.Decision.
const (
	decisionID       field = 1
	decisionTime     field = 2
	decisionEpoch    field = 4
	decisionRevision field = 5
	decisionListener field = 9
	decisionRoute    field = 10
	decisionRequest  field = 11
	decisionSignals  field = 12
	decisionAllow    field = 14
	decisionReason   field = 15
	decisionStatus   field = 16
	decisionDetail   field = 17
	decisionPolicy   field = 18
	decisionTimings  field = 20
	decisionCount    field = 21
	decisionCloses   field = 26
	decisionOutcome  field = 27
	decisionTrace    field = 28
)

func (m *message) decision(d *record.Decision, count int64) {
	m.name(decisionID, d.ID)
	m.seconds(decisionTime, d.Time.Unix(), int64(d.Time.Nanosecond()))
	m.number(decisionEpoch, d.Epoch)
	m.number(decisionRevision, d.Revision)
	m.name(decisionListener, d.Listener)
	m.name(decisionRoute, d.Route)
	m.request(d)
	m.signals(d)
	m.flag(decisionAllow, d.Allow)
	m.name(decisionReason, d.Reason)
	m.number(decisionStatus, int64(d.Status))
	m.text(decisionDetail, d.Detail, maxDetail)
	m.name(decisionPolicy, d.Policy)
	m.timings(d)
	m.number(decisionCount, count)
	m.name(decisionCloses, d.Closes)
	m.digits(decisionTrace, d.Trace)
	m.more(d)
}

// Fields of sallyport.decision.v1.Request, and of its Header and Value.
const (
	requestProtocol field = 1
	requestMethod   field = 2
	requestHost     field = 3
	requestPath     field = 4
	requestQuery    field = 5
	requestHeader   field = 6
	requestValue    field = 7

	pairName  field = 1
	pairValue field = 2
)

func (m *message) request(d *record.Decision) {
	start := m.begin(decisionRequest)
	m.name(requestProtocol, d.Protocol)
	m.text(requestMethod, d.Method, maxName)
	m.text(requestHost, d.Host, maxValue)
	m.text(requestPath, d.Path, maxPath)
	m.queryNames(d.RawQuery)
	count := 0
	for name, values := range d.Header {
		if count++; count > maxHeaders {
			break
		}
		value := ""
		if isTold(name) && len(values) > 0 {
			value = values[0]
		}
		m.pair(requestHeader, name, maxName, value)
	}
	for _, v := range d.Values {
		m.pair(requestValue, v.Field, len(v.Field), v.Value)
	}
	m.end(start)
}

// pair writes a name of at most so many bytes, and its value.
func (m *message) pair(n field, name string, most int, value string) {
	start := m.begin(n)
	m.text(pairName, name, most)
	m.text(pairValue, value, maxValue)
	m.end(start)
}

// isTold tells the fields whose values are recorded: none of them is a credential.
func isTold(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "Content-Length", "Content-Type", "Origin", "User-Agent":
		return true
	}
	return false
}

// queryNames writes the names of the parameters of a query.
func (m *message) queryNames(query string) {
	for count := 0; query != "" && count < maxQueries; {
		var one string
		one, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(one, "=")
		if name == "" {
			continue
		}
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		m.one(requestQuery, name[:min(len(name), maxName)])
		count++
	}
}

// Fields of sallyport.decision.v1.Signals, and of its Address and TLS.
const (
	signalsAddress          field = 1
	signalsTLS              field = 2
	signalsConfigurationAge field = 6
	signalsSecurityAge      field = 7

	addressIs      field = 1
	addressSource  field = 2
	addressUnknown field = 3
	addressPeer    field = 4

	tlsVersion field = 1
	tlsSNI     field = 2
	tlsALPN    field = 3
)

func (m *message) signals(d *record.Decision) {
	start := m.begin(decisionSignals)
	if d.ClientIP.IsValid() || d.PeerIP.IsValid() {
		start := m.begin(signalsAddress)
		m.address(addressIs, d.ClientIP)
		m.name(addressSource, d.ClientIPSource)
		m.name(addressUnknown, d.ClientIPUnknown)
		m.address(addressPeer, d.PeerIP)
		m.end(start)
	}
	if d.TLSVersion != "" {
		start := m.begin(signalsTLS)
		m.name(tlsVersion, d.TLSVersion)
		m.text(tlsSNI, d.ServerName, maxValue)
		m.name(tlsALPN, d.ALPN)
		m.end(start)
	}
	m.age(signalsConfigurationAge, d.Ages.Configuration)
	m.age(signalsSecurityAge, d.Ages.Security)
	m.end(start)
}

// age writes an age, unless that is not known.
func (m *message) age(n field, a policy.Age) {
	if a.Known {
		m.duration(n, a.Is)
	}
}

// Fields of sallyport.decision.v1.Timings.
const (
	timingsAuthenticated field = 1
	timingsDecided       field = 2
)

func (m *message) timings(d *record.Decision) {
	start := m.begin(decisionTimings)
	if d.Authenticated > 0 {
		m.duration(timingsAuthenticated, d.Authenticated)
	}
	m.duration(timingsDecided, d.Took)
	m.end(start)
}

// more adds what most records have nothing of. Of what would have changed an outcome it
// tells the lightest way alone: the others follow from asking again.
func (m *message) more(d *record.Decision) {
	why := &d.Explanation
	if d.Place != nil || d.Device != nil || d.Denials.Asked {
		m.add(&decisionv1.Decision{Signals: &decisionv1.Signals{Geo: located(d.Place), Device: proven(d.Device), Denials: counted(d.Denials)}})
	}
	if d.Shadow.Policy != "" || len(why.Steps) > 0 || len(why.Changes) > 0 || why.Omitted > 0 {
		m.add(&decisionv1.Decision{
			Explanation: evaluate.Steps(why.Steps, 1), Changes: evaluate.Changes(why.Changes), Omitted: int32(why.Omitted), //nolint:gosec // policies of a route
			Shadow: evaluate.Shadow(d.Shadow),
		})
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

// proven is what is known of a device; nil for none.
func proven(d *policy.Device) *decisionv1.Device {
	if d == nil {
		return nil
	}
	return &decisionv1.Device{
		Id: clip(d.ID, maxName), Os: clip(d.OS, maxName), OsVersion: clip(d.OSVersion, maxName), Owner: clip(d.Owner, maxValue),
		DiskEncrypted: fact(d.DiskEncrypted), ScreenLock: fact(d.ScreenLock), Compliant: fact(d.Compliant), Managed: fact(d.Managed),
		LastSeen: moment(d.LastSeen), ExpiresAt: moment(d.Expires),
	}
}

func fact(f policy.Fact) *bool {
	switch f {
	case policy.Yes:
		return new(true)
	case policy.No:
		return new(false)
	case policy.Unknown:
	}
	return nil
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

func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
