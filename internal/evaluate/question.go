package evaluate

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// Question is a request in canonical form and what is known besides it. The zero
// Question asks for nothing.
type Question struct {
	Method, Host, Path string
	Query              string // raw
	Header             map[string][]string
	WebSocket          bool
	Principal          *policy.Principal // nil is anonymous
	ClientIP           netip.Addr
	Place              *policy.Place // where that is; nil for not known
	Device             *policy.Device
	Denials            *policy.Denials // nil for not known
	Ages               policy.Ages
	Now                time.Time
	TLSVersion         string
	ServerName, ALPN   string

	// refused is why it has no canonical form.
	refused *request.Error
	// took is the route by which it was recorded; empty where that is not known.
	took string
	// unknown is what of the request is not known, and why, by what conditions call
	// it.
	unknown map[string]string
	// nameless says that IDs are not those that policies name.
	nameless bool
}

// Describe returns the question that somebody describes, asked now unless they
// say when. An error says which part is not as it should be.
func Describe(m *adminv1.Question, now time.Time) (Question, error) {
	q := Question{Now: now, TLSVersion: "1.3"}
	if t := m.GetTime(); t != nil {
		q.Now = t.AsTime()
	}
	var err error
	if q.Principal, err = who(m.GetPrincipal()); err != nil {
		return Question{}, err
	}
	if err := q.signal(m.GetSignals()); err != nil {
		return Question{}, err
	}
	header := make(http.Header)
	for _, h := range m.GetHeaders() {
		header.Add(h.GetName(), h.GetValue())
	}
	c, err := request.Canonicalise(request.Raw{
		Method: or(m.GetMethod(), http.MethodGet), Target: or(m.GetPath(), "/"), Host: m.GetHost(), Header: header, ProtoMajor: 1, ProtoMinor: 1,
	})
	if refused, ok := err.(*request.Error); ok { //nolint:errorlint // it is never wrapped
		q.refused = refused
		return q, nil
	}
	q.Method, q.Host, q.Path, q.Query, q.Header, q.WebSocket = c.Method, c.Host, c.Path, c.RawQuery, c.Header, c.WebSocket
	if _, err := netip.ParseAddr(strings.Trim(q.Host, "[]")); err != nil && q.ServerName == "" {
		q.ServerName = q.Host // clients name hosts, and no addresses
	}
	return q, nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (q *Question) signal(s *decisionv1.Signals) error {
	if text := s.GetIp().GetAddress(); text != "" {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("signals.ip.address: %.40q is no IP address", text)
		}
		q.ClientIP = ip
	}
	q.Place = placeOf(s.GetGeo())
	if d := s.GetDenials(); d != nil {
		if min(d.GetPrincipal(), d.GetAddress()) < 0 {
			return errors.New("signals.denials: there are none, or more")
		}
		q.Denials = &policy.Denials{Principal: count(d.Principal), Address: count(d.Address)}
	}
	var err error
	if q.Ages, err = agesOf(s); err != nil {
		return err
	}
	if q.Device, err = deviceOf(s.GetDevice(), q.Now); err != nil {
		return err
	}
	if tls := s.GetTls(); tls != nil {
		q.TLSVersion, q.ServerName, q.ALPN = tls.GetVersion(), tls.GetSni(), tls.GetAlpn()
	}
	return nil
}

// Recall returns the question that a record holds the answer to, as far as it does.
func Recall(d *decisionv1.Decision) (Question, error) {
	r := d.GetRequest()
	q := Question{
		Method: r.GetMethod(), Host: r.GetHost(), Path: r.GetPath(), Header: make(map[string][]string),
		Now: d.GetTime().AsTime(), unknown: make(map[string]string),
	}
	if err := q.signal(d.GetSignals()); err != nil {
		return Question{}, err
	}
	var err error
	if q.Principal, err = who(d.GetPrincipal()); err != nil {
		return Question{}, err
	}
	if q.Principal == nil {
		q.Principal = &policy.Principal{}
	}
	for _, other := range d.GetBeside() {
		p, err := who(other)
		if err != nil {
			return Question{}, err
		}
		q.Principal.Beside = append(q.Principal.Beside, p)
	}
	q.took = d.GetRoute()
	q.forget(d)
	return q, nil
}

// Bounds of records, above which something is cut.
const (
	recordedPath    = 2048
	recordedValue   = 256
	recordedHeaders = 64
	recordedParams  = 32
	recordedList    = 256
)

