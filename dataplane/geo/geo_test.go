package geo_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sallyport/sallyport/dataplane/geo"
	"github.com/sallyport/sallyport/dataplane/geo/geotest"
	"github.com/sallyport/sallyport/internal/policy"
)

var built = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// cities, networks and hidden are databases that agree on 203.0.113.0/24.
var (
	cities = geotest.Database{Type: "GeoLite2-City", Built: built, Networks: map[string]map[string]any{
		"203.0.113.0/24": geotest.City("DE", "EU", "Berlin"),
		"2001:db8::/32":  geotest.City("FR", "EU", "Paris"),
		"198.51.100.1/32": {
			"country": map[string]any{"iso_code": "at"}, "registered_country": map[string]any{"iso_code": "AT"},
			"continent": map[string]any{"code": "Europe"}, "city": map[string]any{"names": map[string]any{"de": "Wien"}},
		},
		"198.51.100.2/32": {"country": map[string]any{"iso_code": 49}, "continent": map[string]any{"code": "EU"}},
		"198.51.100.3/32": geotest.City("DE", "EU", strings.Repeat("x", 300)),
	}}
	networks = geotest.Database{Type: "GeoLite2-ASN", Built: built.Add(time.Hour), Networks: map[string]map[string]any{
		"203.0.113.0/24": geotest.Network(64500, "Example AG"),
	}}
	hidden = geotest.Database{Type: "GeoIP2-Anonymous-IP", Built: built.Add(2 * time.Hour), Networks: map[string]map[string]any{
		"203.0.113.1/32": geotest.Flags("is_anonymous", "is_anonymous_vpn"),
		"203.0.113.2/32": geotest.Flags("is_anonymous", "is_tor_exit_node", "is_hosting_provider"),
		"203.0.113.3/32": geotest.Flags("is_residential_proxy"),
		"203.0.113.4/32": {"is_anonymous": "yes"},
	}}
)

// shelf is an Atlas and its files.
type shelf struct {
	*geo.Atlas
	t        testing.TB
	dir      string
	log      bytes.Buffer
	now      time.Time
	registry *prometheus.Registry
}

func (s *shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) path(name string) string { return filepath.Join(s.dir, name) }

// newShelf has an Atlas of files by these names, of which none is there.
func newShelf(t testing.TB, names ...string) *shelf {
	t.Helper()
	s := &shelf{t: t, dir: t.TempDir(), now: built.Add(24 * time.Hour), registry: prometheus.NewRegistry()}
	var files []string
	for _, name := range names {
		files = append(files, s.path(name))
	}
	var err error
	s.Atlas, err = geo.New(geo.Config{
		Files: files, Log: slog.New(slog.NewTextHandler(&s.log, nil)), Registerer: s.registry, Now: func() time.Time { return s.now },
	})
	s.must(err)
	return s
}

func (s *shelf) put(name string, d geotest.Database) {
	s.t.Helper()
	s.must(d.Put(s.path(name)))
	s.Refresh()
}

func (s *shelf) spoil(name string, content []byte) {
	s.t.Helper()
	s.must(geotest.Put(s.path(name), content))
	s.Refresh()
}

func (s *shelf) find(address string) *policy.Place {
	s.t.Helper()
	a, err := netip.ParseAddr(address)
	if err != nil && address != "" {
		s.t.Fatal(err)
	}
	return s.Locate(a, s.now)
}

// logged returns what was logged since the last call.
func (s *shelf) logged() string {
	text := s.log.String()
	s.log.Reset()
	return text
}

func (s *shelf) content(d geotest.Database) []byte {
	s.t.Helper()
	b, err := d.Bytes()
	s.must(err)
	return b
}

