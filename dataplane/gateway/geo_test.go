package gateway_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/dataplane/geo"
	"github.com/sallyport/sallyport/dataplane/geo/geotest"
)

// place is the part of a record that says where a client is.
type place struct {
	Databases []struct {
		Type  string
		Built time.Time
	}
	Country   string
	Anonymous *bool
}

// mapped is a fleet whose gateway has databases in files, which tests change while
// it runs. The client says in X-Forwarded-For where it is.
type mapped struct {
	*world
	city, anonymous string
	built           time.Time
	upstream        *echo
}

func newMapped(t *testing.T) *mapped {
	dir := t.TempDir()
	m := &mapped{city: filepath.Join(dir, "city.mmdb"), anonymous: filepath.Join(dir, "anonymous.mmdb"), built: time.Now().UTC().Truncate(time.Second)}
	atlas, err := geo.New(geo.Config{
		Files: []string{m.city, m.anonymous}, Log: quiet(), Reload: 5 * time.Millisecond, Now: func() time.Time { return m.now() },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.world = newWorld(t, options{geo: atlas})
	m.upstream = newEcho(t)
	m.must(m.cities("DE").Put(m.city))
	m.must(m.hidden().Put(m.anonymous))
	atlas.Refresh()
	m.run(atlas.Run)
	return m
}

// cities has 203.0.113.0/24 in a country, and all else is nowhere.
func (m *mapped) cities(country string) geotest.Database {
	return geotest.Database{Type: "GeoLite2-City", Built: m.built, Networks: map[string]map[string]any{
		"203.0.113.0/24": geotest.City(country, "EU", "Anywhere"),
		"2001:db8::/32":  geotest.City(country, "EU", "Anywhere"),
	}}
}

func (m *mapped) hidden() geotest.Database {
	return geotest.Database{Type: "GeoIP2-Anonymous-IP", Built: m.built, Networks: map[string]map[string]any{
		"203.0.113.66/32": geotest.Flags("is_anonymous", "is_tor_exit_node"),
	}}
}

// when has a condition decide: those whom it allows may, or those whom it denies
// may not.
func (m *mapped) when(effect, when string) {
	m.t.Helper()
	all := m.locating(`forwarded: {header: X_FORWARDED_FOR, trustedHops: 1}`, plaintext(m.upstream.address()))
	const by = "cidr(\"10.0.0.0/8\").containsIP(signals.ip)\n"
	if effect == "ALLOW" {
		m.apply(strings.Replace(all, by, fmt.Sprintf("%q\n", when), 1))
		return
	}
	m.apply(strings.Replace(all, "  when: "+by, "", 1) +
		"---\napiVersion: sallyport/v1\nkind: Policy\nmetadata: {namespace: shop, name: blocks}\n" +
		"spec:\n  routes: {names: [orders]}\n  effect: DENY\n" + fmt.Sprintf("  when: %q\n", when))
}

// ask returns the status for a client at an address, and what was recorded.
func (m *mapped) ask(address string) (int, line) {
	m.t.Helper()
	token := m.tokens.sign(jwt.MapClaims{"exp": m.now().Add(time.Minute).Unix()})
	res, _ := m.raw(strings.ReplaceAll(get, "TOKEN", token) + "X-Forwarded-For: " + address + "\r\n\r\n")
	return res.StatusCode, m.records.of(m.t, "decision", res.Header.Get("Sallyport-Decision-Id"))
}

// settle asks until the answer is that.
func (m *mapped) settle(address string, status int) {
	m.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, d := m.ask(address)
		if got == status {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: %d, not %d: %+v", address, got, status, d)
		}
	}
}

const (
	inGermany  = `signals.geo.country == "DE"`
	notFrance  = `signals.geo.country != "FR"`
	noTor      = `!signals.geo.tor`
	isFrance   = `signals.geo.country == "FR"`
	isTor      = `signals.geo.anonymous`
	usualPlace = "203.0.113.9"
)

// No spelling of an address makes it one that is elsewhere.
func TestWhereAddressesAre(t *testing.T) {
	m := newMapped(t)
	for _, c := range []struct {
		address           string
		allows, unlisted  int // ALLOW when it is in Germany; is not of Tor
		notFrench, denied int // DENY when it is in France; DENY when it is anonymous
	}{
		{usualPlace, 200, 200, 200, 200},
		{"203.0.113.66", 200, 403, 200, 403},
		{"::ffff:203.0.113.9", 200, 200, 200, 200},
		{"::ffff:203.0.113.66", 200, 403, 200, 403},
		{"2001:db8::9", 200, 200, 200, 200},
		{"192.0.2.1", 403, 200, 403, 200}, // it is in no country that is known
		{"10.0.0.1", 403, 200, 403, 200},

		// Databases lead from these to IPv4 addresses in them.
		{"::203.0.113.9", 403, 403, 403, 403},
		{"64:ff9b::203.0.113.9", 403, 403, 403, 403},
		{"2002:cb00:7109::1", 403, 403, 403, 403},
		{"2001:0:cb00:7109::1", 403, 403, 403, 403},

		// These are no addresses, and those are nowhere.
		{"fe80::1%eth0", 403, 403, 403, 403},
		{"::ffff:203.0.113.9%eth0", 403, 403, 403, 403},
		{"0313.0.113.9", 403, 403, 403, 403},
		{"203.0.28937", 403, 403, 403, 403},
		{"unknown", 403, 403, 403, 403},
		{"", 403, 403, 403, 403},
	} {
		for _, p := range []struct {
			effect, when string
			status       int
		}{{"ALLOW", inGermany, c.allows}, {"ALLOW", noTor, c.unlisted}, {"DENY", isFrance, c.notFrench}, {"DENY", isTor, c.denied}} {
			m.when(p.effect, p.when)
			got, d := m.ask(c.address)
			if got != p.status || d.Geo == nil || len(d.Geo.Databases) != 2 || !d.Geo.Databases[0].Built.Equal(m.built) {
				t.Errorf("%s when %s, from %q: %d, want %d: %+v, %+v", p.effect, p.when, c.address, got, p.status, d, d.Geo)
			}
		}
	}
}

// Nobody is asked where a client is when no policy does.
func TestNobodyAsksWhere(t *testing.T) {
	m := newMapped(t)
	m.when("ALLOW", `has(signals.ip)`)
	if got, d := m.ask(usualPlace); got != 200 || d.Geo != nil {
		t.Errorf("%d, recorded %+v", got, d.Geo)
	}
}

// Whatever becomes of a file while the gateway runs, requests are decided by the
// last sound one, until it is too old; then nothing is known, and nothing allowed.
func TestFilesChangeWhileRequestsAreDecided(t *testing.T) {
	m := newMapped(t)
	m.when("ALLOW", inGermany)
	m.settle(usualPlace, 200)

	whole, err := m.cities("FR").Bytes()
	m.must(err)
	for name, spoil := range map[string]func() error{
		"cut short":     func() error { return os.WriteFile(m.city, whole[:len(whole)/3], 0o600) },
		"garbage":       func() error { return os.WriteFile(m.city, []byte(strings.Repeat("no database", 100)), 0o600) },
		"half of one":   func() error { return geotest.Put(m.city, whole[:len(whole)/2]) },
		"another kind":  func() error { return m.hidden().Put(m.city) },
		"gone":          func() error { return os.Remove(m.city) },
		"of next year":  func() error { return put(m.cities("FR"), m.built.Add(365*24*time.Hour), m.city) },
		"of last year":  func() error { return put(m.cities("FR"), m.built.Add(-365*24*time.Hour), m.city) },
		"an empty file": func() error { return geotest.Put(m.city, nil) },
		"a broken tree": func() error { return geotest.Put(m.city, append([]byte(strings.Repeat("\x7f", 64)), whole[64:]...)) },
		"a broken value": func() error {
			return geotest.Put(m.city, []byte(strings.Replace(string(whole), "iso_code", "\xff\xff\xff\xff\xff\xff\xff\xff", 1)))
		},
	} {
		m.must(spoil())
		// The other database is read later than this one is looked at.
		m.observe()
		if got, d := m.ask(usualPlace); got != 200 {
			t.Errorf("%s: %d, %+v", name, got, d.Geo)
		}
		if got, d := m.ask("192.0.2.1"); got != 403 {
			t.Errorf("%s: %d, %+v", name, got, d.Geo)
		}
	}

	// One that is sound counts at once, whatever it says.
	m.must(m.cities("FR").Put(m.city))
	m.settle(usualPlace, 403)
	m.when("DENY", isFrance)
	m.settle(usualPlace, 403)
	m.must(m.cities("DE").Put(m.city))
	m.settle(usualPlace, 200)

	m.must(os.Remove(m.city))
	m.set(func() { m.ahead = 29 * 24 * time.Hour })
	if got, d := m.ask(usualPlace); got != 200 {
		t.Errorf("after 29 days: %d, %+v", got, d.Geo)
	}
	m.set(func() { m.ahead = 31 * 24 * time.Hour })
	for _, p := range [][2]string{{"ALLOW", inGermany}, {"ALLOW", notFrance}, {"ALLOW", noTor}, {"DENY", isFrance}, {"DENY", isTor}} {
		m.when(p[0], p[1])
		if got, d := m.ask(usualPlace); got != 403 || d.Geo == nil || len(d.Geo.Databases) != 0 || d.Geo.Country != "" || d.Geo.Anonymous != nil {
			t.Errorf("%s when %s, after 31 days: %d, %+v", p[0], p[1], got, d.Geo)
		}
	}
}

// What is open is decided on by the databases that are in use: it goes on while one is
// missing or damaged, and not where it is somewhere else by now.
func TestFilesChangeWhileStreamsAreOpen(t *testing.T) {
	m := newMapped(t)
	m.upstream.answerWith(echoesOrTells)
	m.when("ALLOW", inGermany)
	m.apply(strings.Replace(m.resources, "upstream: orders,", "webSocket: true, upstream: orders,", 1))
	m.settle(usualPlace, 200)
	conn, res := m.openBy(m.client(false, m.tls(host)), http.Header{
		"Authorization": {"Bearer " + m.tokens.sign(nil)}, "X-Forwarded-For": {usualPlace},
	})
	for name, spoil := range map[string]func() error{
		"garbage": func() error { return os.WriteFile(m.city, []byte(strings.Repeat("no database", 100)), 0o600) },
		"gone":    func() error { return os.Remove(m.city) },
	} {
		m.must(spoil())
		m.observe()
		m.again()
		if err := say(t.Context(), conn, "on"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	m.must(m.cities("FR").Put(m.city))
	_, told := m.hears(conn)
	if d := m.closedBy(res.Header.Get("Sallyport-Decision-Id"), told, "no_matching_policy"); d.Geo == nil || d.Geo.Country != "FR" {
		t.Errorf("recorded was %+v", d)
	}
}

func put(d geotest.Database, built time.Time, file string) error {
	d.Built = built
	return d.Put(file)
}

// observe returns when the files have been looked at since it was called: the
// databases of anonymity have got another version, and are read after the cities.
func (m *mapped) observe() {
	m.t.Helper()
	m.built = m.built.Add(time.Second)
	m.must(m.hidden().Put(m.anonymous))
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, d := m.ask(usualPlace)
		if d.Geo != nil && len(d.Geo.Databases) == 2 && d.Geo.Databases[1].Built.Equal(m.built) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the files were not looked at: %+v", d.Geo)
		}
	}
}

// A gateway without databases knows nothing, and allows nothing by it.
func TestNoDatabases(t *testing.T) {
	for name, geo := range map[string]*geo.Atlas{"none": nil, "missing": missing(t)} {
		o := options{}
		if geo != nil {
			o.geo = geo
		}
		m := &mapped{world: newWorld(t, o), upstream: newEcho(t)}
		for _, p := range [][2]string{{"ALLOW", inGermany}, {"ALLOW", notFrance}, {"ALLOW", noTor}, {"DENY", isFrance}, {"DENY", isTor}} {
			m.when(p[0], p[1])
			if got, d := m.ask(usualPlace); got != 403 || d.Reason != "evaluation_error" {
				t.Errorf("%s: %s when %s: %d, %s", name, p[0], p[1], got, d.Reason)
			}
		}
		m.when("ALLOW", `!has(signals.geo.country) && !has(signals.geo.age) || `+inGermany)
		if got, d := m.ask(usualPlace); got != 200 {
			t.Errorf("%s: who says that it need not be known: %d, %s", name, got, d.Reason)
		}
	}
}

func missing(t *testing.T) *geo.Atlas {
	t.Helper()
	a, err := geo.New(geo.Config{Files: []string{filepath.Join(t.TempDir(), "none.mmdb")}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	a.Refresh()
	return a
}
