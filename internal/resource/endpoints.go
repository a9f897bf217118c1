package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// resolution refuses to say of names what no endpoint has.
func (d *decoder) resolution(s *resourcev1.Upstream) {
	if s.GetResolution() != nil && !slices.ContainsFunc(s.GetEndpoints(), isNamed) {
		d.follow(atSpec().to("resolution").String(), ReasonConflictingFields, "no endpoint has a host name")
	}
}

// isNamed reports whether proxies look an endpoint up: not localhost, which has an
// address on each machine.
func isNamed(endpoint string) bool {
	host, _, err := splitEndpoint(endpoint)
	if err != nil || host == "localhost" {
		return false
	}
	_, err = netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil
}

func (d *decoder) healthCheck(s *resourcev1.Upstream) {
	c := s.GetHealthCheck()
	at := atSpec().to("healthCheck")
	if c.GetGrpc() != nil && s.GetPlaintext() != nil {
		d.follow(at.to("grpc").String(), ReasonConflictingFields, "plaintext is HTTP/1.1, and gRPC needs HTTP/2: use tls or spiffe")
	}
	d.checked(at.to("grpc").to("service"), c.GetGrpc().GetService(), checkService)
	if h := c.GetHttp(); h != nil {
		d.checked(at.to("http").to("path"), h.GetPath(), checkCheckedPath)
		d.checked(at.to("http").to("host"), h.GetHost(), checkAuthority)
		for i, r := range h.GetStatuses() {
			if r.GetTo() < r.GetFrom() {
				d.follow(at.to("http").to("statuses").element(i).String(), ReasonInvalidValue, "ends before it begins")
			}
		}
	}
}

// checkCheckedPath accepts what a proxy would forward.
func checkCheckedPath(path string) error {
	if strings.HasPrefix(path, "/") {
		c, err := request.Canonicalise(request.Raw{Method: "GET", Target: path, Host: "a", ProtoMajor: 2})
		if err == nil && c.Ambiguity() == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is no path that a request may have", quote(path))
}

// checkAuthority accepts a host with or without a port, and nothing at all.
func checkAuthority(text string) error {
	if text == "" || checkEndpoint(text) == nil {
		return nil
	}
	return checkHost(text)
}

func checkService(name string) error {
	for i := range len(name) {
		if c := name[i]; !isAlphanumeric(c) && c != '.' && c != '_' {
			return fmt.Errorf("%s is no name of a service, such as shop.v1.Orders", quote(name))
		}
	}
	return nil
}

// locality refuses zones of endpoints that there are not: they are misspelt.
func (d *decoder) locality(s *resourcev1.Upstream) {
	at := atSpec().to("locality").to("zones")
	for endpoint, zone := range sorted(s.GetLocality().GetZones()) {
		if !slices.Contains(s.GetEndpoints(), endpoint) {
			d.follow(at.entry(endpoint).String(), ReasonInvalidValue, "is not among the endpoints")
			continue
		}
		d.checked(at.entry(endpoint), zone, CheckZone)
	}
}

// CheckZone accepts a region, and a zone of one.
func CheckZone(zone string) error {
	region, within, split := strings.Cut(zone, "/")
	if !isLabelText(zone) || region == "" || split && (within == "" || strings.Contains(within, "/")) {
		return errors.New(`is no REGION/ZONE and no REGION, each of letters, digits, ".", "-" and "_"`)
	}
	return nil
}