func TestAddresses(t *testing.T) {
	s := newShelf(t, "city.mmdb", "asn.mmdb", "anonymous.mmdb")
	s.put("city.mmdb", cities)
	s.put("asn.mmdb", networks)
	s.put("anonymous.mmdb", hidden)
	berlin := policy.Place{Country: "DE", Continent: "EU", City: "Berlin", ASN: 64500, Organization: "Example AG"}
	with := func(p policy.Place, a policy.Anonymity) policy.Place {
		p.Anonymity = &a
		return p
	}
	for address, want := range map[string]policy.Place{
		"203.0.113.9":          with(berlin, policy.Anonymity{}),
		"203.0.113.1":          with(berlin, policy.Anonymity{Any: true, VPN: true}),
		"203.0.113.2":          with(berlin, policy.Anonymity{Any: true, Tor: true, Hosting: true}),
		"203.0.113.3":          with(berlin, policy.Anonymity{Any: true, Proxy: true}),
		"203.0.113.4":          berlin, // its record is of another type
		"::ffff:203.0.113.9":   with(berlin, policy.Anonymity{}),
		"::ffff:203.0.113.9%1": with(berlin, policy.Anonymity{}),
		"2001:db8::9":          with(policy.Place{Country: "FR", Continent: "EU", City: "Paris"}, policy.Anonymity{}),
		"2001:db8::9%eth0":     with(policy.Place{Country: "FR", Continent: "EU", City: "Paris"}, policy.Anonymity{}),
		"192.0.2.1":            with(policy.Place{}, policy.Anonymity{}),
		"127.0.0.1":            with(policy.Place{}, policy.Anonymity{}),

		// Databases lead from these to 203.0.113.9.
		"::203.0.113.9":        {},
		"64:ff9b::203.0.113.9": {},
		"2001:0:cb00:7109::1":  {},
		"2002:cb00:7109::1":    {},
		"":                     {},

		// Not what a country, a continent or a name is.
		"198.51.100.1": with(policy.Place{}, policy.Anonymity{}),
		"198.51.100.2": with(policy.Place{}, policy.Anonymity{}),
		"198.51.100.3": with(policy.Place{Country: "DE", Continent: "EU"}, policy.Anonymity{}),
	} {
		want.Databases = []policy.Database{
			{Type: "GeoLite2-City", Built: built}, {Type: "GeoLite2-ASN", Built: built.Add(time.Hour)}, {Type: "GeoIP2-Anonymous-IP", Built: built.Add(2 * time.Hour)},
		}
		if got := s.find(address); !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: got %+v, %+v, want %+v, %+v", address, got, got.Anonymity, want, want.Anonymity)
		}
	}
	if got := s.counted("sallyport_geo_lookup_failures_total", "anonymous.mmdb"); got != 1 {
		t.Errorf("%v look-ups failed", got)
	}
}

