package geo

import (
	"net/netip"

	"github.com/sallyport/sallyport/internal/policy"
)

// LookUp looks an address up in data that nobody has verified.
func LookUp(data []byte, a netip.Addr) (*policy.Place, error) {
	d, err := open("", data)
	if err != nil {
		return nil, err
	}
	p := &policy.Place{}
	return p, d.look(a, p)
}

// Verify says whether data is sound.
func Verify(data []byte) error {
	d, err := open("", data)
	if err != nil {
		return err
	}
	return d.verify()
}
