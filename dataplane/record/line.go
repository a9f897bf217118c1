package record

import (
	"encoding/hex"
	"net/http"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/policy"
)

// Decision is what was decided on one request, and on what grounds. It holds
// no body and no credential but in RawQuery and Header, which are no part of a
// record: only names are taken of them, and what a client says of itself. What is
// empty is left out of the line.
type Decision struct {
	Time   time.Time
	ID     string
	Allow  bool
	Reason string
	Status int    // of the answer, if it was denied
	Detail string // in words

	// What was in force.
	Environment     string
	Epoch, Revision int64

	// What was asked.
	Listener string // namespace/name
	ClientIP netip.Addr
	// Where ClientIP is known from, or else why it is not; and who connected.
	ClientIPSource, ClientIPUnknown string
	PeerIP                          netip.Addr
	// Where ClientIP is, by which databases; nil unless a policy asked.
	Place *policy.Place
	// How often requests of Principal and ClientIP had been denied; zero unless a
	// policy asked.
	Denials policy.Denials
	// For how long what was in force had not been confirmed.
	Ages policy.Ages

	TLSVersion string
	ServerName string
	Protocol   string // "HTTP/1.1", "HTTP/2.0"
	Method     string
	Host       string
	Path       string

	// What answered.
	Route       string // namespace/name
	Policy      string // namespace/name
	Principal   *policy.Principal
	Device      *policy.Device     // that was proven; nil for none
	Explanation policy.Explanation // of a denial; may be zero
	Shadow      policy.Shadow

	// Authenticated is when it was known who asks, since Time; 0 when nobody got to
	// ask.
	Authenticated, Took time.Duration

	// Trace is the one that the request is in, as the client says or as it began here;
	// zero for none.
	Trace [16]byte

	// Closes is the ID of the Decision that let a request through which is closed by
	// this one; empty for what is decided on a request that comes.
	Closes string

	// What only the control plane is told.
	ALPN     string
	RawQuery string
	Header   http.Header
	// Values are those of fields that conditions of the route look at.
	Values []Value
	// Rule is whether it is told at all, if the request was allowed; nil for not.
	Rule *Rule

	// Told is for Recorder.Decide to set: the control plane gets a record, and is to
	// be told how the request ended.
	Told bool
}

// Value is that of a header field or of a parameter, as conditions call it.
type Value struct{ Field, Value string }

// Outcome is how a request ended that was let through.
type Outcome struct {
	Time   time.Time
	ID     string // of the Decision
	Told   bool   // that of the Decision
	Reason string // why it failed; empty when it did not
	// ClosedBy is the ID of the decision that closed it; empty for none.
	ClosedBy string

	// Target is where it was sent, if that is not where it was asked to: host and path
	// at the upstream, or of a redirect the Location without its query.
	Target   string
	Upstream string // namespace/name, of a route that has several
	Endpoint string // of the upstream, that it was sent to last
	Attempts int    // to send it, or to connect for that
	Status   int    // of the answer
	Sent     int64  // bytes of the body sent to the client
	Received int64  // bytes of the body received from the client
	Took     time.Duration
}

func (d *Decision) appendTo(b []byte) []byte {
	l := line{append(b, `{"type":"decision"`...)}
	l.time(d.Time)
	l.text("decision_id", d.ID)
	l.text("closes", d.Closes)
	l.id("trace_id", d.Trace)
	l.flag("allow", d.Allow)
	l.text("reason", d.Reason)
	l.number("status", int64(d.Status))
	l.text("detail", d.Detail)
	l.text("environment", d.Environment)
	l.number("epoch", d.Epoch)
	l.number("revision", d.Revision)
	l.age("configuration_age_ms", d.Ages.Configuration)
	l.age("security_age_ms", d.Ages.Security)
	l.text("listener", d.Listener)
	l.address("client_ip", d.ClientIP)
	l.text("client_ip_source", d.ClientIPSource)
	l.text("client_ip_unknown", d.ClientIPUnknown)
	l.address("peer_ip", d.PeerIP)
	l.place(d.Place)
	l.count("denials_of_principal", d.Denials.Principal)
	l.count("denials_of_address", d.Denials.Address)
	l.text("tls", d.TLSVersion)
	l.text("sni", d.ServerName)
	l.text("protocol", d.Protocol)
	l.text("method", d.Method)
	l.text("host", d.Host)
	l.text("path", d.Path)
	l.text("route", d.Route)
	l.text("policy", d.Policy)
	l.principal(d.Principal)
	if d.Device != nil {
		l.text("device", d.Device.ID)
	}
	l.explanation(d.Explanation.Steps)
	l.shadow(d.Shadow)
	l.took(d.Took)
	return append(l.b, "}\n"...)
}

func (o *Outcome) appendTo(b []byte) []byte {
	l := line{append(b, `{"type":"outcome"`...)}
	l.time(o.Time)
	l.text("decision_id", o.ID)
	l.text("reason", o.Reason)
	l.text("closed_by", o.ClosedBy)
	l.text("target", o.Target)
	l.text("upstream", o.Upstream)
	l.text("endpoint", o.Endpoint)
	if o.Attempts > 1 {
		l.number("attempts", int64(o.Attempts))
	}
	l.number("status", int64(o.Status))
	l.number("sent", o.Sent)
	l.number("received", o.Received)
	l.took(o.Took)
	return append(l.b, "}\n"...)
}