func (s *shelf) counted(metric, name string) float64 {
	s.t.Helper()
	all, err := s.registry.Gather()
	s.must(err)
	for _, family := range all {
		for _, m := range family.GetMetric() {
			if family.GetName() == metric && m.GetLabel()[0].GetValue() == s.path(name) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	s.t.Fatalf("there is no %s of %s", metric, name)
	return 0
}

// A database of IPv4 alone does not say that an IPv6 address is not in it.
func TestIPv6InADatabaseOfIPv4(t *testing.T) {
	s := newShelf(t, "anonymous.mmdb")
	only := hidden
	only.IPVersion = 4
	s.put("anonymous.mmdb", only)
	if got := s.find("2001:db8::9"); got.Anonymity != nil {
		t.Errorf("got %+v", got.Anonymity)
	}
	if got := s.find("203.0.113.1"); got.Anonymity == nil || !got.Anonymity.VPN {
		t.Errorf("got %+v", got.Anonymity)
	}
}

// A file is used as long as it is sound, and what was there before as long as the
// new one is not.
func TestFilesThatChange(t *testing.T) {
	s := newShelf(t, "city.mmdb", "asn.mmdb")
	expect := func(what, country, logs string) {
		t.Helper()
		s.Refresh() // once more than need be, mostly
		if got := s.find("203.0.113.9").Country; got != country {
			t.Errorf("%s: the country is %q, want %q", what, got, country)
		}
		if got := s.logged(); !strings.Contains(got, logs) || (logs == "") != (got == "") {
			t.Errorf("%s: logged %q, want %q", what, got, logs)
		}
	}
	in := func(country string, at time.Time) geotest.Database {
		return geotest.Database{Type: "GeoLite2-City", Built: at, Networks: map[string]map[string]any{
			"203.0.113.0/24": geotest.City(country, "EU", "Anywhere"),
		}}
	}
	whole := s.content(in("XX", built))
	cut := func(n int) []byte { return whole[:n] }

	expect("no file", "", "no such file")
	expect("still none", "", "")
	s.put("asn.mmdb", networks)
	s.logged()
	s.put("city.mmdb", in("DE", built))
	expect("a file", "DE", "geo database read")
	expect("the same", "DE", "")
	s.put("city.mmdb", in("AT", built.Add(-time.Hour)))
	expect("another, older one", "AT", "geo database read")
	for name, c := range map[string]struct {
		content []byte
		logs    string
	}{
		"nothing":             {nil, "cannot be used"},
		"garbage":             {[]byte("not a database"), "invalid MaxMind DB file"},
		"its first half":      {cut(len(whole) / 2), "cannot be used"},
		"without its end":     {cut(len(whole) - 5), "cannot be used"},
		"a damaged tree":      {bytes.Replace(whole, cut(60), bytes.Repeat([]byte{0x7f}, 60), 1), "cannot be used"},
		"a damaged record":    {bytes.Replace(whole, []byte("continent"), []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff"), 1), "cannot be used"},
		"another kind":        {s.content(networks), `is a database of type \"GeoLite2-ASN\", and was a database of type \"GeoLite2-City\"`},
		"no kind":             {s.content(geotest.Database{Type: "Weather", Built: built}), "none of City"},
		"an old one":          {s.content(in("XX", s.now.Add(-31*24*time.Hour))), "more than 30 days ago"},
		"one from the future": {s.content(in("XX", s.now.Add(25*time.Hour))), "in the future"},
	} {
		before := s.counted("sallyport_geo_reload_failures_total", "city.mmdb")
		s.spoil("city.mmdb", c.content)
		expect(name, "AT", c.logs)
		expect(name+" again", "AT", "")
		if got := s.counted("sallyport_geo_reload_failures_total", "city.mmdb"); got != before+1 {
			t.Errorf("%s: %v failures were counted", name, got-before)
		}
		// In place, too: whoever looks something up meanwhile reads what was there.
		s.must(os.WriteFile(s.path("city.mmdb"), c.content, 0o600))
		s.must(os.Chtimes(s.path("city.mmdb"), built, built))
		expect(name+" in place", "AT", c.logs)
	}
	s.must(os.Remove(s.path("city.mmdb")))
	expect("no file any more", "AT", "no such file")
	expect("still no file", "AT", "")
	s.must(os.Mkdir(s.path("city.mmdb"), 0o700))
	expect("a folder", "AT", "is not a file")
	s.must(os.Remove(s.path("city.mmdb")))
	s.must(syscall.Mkfifo(s.path("city.mmdb"), 0o600))
	s.Refresh()
	expect("a pipe", "AT", "")
	s.must(os.Remove(s.path("city.mmdb")))
	s.must(os.WriteFile(s.path("city.mmdb"), nil, 0o600))
	s.must(os.Truncate(s.path("city.mmdb"), 513<<20))
	expect("a file too large", "AT", "is larger than")
	s.put("city.mmdb", in("CH", built))
	expect("a good one", "CH", "geo database read")
}

// What is in use is asked until it is too old, whether its file is there or not.
func TestDatabasesGetTooOld(t *testing.T) {
	s := newShelf(t, "city.mmdb", "asn.mmdb")
	s.put("city.mmdb", cities)
	s.put("asn.mmdb", networks)
	s.must(os.Remove(s.path("city.mmdb")))
	for _, c := range []struct {
		age     time.Duration // of the cities
		country string
		asn     int64
		logs    int
	}{
		{30 * 24 * time.Hour, "DE", 64500, 0},
		{30*24*time.Hour + 1, "", 64500, 1},
		{30*24*time.Hour + time.Hour, "", 64500, 1},
		{30*24*time.Hour + time.Hour + 1, "", 0, 2},
		{-24 * time.Hour, "DE", 0, 2}, // the clock was set
		{-24*time.Hour - 1, "", 0, 3},
	} {
		s.now = built.Add(c.age)
		s.Refresh()
		got := s.find("203.0.113.9")
		if got.Country != c.country || got.ASN != c.asn || len(got.Databases) == 0 != (c.country == "" && c.asn == 0) {
			t.Errorf("after %s: %+v", c.age, got)
		}
		if n := strings.Count(s.log.String(), "out of date"); n != c.logs {
			t.Errorf("after %s: logged %d times", c.age, n)
		}
	}
}

// A file that was refused for its age alone is taken when the clock is put right.
func TestClockThatIsPutRight(t *testing.T) {
	s := newShelf(t, "city.mmdb")
	s.now = time.Unix(0, 0)
	s.put("city.mmdb", cities)
	if got := s.find("203.0.113.9"); got.Country != "" {
		t.Errorf("got %+v", got)
	}
	s.now = built
	s.Refresh()
	if got := s.find("203.0.113.9"); got.Country != "DE" {
		t.Errorf("got %+v in\n%s", got, s.logged())
	}
}

func TestOneDatabaseOfAKind(t *testing.T) {
	s := newShelf(t, "city.mmdb", "country.mmdb")
	s.put("city.mmdb", cities)
	country := geotest.Database{Type: "DBIP-Country-Lite", Built: built, Networks: map[string]map[string]any{"203.0.113.0/24": geotest.City("XX", "EU", "")}}
	s.put("country.mmdb", country)
	if got := s.logged(); !strings.Contains(got, "which "+s.path("city.mmdb")+" is already") {
		t.Errorf("logged %s", got)
	}
	if got := s.find("203.0.113.9"); got.Country != "DE" || len(got.Databases) != 1 {
		t.Errorf("got %+v", got)
	}
	_, err := geo.New(geo.Config{Files: []string{"/a", "/b", "/a"}, Log: slog.New(slog.DiscardHandler)})
	if err == nil || err.Error() != "/a is given twice" {
		t.Errorf("a file that is given twice: %v", err)
	}
}

func TestAges(t *testing.T) {
	s := newShelf(t, "city.mmdb", "asn.mmdb")
	s.put("city.mmdb", cities)
	want := fmt.Sprintf(`
# HELP sallyport_geo_database_age_seconds Time since the geo database in use was built, by file; +Inf when there is none.
# TYPE sallyport_geo_database_age_seconds gauge
sallyport_geo_database_age_seconds{file=%q} +Inf
sallyport_geo_database_age_seconds{file=%q} 86400
`, s.path("asn.mmdb"), s.path("city.mmdb"))
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "sallyport_geo_database_age_seconds"); err != nil {
		t.Error(err)
	}
}

// Whatever is in a file, nothing ends the process, and what can be looked up of it
// stays within bounds.
func FuzzDamaged(f *testing.F) {
	for _, d := range []geotest.Database{cities, networks, hidden} {
		b, err := d.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint(0), byte(0), uint(0), byte(0))
		for at := uint(0); at < uint(len(b)); at += 16 {
			f.Add(b, at, byte(0xff), at/2, byte(at))
		}
	}
	address := netip.MustParseAddr("203.0.113.1")
	f.Fuzz(func(t *testing.T, data []byte, at uint, value byte, more uint, other byte) {
		data = bytes.Clone(data)
		if len(data) > 0 {
			data[at%uint(len(data))] ^= value
			data[more%uint(len(data))] ^= other
		}
		for _, a := range []netip.Addr{address, netip.MustParseAddr("2001:db8::9")} {
			p, err := geo.LookUp(data, a)
			if err != nil {
				p = &policy.Place{}
			}
			if len(p.Country)|2 != 2 || len(p.City) > 256 || p.ASN < 0 {
				t.Errorf("got %+v", p)
			}
		}
		_ = geo.Verify(data) // must not panic
	})
}

func BenchmarkLocate(b *testing.B) {
	s := newShelf(b, "city.mmdb", "asn.mmdb", "anonymous.mmdb")
	s.put("city.mmdb", cities)
	s.put("asn.mmdb", networks)
	s.put("anonymous.mmdb", hidden)
	address := netip.MustParseAddr("203.0.113.1")
	b.ReportAllocs()
	for b.Loop() {
		s.Locate(address, s.now)
	}
}
