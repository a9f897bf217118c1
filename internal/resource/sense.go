package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// sense refuses values that the schema lets through and that could never work,
// each at its field.
func (d *decoder) sense(spec proto.Message) {
	if s, ok := spec.(interface{ GetEnvironments() []string }); ok {
		d.each("environments", s.GetEnvironments(), checkDNSLabel)
	}
	switch s := spec.(type) {
	case *resourcev1.Enrollment:
		d.enrollment(s)
	case *resourcev1.TrustDomain:
		d.trustDomain(s)
	case *resourcev1.Listener:
		d.listener(s)
	case *resourcev1.Route:
		d.route(s)
	case *resourcev1.Schema:
		d.schema(s)
	case *resourcev1.Upstream:
		d.upstream(s)
	case *resourcev1.Set:
		d.each("cidrs", s.GetCidrs(), checkNetwork)
		d.each("ids", s.GetIds(), checkMember)
	case *resourcev1.Policy:
		d.policy(s)
	case *resourcev1.Grant:
		d.grant(s)
	case *resourcev1.RateLimit:
		d.rateLimit(s)
	case *resourcev1.IdentityProvider:
		d.identityProvider(s)
	case *resourcev1.ApiKey:
		d.apiKey(s)
	case *resourcev1.Device:
		d.device(s)
	case *resourcev1.Revocation:
		d.revocation(s)
	}
}

func (d *decoder) enrollment(s *resourcev1.Enrollment) {
	d.checked(atSpec().to("spiffeId"), s.GetSpiffeId(), checkSPIFFE)
	d.checked(atSpec().to("environment"), s.GetEnvironment(), checkDNSLabel)
	d.labels(atSpec().to("labels"), s.GetLabels())
}

func (d *decoder) listener(s *resourcev1.Listener) {
	d.checked(atSpec().to("address"), s.GetAddress(), checkListenAddress)
	certificates := atSpec().to("tls").to("certificates")
	for i, c := range s.GetTls().GetCertificates() {
		d.checked(certificates.element(i).to("certificateFile"), c.GetCertificateFile(), checkFile)
		d.checked(certificates.element(i).to("privateKeyFile"), c.GetPrivateKeyFile(), checkFile)
	}
	networks := func(source string, texts []string) {
		at := atSpec().to("clientIp").to(source).to("trustedCidrs")
		for i, text := range texts {
			d.checked(at.element(i), text, checkTrusted)
		}
	}
	networks("forwarded", s.GetClientIp().GetForwarded().GetTrustedCidrs())
	networks("proxyProtocol", s.GetClientIp().GetProxyProtocol().GetTrustedCidrs())
}

func (d *decoder) route(s *resourcev1.Route) {
	d.each("hosts", s.GetHosts(), checkRouteHost)
	d.paths(s.GetPaths())
	d.each("paths", s.GetPaths(), checkReserved)
	d.each("methods", s.GetMethods(), checkMethod)
	d.conditions("headers", request.InHeader, s.GetHeaders())
	d.conditions("query", request.InQuery, s.GetQuery())
	d.rewrites(s)
	d.split(s.GetSplit())
	d.cors(s.GetCors())
	if s.GetUpstream() != "" {
		d.checked(atSpec().to("upstream"), s.GetUpstream(), checkDNSLabel)
	}
	if v := s.GetValidation(); v != nil {
		d.checked(atSpec().to("validation").to("schema"), v.GetSchema(), checkDNSLabel)
	}
	audiences := atSpec().to("authentication").to("jwtSvids").to("audiences")
	for i, text := range s.GetAuthentication().GetJwtSvids().GetAudiences() {
		d.checked(audiences.element(i), text, checkText)
	}
	d.checked(atSpec().to("assertion").to("audience"), s.GetAssertion().GetAudience(), checkText)
	if in := s.GetAuthentication().GetSignIn(); in != nil {
		d.checked(atSpec().to("authentication").to("signIn").to("identityProvider"), in.GetIdentityProvider(), checkDNSLabel)
	}
	providers := atSpec().to("authentication").to("identityProviders")
	for i, name := range s.GetAuthentication().GetIdentityProviders() {
		d.checked(providers.element(i), name, checkDNSLabel)
	}
}

func (d *decoder) policy(s *resourcev1.Policy) {
	routes := atSpec().to("routes")
	for i, name := range s.GetRoutes().GetNames() {
		d.checked(routes.to("names").element(i), name, checkDNSLabel)
	}
	d.labels(routes.to("labels"), s.GetRoutes().GetLabels())
	d.each("methods", s.GetMethods(), checkMethod)
	d.paths(s.GetPaths())
	for i, m := range s.GetPrincipals() {
		d.principal(atSpec().to("principals").element(i), m)
	}
}