// line is a JSON object that is being written. Its keys need no escaping.
type line struct{ b []byte }

func (l *line) key(k string) {
	l.b = append(l.b, `,"`...)
	l.b = append(l.b, k...)
	l.b = append(l.b, `":`...)
}

func (l *line) text(k, v string) {
	if v == "" {
		return
	}
	l.key(k)
	l.b = AppendString(l.b, v)
}

// id is in hexadecimal digits.
func (l *line) id(k string, v [16]byte) {
	if v == ([16]byte{}) {
		return
	}
	l.key(k)
	l.b = append(l.b, '"')
	l.b = hex.AppendEncode(l.b, v[:])
	l.b = append(l.b, '"')
}

func (l *line) number(k string, v int64) {
	if v == 0 {
		return
	}
	l.key(k)
	l.b = strconv.AppendInt(l.b, v, 10)
}

func (l *line) count(k string, c policy.Count) {
	if !c.Known {
		return
	}
	l.key(k)
	l.b = strconv.AppendInt(l.b, c.Number, 10)
}

func (l *line) age(k string, a policy.Age) {
	l.count(k, policy.Count{Number: a.Is.Milliseconds(), Known: a.Known})
}

func (l *line) flag(k string, v bool) {
	l.key(k)
	l.b = strconv.AppendBool(l.b, v)
}

func (l *line) time(t time.Time) {
	l.key("time")
	l.b = append(l.b, '"')
	l.b = t.UTC().AppendFormat(l.b, "2006-01-02T15:04:05.000000Z07:00")
	l.b = append(l.b, '"')
}

func (l *line) took(d time.Duration) {
	l.key("took_us")
	l.b = strconv.AppendInt(l.b, d.Microseconds(), 10)
}

func (l *line) address(k string, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	l.key(k)
	l.b = append(l.b, '"')
	l.b = a.WithZone("").AppendTo(l.b) // a zone may be any text
	l.b = append(l.b, '"')
}

// principal leaves out claims, which are the provider's words and may be
// private.
func (l *line) principal(p *policy.Principal) {
	if p == nil {
		return
	}
	l.key("principal")
	l.proven(p)
	for i, other := range p.Beside {
		if i == 0 {
			l.key("beside")
		}
		l.b = append(l.b, "[,"[min(i, 1)])
		l.proven(other)
	}
	if len(p.Beside) > 0 {
		l.b = append(l.b, ']')
	}
}

func (l *line) proven(p *policy.Principal) {
	l.b = append(l.b, `{"kind":`...)
	l.b = AppendString(l.b, p.Kind.String())
	l.text("id", p.ID)
	l.text("issuer", p.Issuer)
	l.text("provider", p.Provider)
	l.text("authenticated_by", p.AuthenticatedBy)
	l.text("key", p.KeyName)
	l.text("key_id", p.KeyID)
	l.b = append(l.b, '}')
}

// place is what policies were told of where the client is. What is not there was
// not known.
func (l *line) place(p *policy.Place) {
	if p == nil {
		return
	}
	l.key("geo")
	l.b = append(l.b, `{"databases":[`...)
	for i, d := range p.Databases {
		if i > 0 {
			l.b = append(l.b, ',')
		}
		l.b = append(l.b, `{"type":`...)
		l.b = AppendString(l.b, d.Type)
		l.text("built", d.Built.UTC().Format(time.RFC3339))
		l.b = append(l.b, '}')
	}
	l.b = append(l.b, ']')
	l.text("country", p.Country)
	l.text("continent", p.Continent)
	l.text("city", p.City)
	l.number("asn", p.ASN)
	l.text("as_organization", p.Organization)
	if a := p.Anonymity; a != nil {
		l.flag("anonymous", a.Any)
		l.flag("vpn", a.VPN)
		l.flag("hosting", a.Hosting)
		l.flag("tor", a.Tor)
		l.flag("proxy", a.Proxy)
	}
	l.b = append(l.b, '}')
}

func (l *line) explanation(steps []policy.Step) {
	if len(steps) == 0 {
		return
	}
	l.key("explanation")
	for i, s := range steps {
		l.b = append(l.b, "[,"[min(i, 1)])
		l.b = append(l.b, `{"policy":`...)
		l.b = AppendString(l.b, s.Policy)
		l.text("effect", s.Effect.String())
		l.flag("matched", s.Matched)
		l.text("miss", string(s.Miss))
		l.text("detail", s.Detail)
		l.b = append(l.b, '}')
	}
	l.b = append(l.b, ']')
}

// shadow is what policies in shadow would have turned round.
func (l *line) shadow(s policy.Shadow) {
	if s.Policy == "" {
		return
	}
	l.key("shadow")
	l.b = append(l.b, `{"policy":`...)
	l.b = AppendString(l.b, s.Policy)
	l.flag("allow", s.Allow)
	l.text("reason", string(s.Reason))
	l.b = append(l.b, '}')
}

// AppendString appends v as a JSON string (RFC 8259, section 7). Bytes that are
// not UTF-8 become U+FFFD.
func AppendString(b []byte, v string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0 // of what is still to be copied
	for i := 0; i < len(v); {
		c := v[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(v[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, v[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			b = append(b, "\ufffd"...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&0xf])
		}
		i += size
		start = i
	}
	b = append(b, v[start:]...)
	return append(b, '"')
}
