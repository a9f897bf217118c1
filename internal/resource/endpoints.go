package resource

import (
	"net/netip"
	"slices"
	"strings"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// resolution refuses to say of names what no endpoint has.
func (d *decoder) resolution(s *resourcev1.Upstream) {
	if s.GetResolution() != nil && !slices.ContainsFunc(s.GetEndpoints(), isNamed) {
		d.follow(atSpec().to("resolution").String(), ReasonConflictingFields, "no endpoint has a host name")
	}
}

func isNamed(endpoint string) bool {
	host, _, err := splitEndpoint(endpoint)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil
}