func (d *decoder) principal(at *place, m *resourcev1.PrincipalMatcher) {
	switch of := m.GetMatch().(type) {
	case *resourcev1.PrincipalMatcher_Spiffe:
		d.checked(at.to("spiffe"), of.Spiffe, checkSPIFFE)
	case *resourcev1.PrincipalMatcher_Group:
		d.checked(at.to("group"), of.Group, checkText)
	case *resourcev1.PrincipalMatcher_Subject:
		d.checked(at.to("subject"), of.Subject, checkText)
	case *resourcev1.PrincipalMatcher_Key:
		d.checked(at.to("key"), of.Key, checkDNSLabel)
	}
	if m.GetIdentityProvider() == "" {
		return
	}
	d.checked(at.to("identityProvider"), m.GetIdentityProvider(), checkDNSLabel)
	if m.GetGroup() == "" && m.GetSubject() == "" {
		d.follow(at.to("identityProvider").String(), ReasonConflictingFields, "goes with group or subject only")
	}
}

func (d *decoder) revocation(s *resourcev1.Revocation) {
	issued := func(target string, by interface{ GetIssuer() string }, id string) {
		d.checked(atSpec().to(target).to("issuer"), by.GetIssuer(), checkText)
		d.checked(atSpec().to(target).to("id"), id, checkText)
	}
	switch of := s.GetTarget().(type) {
	case *resourcev1.Revocation_Token:
		issued("token", of.Token, of.Token.GetId())
	case *resourcev1.Revocation_Subject:
		issued("subject", of.Subject, of.Subject.GetId())
	case *resourcev1.Revocation_Session:
		issued("session", of.Session, of.Session.GetId())
	case *resourcev1.Revocation_Key:
		d.checked(atSpec().to("key"), of.Key, checkText)
	case *resourcev1.Revocation_SpiffeId:
		d.checked(atSpec().to("spiffeId"), of.SpiffeId, checkOneSPIFFE)
	case *resourcev1.Revocation_Device:
		d.checked(atSpec().to("device"), of.Device, checkDNSLabel)
	case *resourcev1.Revocation_Issuer:
		d.checked(atSpec().to("issuer"), of.Issuer, checkText)
	}
	d.checked(atSpec().to("reason"), s.GetReason(), checkText)
}

// checked refuses text at a place unless check accepts it.
func (d *decoder) checked(at *place, text string, check func(string) error) {
	if err := check(text); err != nil {
		d.follow(at.String(), ReasonInvalidValue, err.Error())
	}
}

// each checks every element of a list of the spec.
func (d *decoder) each(field string, list []string, check func(string) error) {
	at := atSpec().to(field)
	for i, text := range list {
		d.checked(at.element(i), text, check)
	}
}

// paths refuses templates that do not parse, and those that match the same
// paths as one before.
func (d *decoder) paths(templates []string) {
	var seen []pattern.Path
	d.each("paths", templates, func(text string) error {
		p, err := pattern.ParsePath(text)
		if err != nil {
			return err
		}
		for _, other := range seen {
			if p.Compare(other) == 0 {
				return fmt.Errorf("matches the same paths as %s", quote(other.String()))
			}
		}
		seen = append(seen, p)
		return nil
	})
}

// Bounds of labels.
const (
	maxLabels      = 32
	maxLabelLength = 128
)

func (d *decoder) labels(at *place, labels map[string]string) {
	if len(labels) > maxLabels {
		d.follow(at.String(), ReasonInvalidValue, fmt.Sprintf("has %d labels: more than %d", len(labels), maxLabels))
		return
	}
	for key, value := range sorted(labels) {
		d.checked(at.entry(key), key, func(key string) error { return CheckLabel(key, value) })
	}
}

// CheckLabel says what is wrong with a label.
func CheckLabel(key, value string) error {
	switch {
	case !isLabelText(key) || key == "":
		return errors.New("a label's name is " + labelForm)
	case !isLabelText(value):
		return errors.New("a label's value is empty or " + labelForm)
	}
	return nil
}

const labelForm = `letters, digits, ".", "-", "_" and "/", at most 128, that begins and ends with a letter or digit`

