package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) identityProvider(s *resourcev1.IdentityProvider) {
	d.checked(atSpec().to("issuer"), s.GetIssuer(), checkText)
	if s.GetX509() != nil {
		d.x509(atSpec().to("x509"), s.GetX509())
		return
	}
	if s.GetDiscovery() {
		d.checked(atSpec().to("issuer"), s.GetIssuer(), checkIssuer)
	}
	d.given(atSpec().to("jwksUrl"), s.GetJwksUrl(), checkURL)
	d.each("audiences", s.GetAudiences(), checkText)
	d.checked(atSpec().to("groupsClaim"), s.GetGroupsClaim(), checkText)
	d.checked(atSpec().to("subjectClaim"), s.GetSubjectClaim(), checkText)
	for i, r := range s.GetRequiredClaims() {
		d.checked(atSpec().to("requiredClaims").element(i).to("claim"), r.GetClaim(), checkText)
	}
	at, i := atSpec().to("introspection"), s.GetIntrospection()
	d.given(at.to("endpoint"), i.GetEndpoint(), checkURL)
	d.checked(at.to("clientId"), i.GetClientId(), checkText)
	d.given(at.to("clientSecretFile"), i.GetClientSecretFile(), checkFile)
	if s.GetSignIn() != nil {
		d.signInClient(atSpec().to("signIn"), s.GetSignIn())
	}
}

func (d *decoder) signInClient(at *place, s *resourcev1.SignInClient) {
	d.checked(at.to("clientId"), s.GetClientId(), checkText)
	d.given(at.to("clientSecretFile"), s.GetClientSecretFile(), checkFile)
	for i, scope := range s.GetScopes() {
		d.checked(at.to("scopes").element(i), scope, checkScope)
	}
	for i, claim := range s.GetClaims() {
		d.checked(at.to("claims").element(i), claim, checkText)
	}
}

// given checks text that may be missing: whether it must not be is a rule of the
// schema.
func (d *decoder) given(at *place, text string, check func(string) error) {
	if text != "" {
		d.checked(at, text, check)
	}
}

// reachable refuses URLs that proxies would not ask. It is not for documents:
// those of earlier builds may hold such URLs, and have to be readable.
func (d *decoder) reachable(spec proto.Message) {
	if e := domainEndpoint(spec); e != nil {
		d.given(atSpec().to("bundleEndpoint").to("url"), e.GetUrl(), func(text string) error { return checkAddress(text, e.GetAllowPrivateAddresses()) })
	}
	s, ok := spec.(*resourcev1.IdentityProvider)
	if !ok {
		return
	}
	check := func(at *place, text string) {
		d.given(at, text, func(text string) error { return checkAddress(text, s.GetAllowPrivateAddresses()) })
	}
	if s.GetDiscovery() {
		check(atSpec().to("issuer"), s.GetIssuer())
	}
	check(atSpec().to("jwksUrl"), s.GetJwksUrl())
	check(atSpec().to("introspection").to("endpoint"), s.GetIntrospection().GetEndpoint())
}

// domainEndpoint is where the bundle of a TrustDomain is fetched from, nil when it
// is not, or when spec is something else.
func domainEndpoint(spec proto.Message) *resourcev1.BundleEndpoint {
	s, _ := spec.(*resourcev1.TrustDomain)
	return s.GetBundleEndpoint()
}

// checkAddress looks at a host that is an address, or localhost. Where a name
// leads is known to proxies alone.
func checkAddress(text string, private bool) error {
	u, err := url.Parse(text)
	if err != nil {
		return nil // it was refused for that
	}
	addr, err := netip.ParseAddr(u.Hostname())
	addr = addr.Unmap()
	switch {
	case isLoopback(u.Hostname()), err == nil && (addr.IsLoopback() || addr.IsPrivate()):
		if !private {
			return errors.New("proxies ask no loopback or private address without allowPrivateAddresses: true")
		}
	case err == nil && !addr.IsGlobalUnicast():
		return fmt.Errorf("proxies never ask %s", addr)
	}
	return nil
}

// checkIssuer accepts those that can have metadata (RFC 8414, section 2).
func checkIssuer(text string) error {
	if strings.ContainsAny(text, "?#") {
		return errors.New("an issuer with metadata has neither query nor fragment")
	}
	return checkURL(text)
}

// checkURL accepts https, and http to the machine itself.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme == "" || u.Host == "":
		return fmt.Errorf("%s is no URL of the form https://host/path", quote(text))
	case u.User != nil || u.Fragment != "":
		return errors.New("has a user or a fragment, which is not sent")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("what comes over http could be anybody's: use https")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s is not https", quote(u.Scheme))
	case u.Port() != "":
		return checkEndpoint(u.Host)
	}
	return checkHost(u.Host)
}