// forget notes what the record of a decision does not hold.
func (q *Question) forget(d *decisionv1.Decision) {
	q.forgetQuery(d.GetRequest())
	if len(q.Path) >= recordedPath {
		q.unknown["request.path"] = "the path is longer than what is recorded of it"
	}
	headers := d.GetRequest().GetHeaders()
	if len(headers) >= recordedHeaders {
		q.unknown["request.headers"] = "there were more headers than are recorded"
	}
	values := valuesOf(d.GetRequest(), func(f policy.Field) string { return f.Header })
	for _, h := range headers {
		value := h.GetValue()
		if told, there := values[h.GetName()]; there {
			value = told
		}
		q.Header[h.GetName()] = []string{value}
		if _, there := values[h.GetName()]; value == "" && !there || len(value) >= recordedValue {
			q.unknown["request.headers["+strings.ToLower(h.GetName())+"]"] = "its value is not recorded"
		}
	}
	if d.GetSignals().GetDevice().GetPseudonymised() {
		for _, field := range []string{"id", "owner"} {
			q.unknown["signals.device["+field+"]"] = "a pseudonym is recorded"
		}
	}
	if q.Place == nil {
		q.unknown["signals.geo"] = "no policy that was asked wanted to know where the client is"
	}
	if q.Denials == nil {
		q.unknown["signals.denials"] = "no policy that was asked wanted to know how often requests were denied"
	}
	for name, age := range map[string]policy.Age{"configuration_age": q.Ages.Configuration, "security_age": q.Ages.Security} {
		if !age.Known {
			q.unknown["signals."+name] = "it is not recorded"
		}
	}
	p := d.GetPrincipal()
	if p.GetClaimsOmitted() {
		q.unknown["principal.claims"] = "they are not recorded"
	}
	if len(p.GetGroups()) >= recordedList {
		q.unknown["principal.groups"] = "there were more than are recorded"
	}
	if q.nameless = p.GetPseudonymised(); q.nameless {
		for _, field := range []string{"principal.id", "principal.spiffe_id"} {
			q.unknown[field] = "a pseudonym is recorded"
		}
	}
}

// canonical is what routes are matched by.
func (q *Question) canonical() *request.Canonical {
	target := q.Path
	if q.Query != "" {
		target += "?" + q.Query
	}
	return &request.Canonical{
		Method: q.Method, Host: q.Host, Target: target, Path: q.Path, RawQuery: q.Query, Header: q.Header, WebSocket: q.WebSocket,
	}
}

// forgetQuery makes a query of what is recorded of one, with the names at least.
func (q *Question) forgetQuery(r *decisionv1.Request) {
	names := r.GetQueryNames()
	if len(names) == 0 {
		return
	}
	q.unknown["request.query"] = "values of a query are not recorded"
	if len(names) >= recordedParams {
		q.unknown["request.params"] = "there were more parameters than are recorded"
	}
	values := valuesOf(r, func(f policy.Field) string { return f.Param })
	query := url.Values{}
	for _, name := range names {
		value, there := values[name]
		query.Set(name, value)
		if !there || len(value) >= recordedValue {
			q.unknown["request.params["+name+"]"] = "its value is not recorded"
		}
	}
	q.Query = query.Encode()
}

// valuesOf returns the recorded values of fields that have a name by its kind.
func valuesOf(r *decisionv1.Request, name func(policy.Field) string) map[string]string {
	found := make(map[string]string)
	for _, v := range r.GetValues() {
		if f, ok := policy.ParseField(v.GetField()); ok && name(f) != "" {
			found[name(f)] = v.GetValue()
		}
	}
	return found
}

// input is what a route's policies decide on.
func (q *Question) input() policy.Input {
	in := policy.Input{
		Principal: q.Principal, Method: q.Method, Host: q.Host, Path: q.Path, Query: q.Query, Header: q.Header,
		ClientIP: q.ClientIP, Device: q.Device, Ages: q.Ages, Now: q.Now, TLSVersion: q.TLSVersion, ServerName: q.ServerName, ALPN: q.ALPN,
	}
	if q.Place != nil {
		in.Geo = q.Place
	}
	if q.Denials != nil {
		in.Denials = q.Denials
	}
	return in
}

// placeOf is where a client is as a record has it, nil for not known.
func placeOf(g *decisionv1.Geo) *policy.Place {
	if g == nil {
		return nil
	}
	p := &policy.Place{
		Country: g.GetCountry(), Continent: g.GetContinent(), City: g.GetCity(), ASN: g.GetAsn(), Organization: g.GetAsOrganization(),
	}
	if a := g.GetAnonymity(); a != nil {
		p.Anonymity = &policy.Anonymity{Any: a.GetAnonymous(), VPN: a.GetVpn(), Hosting: a.GetHosting(), Tor: a.GetTor(), Proxy: a.GetProxy()}
	}
	for _, d := range g.GetDatabases() {
		p.Databases = append(p.Databases, policy.Database{Type: d.GetType(), Built: d.GetBuilt().AsTime()})
	}
	return p
}

// agesOf are those that a record has.
func agesOf(s *decisionv1.Signals) (a policy.Ages, err error) {
	if a.Configuration, err = age(s.GetConfigurationAge()); err != nil {
		return a, fmt.Errorf("signals.configuration_age: %w", err)
	}
	if a.Security, err = age(s.GetSecurityAge()); err != nil {
		return a, fmt.Errorf("signals.security_age: %w", err)
	}
	return a, nil
}

// age is one as a record has it, nil for not known.
func age(d *durationpb.Duration) (policy.Age, error) {
	switch {
	case d == nil:
		return policy.Age{}, nil
	case d.CheckValid() != nil, d.AsDuration() < 0:
		return policy.Age{}, errors.New("is no time that has passed")
	}
	return policy.Age{Is: d.AsDuration(), Known: true}, nil
}

// count is a number as a record has it, nil for not known.
func count(n *int64) (c policy.Count) {
	if n != nil {
		c = policy.Count{Number: *n, Known: true}
	}
	return c
}

// moment is the time of a message, zero for none.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
