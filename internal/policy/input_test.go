package policy_test

import (
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/policy"
)

// input makes a request, odd and empty ones included.
func (d *draw) input() *policy.Input {
	in := &policy.Input{
		Method:     pick(d, "GET", "", "POST"),
		Host:       pick(d, "api.example", "10.0.0.1", "::1", "::ffff:10.0.0.1"),
		Path:       pick(d, "/v1/orders/7", "/", "/grün", strings.Repeat("/a", 700)),
		Query:      pick(d, "", "a=b&c", "shop", strings.Repeat("&", 40), "grün&a"),
		Route:      policy.RouteID{Namespace: "shop", Name: pick(d, "orders", "shop", "")},
		TLSVersion: pick(d, "1.3", ""),
		ServerName: pick(d, "a", "", "ab"),
		ALPN:       pick(d, "", "h2", "http/1.1"),
		Now:        d.when(),
	}
	in.ClientIP, _ = netip.ParseAddr(pick(d, "10.0.0.1", "", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "192.0.2.7", "2001:db8::7", "ff02::1"))
	in.RouteLabels = pick(d, nil, map[string]string{"app": "shop"}, map[string]string{"app": "", "b": "a", "shop": "GET"})
	in.Header = pick(d, nil, map[string][]string{"A": {"b", "c"}}, map[string][]string{"A": {}, "X-B": {strings.Repeat("a", 9000)}},
		map[string][]string{"X-B": {"shop"}, "Shop": {"a"}})
	in.Principal = d.principal()
	in.Geo = pick[policy.Locator](d, d.place(), nil, &policy.Place{})
	in.Device = pick(d, d.device(in.Now), nil, &policy.Device{})
	in.Templates = pick(d, nil, []pattern.Path{template("/v1/orders/{id}"), template("/v1/{a}/**")}, []pattern.Path{template("/{shop}")})
	return in
}

func template(text string) pattern.Path {
	p, err := pattern.ParsePath(text)
	if err != nil {
		panic(err)
	}
	return p
}

// place is where a client is, as far as it is known.
func (d *draw) place() *policy.Place {
	p := &policy.Place{
		Country:      pick(d, "DE", "", "a"),
		Continent:    pick(d, "EU", ""),
		City:         pick(d, "", "shop", "grün", strings.Repeat("a", 9000)),
		ASN:          pick[int64](d, 64496, 0, 1, 9),
		Organization: pick(d, "shop", "", "a"),
	}
	if d.n(3) > 0 {
		p.Anonymity = &policy.Anonymity{Any: d.n(2) == 0, VPN: d.n(2) == 0, Hosting: d.n(2) == 0, Tor: d.n(2) == 0, Proxy: d.n(2) == 0}
	}
	for range d.n(3) {
		p.Databases = append(p.Databases, policy.Database{Type: "GeoLite2-City", Built: d.when()})
	}
	return p
}

// device is one of which facts are known, were known, or have never been.
func (d *draw) device(now time.Time) *policy.Device {
	fact := func() policy.Fact { return pick(d, policy.Yes, policy.No, policy.Unknown, policy.Fact(9)) }
	return &policy.Device{
		ID:            pick(d, "ann", "", "shop"),
		OS:            pick(d, "a", "", "b"),
		OSVersion:     pick(d, "", "10.0.0.1", "7"),
		Owner:         pick(d, "ann", "", "staff", strings.Repeat("a", 300)),
		DiskEncrypted: fact(), ScreenLock: fact(), Compliant: fact(), Managed: fact(),
		LastSeen: d.when(),
		Expires:  pick(d, now.Add(time.Hour), now.Add(time.Nanosecond), now, now.Add(-time.Hour)),
	}
}

func (d *draw) when() time.Time {
	return pick(d,
		time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC), time.Time{},
		time.Date(2026, 3, 29, 2, 30, 0, 0, time.FixedZone("east", 9*3600)),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
		time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(-1, 250_000_000),
	)
}

func (d *draw) principal() *policy.Principal {
	if d.n(5) == 1 {
		return nil
	}
	p := &policy.Principal{
		Kind:            pick(d, policy.User, policy.Anonymous, policy.Workload),
		ID:              pick(d, "ann", "", "shop", "192.0.2.7"),
		Issuer:          pick(d, "", "a", "shop"),
		SPIFFEID:        pick(d, "", "spiffe://prod/web"),
		ACR:             pick(d, "", "gold"),
		Groups:          d.names(),
		Scopes:          d.names(),
		AMR:             d.names(),
		AuthenticatedAt: d.when(),
	}
	if d.n(5) > 0 {
		p.Claims = map[string]any{}
		for _, name := range []string{"a", "b", "grün", "shop", "GET"} {
			if d.n(6) > 0 {
				p.Claims[name] = d.claim(3)
			}
		}
	}
	return p
}

func (d *draw) names() []string {
	names := []string{}
	for range pick(d, 0, 1, 3, 20, 200) {
		names = append(names, pick(d, "shop", "a", "", "staff", "b"))
	}
	return names
}

// claim makes what tokens may hold, and what others might put there.
func (d *draw) claim(deep int) any {
	switch kind := d.n(16); {
	case kind < 2:
		return pick[any](d, nil, true, false)
	case kind < 5:
		return pick(d, 0.0, 1, 1.5, -1, 9007199254740992, 1e300, math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), -9223372036854775808, 9223372036854775807)
	case kind < 9:
		return pick(d, "shop", "a", "", "ann", "grün", "10.0.0.1", "7", strings.Repeat("a", 300))
	case kind == 9:
		return pick[any](d, int64(0), int64(1), int64(-1), int64(7), int64(math.MaxInt64), int64(math.MinInt64), int64(1<<53+1), 7, uint8(3), json.Number("1"), []string{"a", "shop"}, map[string]string{"a": "b"}, float32(1.5), []byte("a"),
			time.Unix(1, 0), time.Second, []float64{1}, map[string]int{"a": 1}, struct{}{}, map[any]any{1: 2})
	case deep == 0:
		return "deep"
	case kind < 13:
		var list []any
		for range d.n(5) {
			list = append(list, d.claim(deep-1))
		}
		return list
	}
	m := map[string]any{}
	for _, name := range []string{"a", "b", "c"} {
		if d.n(2) == 0 {
			m[name] = d.claim(deep - 1)
		}
	}
	return m
}