func isLabelText(s string) bool {
	for i := range len(s) {
		c := s[i]
		inner := i > 0 && i < len(s)-1 && strings.IndexByte(".-_/", c) >= 0
		if !isAlphanumeric(c) && !inner {
			return false
		}
	}
	return len(s) <= maxLabelLength
}

func isAlphanumeric(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
}

// checkDNSLabel accepts labels of RFC 1123, section 2.1, in lower case.
func checkDNSLabel(s string) error {
	ok := s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-'
	for i := range len(s) {
		ok = ok && (isAlphanumeric(s[i]) && (s[i] < 'A' || s[i] > 'Z') || s[i] == '-')
	}
	if !ok {
		return fmt.Errorf(`%s is no name: lower-case letters, digits and "-", at most 63, that begins and ends with a letter or digit`, quote(s))
	}
	return nil
}

// checkHost accepts a host as package request spells it.
func checkHost(host string) error {
	if !request.IsHost(host) {
		return fmt.Errorf("%s is no host: a DNS name in lower case, an IPv4 address, or an IPv6 address in brackets, without port", quote(host))
	}
	return nil
}

// checkRouteHost looks at a name below a wildcard, as an address has none.
func checkRouteHost(host string) error {
	if parent, ok := strings.CutPrefix(host, "*."); ok && request.IsHost("x."+parent) {
		return nil
	}
	return checkHost(host)
}

// checkMethod asks the one who would have to let such a request through.
func checkMethod(method string) error {
	_, err := request.Canonicalise(request.Raw{Method: method, Target: "/", Host: "a", ProtoMajor: 2})
	if err != nil {
		return fmt.Errorf("%s is no method that is served; leave methods out for any", quote(method))
	}
	return nil
}

func checkSPIFFE(text string) error {
	_, err := pattern.ParseSPIFFE(text)
	return err
}

// checkOneSPIFFE accepts an ID, which is a pattern without wildcards.
func checkOneSPIFFE(text string) error {
	if strings.Contains(text, "*") {
		return fmt.Errorf("%s: name one workload, without wildcards", quote(text))
	}
	return checkSPIFFE(text)
}

// checkText refuses what no log could show.
func checkText(text string) error {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("contains a control character")
	}
	return nil
}

// checkReserved keeps routes off the paths that the gateway answers itself.
func checkReserved(path string) error {
	if path == ReservedPath || strings.HasPrefix(path, ReservedPath+"/") {
		return fmt.Errorf("%s is the gateway's own", quote(ReservedPath))
	}
	return nil
}

// ReservedPath is, with all below it, no route's.
const ReservedPath = "/.sallyport"

// checkTrusted asks the one who will have to trust it.
func checkTrusted(text string) error {
	if _, err := clientip.ParseNetwork(text); err != nil {
		return fmt.Errorf("%s %w", quote(text), err)
	}
	return nil
}

// checkFile accepts the path of a file on a proxy, whose working directory is
// nobody's business.
func checkFile(name string) error {
	if !path.IsAbs(name) {
		return fmt.Errorf("%s is no absolute path", quote(name))
	}
	return checkText(name)
}

// splitEndpoint cuts host:port. An IPv6 host keeps its brackets.
func splitEndpoint(text string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("%s is not host:port", quote(text))
	}
	n, err := strconv.ParseUint(text[i+1:], 10, 16)
	if err != nil || text[i+1:] != strconv.FormatUint(n, 10) {
		return "", 0, fmt.Errorf("%s: a port is a number up to 65535", quote(text))
	}
	return text[:i], uint16(n), nil
}

func checkEndpoint(text string) error {
	host, port, err := splitEndpoint(text)
	if err != nil {
		return err
	}
	if port == 0 {
		return fmt.Errorf("%s: nothing listens on port 0", quote(text))
	}
	return checkHost(host)
}

// checkLoopbackEndpoint keeps plaintext on the machine.
func checkLoopbackEndpoint(text string) error {
	if err := checkEndpoint(text); err != nil {
		return err
	}
	if host, _, _ := splitEndpoint(text); !isLoopback(host) {
		return fmt.Errorf("%s: plaintext does not leave the machine: use a loopback address, or tls or spiffe", quote(text))
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// checkListenAddress accepts what names an address without asking DNS. Port 0
// is one that the system chooses.
func checkListenAddress(text string) error {
	host, _, err := splitEndpoint(text)
	if err != nil || host == "" || host == "localhost" {
		return err
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil {
		return fmt.Errorf("%s: listen on an IP address, on localhost, or without a host on every address", quote(text))
	}
	return checkHost(host)
}
