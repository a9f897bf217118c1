// Package geotest makes small geo databases, as tests need them.
package geotest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// Database is what a file is to hold.
type Database struct {
	Type      string    // as in "GeoLite2-City"
	Built     time.Time // now when zero
	IPVersion int       // 6 when zero
	// Networks are the records by network: texts, true and false, numbers, and
	// mappings of them.
	Networks map[string]map[string]any
}

// City is the record of a city, in a database of cities.
func City(country, continent, city string) map[string]any {
	return map[string]any{
		"country":   map[string]any{"iso_code": country},
		"continent": map[string]any{"code": continent},
		"city":      map[string]any{"names": map[string]any{"en": city}},
	}
}

// Network is a record of a database of autonomous systems.
func Network(number int, organization string) map[string]any {
	return map[string]any{"autonomous_system_number": number, "autonomous_system_organization": organization}
}

// Flags is a record of what hides who uses an address.
func Flags(names ...string) map[string]any {
	r := map[string]any{}
	for _, name := range names {
		r[name] = true
	}
	return r
}

// Bytes returns the content of the file.
func (d Database) Bytes() ([]byte, error) {
	if d.Built.IsZero() {
		d.Built = time.Now()
	}
	if d.IPVersion == 0 {
		d.IPVersion = 6
	}
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType: d.Type, BuildEpoch: d.Built.Unix(), IPVersion: d.IPVersion, RecordSize: 28,
		Description: map[string]string{"en": "of a test"}, IncludeReservedNetworks: true,
	})
	if err != nil {
		return nil, err
	}
	for network, record := range d.Networks {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			return nil, err
		}
		if err := tree.Insert(n, value(record)); err != nil {
			return nil, fmt.Errorf("%s: %w", network, err)
		}
	}
	var b bytes.Buffer
	_, err = tree.WriteTo(&b)
	return b.Bytes(), err
}

// Put puts the database into a file, in the place of what is there.
func (d Database) Put(file string) error {
	b, err := d.Bytes()
	if err != nil {
		return err
	}
	return Put(file, b)
}

// Put puts bytes into a file, in the place of what is there.
func Put(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func value(of any) mmdbtype.DataType {
	switch v := of.(type) {
	case map[string]any:
		m := mmdbtype.Map{}
		for name, field := range v {
			m[mmdbtype.String(name)] = value(field)
		}
		return m
	case string:
		return mmdbtype.String(v)
	case bool:
		return mmdbtype.Bool(v)
	case int:
		return mmdbtype.Uint32(v) //nolint:gosec // tests know their numbers
	case float64: // as encoding/json has it
		return mmdbtype.Uint32(v)
	}
	panic(fmt.Sprintf("geotest: a value of type %T", of))
}
