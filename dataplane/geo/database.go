package geo

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/sallyport/sallyport/internal/policy"
)

// kind is what a database is about.
type kind int

const (
	ofPlaces kind = iota + 1
	ofNetworks
	ofAnonymity
)

// kinds are told by words in a database's type, as in GeoIP2-Anonymous-IP. The
// first that fits counts.
var kinds = []struct {
	word string
	kind kind
}{
	{"Anonymous", ofAnonymity},
	{"ASN", ofNetworks},
	{"ISP", ofNetworks},
	{"City", ofPlaces},
	{"Country", ofPlaces},
	{"Enterprise", ofPlaces},
}

// database is the content of a file. It is immutable and safe for concurrent use.
type database struct {
	policy.Database

	file   string
	kind   kind
	reader *maxminddb.Reader
}

// open takes over data. What it returns may still be damaged: verify tells.
func open(file string, data []byte) (*database, error) {
	reader, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, err
	}
	const latest = 1 << 40 // seconds; later ones do not add up
	if reader.Metadata.BuildEpoch > latest {
		return nil, errors.New("does not say when it was built")
	}
	d := &database{file: file, reader: reader, Database: policy.Database{
		Type:  reader.Metadata.DatabaseType,
		Built: time.Unix(int64(reader.Metadata.BuildEpoch), 0).UTC(),
	}}
	const longest = 128 // bytes of a type: records repeat it
	for _, k := range kinds {
		if strings.Contains(d.Type, k.word) && len(d.Type) <= longest {
			d.kind = k.kind
			return d, nil
		}
	}
	return nil, fmt.Errorf("is of type %.80q, which is none of City, Country, Enterprise, ASN, ISP and Anonymous", d.Type)
}

// verify reads all of the database.
func (d *database) verify() error { return d.reader.Verify() }

func (d *database) name() string { return fmt.Sprintf("database of type %.80q", d.Type) }

// placeRecord, networkRecord and anonymityRecord are what is read of databases.
type (
	placeRecord struct {
		Country struct {
			Code string `maxminddb:"iso_code"`
		} `maxminddb:"country"`
		Continent struct {
			Code string `maxminddb:"code"`
		} `maxminddb:"continent"`
		City struct {
			Names struct {
				English string `maxminddb:"en"`
			} `maxminddb:"names"`
		} `maxminddb:"city"`
	}
	networkRecord struct {
		ASN          uint32 `maxminddb:"autonomous_system_number"`
		Organization string `maxminddb:"autonomous_system_organization"`
	}
	anonymityRecord struct {
		Any         bool `maxminddb:"is_anonymous"`
		VPN         bool `maxminddb:"is_anonymous_vpn"`
		Hosting     bool `maxminddb:"is_hosting_provider"`
		Public      bool `maxminddb:"is_public_proxy"`
		Residential bool `maxminddb:"is_residential_proxy"`
		Tor         bool `maxminddb:"is_tor_exit_node"`
	}
)

// look adds to p what is known of an address, all of it or nothing.
func (d *database) look(a netip.Addr, p *policy.Place) error {
	found := d.reader.Lookup(a)
	switch d.kind {
	case ofPlaces:
		var r placeRecord
		if err := found.Decode(&r); err != nil {
			return err
		}
		p.Country, p.Continent, p.City = code(r.Country.Code), code(r.Continent.Code), text(r.City.Names.English)
	case ofNetworks:
		var r networkRecord
		if err := found.Decode(&r); err != nil {
			return err
		}
		p.ASN, p.Organization = int64(r.ASN), text(r.Organization)
	case ofAnonymity:
		var r anonymityRecord
		if err := found.Decode(&r); err != nil {
			return err
		}
		proxy := r.Public || r.Residential
		p.Anonymity = &policy.Anonymity{
			Any: r.Any || r.VPN || r.Hosting || r.Tor || proxy, VPN: r.VPN, Hosting: r.Hosting, Tor: r.Tor, Proxy: proxy,
		}
	}
	return nil
}

// code returns a code of two capital letters, empty for anything else.
func code(s string) string {
	if len(s) != 2 || s[0] < 'A' || s[0] > 'Z' || s[1] < 'A' || s[1] > 'Z' {
		return ""
	}
	return s
}

// text returns a name, empty when it is none that a record can hold.
func text(s string) string {
	const most = 256
	if len(s) > most || !utf8.ValidString(s) {
		return ""
	}
	return s
}
