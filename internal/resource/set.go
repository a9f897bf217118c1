package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Networks returns the cidrs of a Set that Decode or ParseDocument has accepted.
func Networks(s *resourcev1.Set) []netip.Prefix {
	networks := make([]netip.Prefix, 0, len(s.GetCidrs()))
	for _, text := range s.GetCidrs() {
		if n, err := parseNetwork(text); err == nil {
			networks = append(networks, n)
		}
	}
	return networks
}

// parseNetwork reads a network, or an address, which is one of its own.
func parseNetwork(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	if err == nil && addr.Zone() != "" {
		err = errors.New("has a zone")
	}
	return netip.PrefixFrom(addr, addr.BitLen()), err
}

func checkNetwork(text string) error {
	n, err := parseNetwork(text)
	switch {
	case err != nil:
		return fmt.Errorf("%s is no network, as 10.0.0.0/8, and no address", quote(text))
	case n != n.Masked():
		return fmt.Errorf("%s has bits of a host: the network is %s", quote(text), n.Masked())
	}
	return nil
}

// maxMember is the most bytes of an ID of a Set.
const maxMember = 1024

func checkMember(text string) error {
	if text == "" || len(text) > maxMember {
		return errors.New("has 1 to 1024 bytes")
	}
	return checkText(text)
}
