package policy_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/policy"
)

// draw makes decisions of bytes, so that fuzzing can steer what is made of
// them. Where they end, every decision is the first.
type draw struct {
	bytes []byte
	loops []string // variables of loops, of which even ones are texts
	depth int
}

func (d *draw) n(below int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % below
}

func pick[T any](d *draw, of ...T) T { return of[d.n(len(of))] }

// Expressions of each type. All are well-typed; some are for the library only.

const deepest = 5

// deeper makes an expression of a simple form where it would get too deep.
func (d *draw) deeper(simple int, forms ...func() string) string {
	if d.depth++; d.depth > deepest {
		forms = forms[:simple]
	}
	defer func() { d.depth-- }()
	return forms[d.n(len(forms))]()
}

func (d *draw) operator() string { return pick(d, "<", "<=", ">", ">=", "==", "!=") }

func (d *draw) compare(of func() string) string {
	return "(" + of() + " " + d.operator() + " " + of() + ")"
}

func (d *draw) flag() string {
	return d.deeper(6,
		func() string {
			return pick(d, func() string { return pick(d, "true", "false", "signals.test_flag") }, d.fact)()
		},
		func() string { return d.text() + " == " + d.text() },
		d.has,
		func() string { return d.text() + " in " + d.texts() },
		func() string { return d.any() + " " + pick(d, "==", "!=") + " " + d.scalar() },
		func() string { return "cidr(" + d.network() + ").containsIP(" + d.address() + ")" },

		func() string { return "(" + d.flag() + " && " + d.flag() + ")" },
		func() string { return "(" + d.flag() + " || " + d.flag() + ")" },
		func() string { return "(" + d.flag() + " && " + d.flag() + " && " + d.flag() + " && " + d.flag() + ")" },
		func() string { return "(" + d.flag() + " || " + d.flag() + " || " + d.flag() + ")" },
		func() string { return "!" + d.flag0() },
		func() string { return "(" + d.flag() + " ? " + d.flag() + " : " + d.flag() + ")" },
		func() string { return d.compare(d.text) },
		func() string { return d.compare(d.whole) },
		func() string { return d.compare(d.number) },
		func() string { return d.compare(d.moment) },
		func() string { return d.compare(d.span) },
		func() string { return d.address() + " " + pick(d, "==", "!=") + " " + d.address() },
		func() string { return d.any() + " " + pick(d, "<", "<=", ">", ">=") + " " + d.ordered() },
		func() string { return d.ordered() + " " + pick(d, "<", "<=", ">", ">=") + " " + d.any() },
		func() string { return d.any() + " " + pick(d, "==", "!=", "<", ">=") + " " + d.any() },
		func() string {
			return d.receiver() + "." + pick(d, "startsWith", "endsWith", "contains") + "(" + d.text() + ")"
		},
		func() string { return d.receiver() + `.matches("` + pick(d, "^a", "o+p$", "", ".", "[0-9]{2}") + `")` },
		func() string { return d.text() + " in " + d.mapping() },
		func() string { return d.any() + " in " + pick(d, d.texts, d.any, d.mapping, d.wholes)() },
		func() string { return d.scalar() + " in " + d.any() },
		func() string { return d.whole() + " in " + d.wholes() },
		func() string {
			return d.address() + "." + pick(d, "isLoopback", "isUnspecified", "isGlobalUnicast", "isLinkLocalUnicast", "isLinkLocalMulticast") + "()"
		},
		func() string { return d.loop(pick(d, "exists", "all", "exists", "exists_one"), d.texts(), true) },
		func() string { return d.loop(pick(d, "exists", "all"), d.any(), false) },
		func() string { return d.loop(pick(d, "exists", "all"), d.mapping(), true) },
		func() string { return d.any() + pick(d, " && ", " || ") + d.flag() },
		func() string { return d.texts() + " == " + d.texts() },
		func() string {
			at := pick(d, "signals.time", "principal.authenticated_at", "signals.device.last_seen")
			return "(" + at + pick(d, " >= ", " > ") + d.moment() + " && " + at + " < " + d.moment() + " && " + d.flag() + ")"
		},
		func() string { return "size(" + d.texts() + ".map(t, t + " + d.text() + ")) > 1" },
	)
}

// known is a field that is a text and always there, but for the last one.
func (d *draw) known() string {
	return pick(d, "principal.id", "principal.kind", "principal.acr", "principal.issuer", "principal.spiffe_id",
		"request.method", "request.path", "request.query", "request.host", "route.name", "route.namespace",
		"signals.tls.version", "signals.tls.sni", "signals.tls.alpn", "signals.test_text")
}

// fact is a field that is true or false, of where the client is or of its device.
func (d *draw) fact() string {
	return "signals." + pick(d, "geo.anonymous", "geo.vpn", "geo.hosting", "geo.tor", "geo.proxy",
		"device.disk_encrypted", "device.screen_lock", "device.compliant", "device.managed")
}

// origin is a field that is a text, likewise.
func (d *draw) origin() string {
	return "signals." + pick(d, "geo.country", "geo.continent", "geo.city", "geo.as_organization",
		"device.id", "device.os", "device.os_version", "device.owner")
}

func (d *draw) flag0() string { return "(" + d.flag() + ")" }

func (d *draw) has() string { return "has(" + pick(d, d.there, d.there, d.fact, d.origin)() + ")" }

func (d *draw) there() string {
	return pick(d, "principal.claims", "principal.id", "principal.authenticated_at", "request.headers.a", "request.headers.none",
		"route.labels.app", "route.labels.b", "signals.ip", "signals.time", "signals.tls", "signals.tls.version", "principal.claims.a",
		"principal.claims.b.c", "principal.claims.none", "signals.test_flag", "signals.test_whole", "signals.test_texts", "signals.test_text",
		"request.params.a", "request.path_params.id", "signals.geo", "signals.geo.asn", "signals.geo.age", "signals.device", "signals.device.last_seen")
}

// loop puts the variable within reach of the predicate.
func (d *draw) loop(macro, over string, text bool) string {
	name := fmt.Sprintf("v%d", len(d.loops))
	d.loops = append(d.loops, map[bool]string{true: "t", false: "a"}[text]+name)
	defer func() { d.loops = d.loops[:len(d.loops)-1] }()
	return fmt.Sprintf("(%s).%s(%s, %s)", over, macro, d.loops[len(d.loops)-1], d.flag())
}

func (d *draw) variable(kind, otherwise string) string {
	for range len(d.loops) {
		if v := d.loops[d.n(len(d.loops))]; strings.HasPrefix(v, kind) {
			return v
		}
	}
	return otherwise
}

func (d *draw) text() string {
	return d.deeper(4,
		func() string {
			return pick(d, `"shop"`, `""`, `"a"`, `"ann"`, `"GET"`, `"b"`, `"grün"`, `"10.0.0.1"`, `"staff"`, `"none"`)
		},
		func() string { return pick(d, d.known, d.known, d.origin)() },
		func() string { return d.variable("t", `"v"`) },
		func() string {
			return pick(d, "request.headers.a", `request.headers["x-B"]`, "route.labels.app", `route.labels["none"]`, `request.headers["none"]`)
		},
		func() string { return d.mapOfTexts() + "[" + d.text() + "]" },
		func() string { return d.texts() + "[" + d.whole() + "]" },
		func() string { return "(" + d.text() + " + " + d.text() + ")" },
		func() string { return "(" + d.flag() + " ? " + d.text() + " : " + d.text() + ")" },
		func() string { return "string(" + pick(d, d.any, d.text, d.any)() + ")" },
	)
}

func (d *draw) mapOfTexts() string {
	return pick(d, "request.headers", "route.labels", "request.params", "request.path_params")
}

func (d *draw) mapping() string {
	return pick(d, "request.headers", "route.labels", "principal.claims", "request.params", "request.path_params")
}

func (d *draw) texts() string {
	return d.deeper(3,
		func() string {
			return pick(d, "principal.groups", "principal.scopes", "principal.amr", "signals.test_texts")
		},
		func() string { return pick(d, `["shop", "a"]`, `[]`, `["GET"]`, `["b", "b", ""]`) },
		func() string {
			return `["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "ann", "shop"]`
		},
		func() string { return "[" + d.text() + ", " + d.text() + "]" },
		func() string { return "(" + d.flag() + " ? " + d.texts() + " : " + d.texts() + ")" },
	)
}

func (d *draw) wholes() string { return pick(d, `[1, 2, 3]`, `[0]`, `[9007199254740993, -1]`, `[]`) }

func (d *draw) any() string {
	return d.deeper(2,
		func() string {
			return pick(d, "principal.claims.a", "principal.claims.b", "principal.claims.none", "principal.claims.b.c", `principal.claims["a"]`, `principal.claims["grün"]`)
		},
		func() string { return d.variable("a", "principal.claims.a") },
		func() string { return "principal.claims[" + d.text() + "]" },
		func() string { return d.any() + "." + pick(d, "a", "b", "none") },
		func() string { return d.any() + "[" + pick(d, d.whole, d.text, d.any)() + "]" },
		func() string { return "(" + d.flag() + " ? " + d.any() + " : " + d.any() + ")" },
	)
}

func (d *draw) scalar() string {
	return pick(d, d.text, d.whole, d.number, d.flag0, func() string { return "null" }, d.any)()
}

func (d *draw) ordered() string { return pick(d, d.text, d.whole, d.number)() }

// receiver is a text, perhaps one only at evaluation.
func (d *draw) receiver() string { return pick(d, d.text, d.any)() }

func (d *draw) whole() string {
	return d.deeper(2,
		func() string {
			return pick(d, "0", "1", "-1", "2", "9", "9223372036854775807", "-9223372036854775808", "9007199254740993", "3037000500")
		},
		func() string { return pick(d, "signals.test_whole", "signals.geo.asn") },
		func() string { return "(" + d.whole() + pick(d, " + ", " - ", " * ", " / ", " % ") + d.whole() + ")" },
		func() string { return "-(" + d.whole() + ")" },
		func() string { return "size(" + pick(d, d.text, d.texts, d.any, d.mapping)() + ")" },
		func() string { return "int(" + pick(d, d.number, d.any, d.moment, d.whole, d.number)() + ")" },
		func() string { return "(" + d.flag() + " ? " + d.whole() + " : " + d.whole() + ")" },
		func() string {
			return d.moment() + "." + pick(d, "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
				"getHours", "getMinutes", "getSeconds", "getMilliseconds") + "(" + d.zone() + ")"
		},
		func() string {
			return d.span() + "." + pick(d, "getHours", "getMinutes", "getSeconds", "getMilliseconds") + "()"
		},
		func() string { return d.address() + ".family()" },
	)
}

func (d *draw) zone() string {
	return pick(d, "", `"Europe/Berlin"`, `"America/New_York"`, `"Asia/Kathmandu"`, `"+01:30"`, `"-11:59"`, `"-00:30"`, `"UTC"`, `""`, `"02:00"`)
}

func (d *draw) number() string {
	return d.deeper(2,
		func() string {
			return pick(d, "0.0", "1.5", "-2.5", "1e300", "9007199254740993.0", "-9223372036854775808.0", "0.1")
		},
		func() string { return "signals.test_number" },
		func() string { return "(" + d.number() + pick(d, " + ", " - ", " * ", " / ") + d.number() + ")" },
		func() string { return "-(" + d.number() + ")" },
		func() string { return "double(" + pick(d, d.whole, d.any, d.number)() + ")" },
		func() string { return "(" + d.flag() + " ? " + d.number() + " : " + d.number() + ")" },
	)
}

func (d *draw) moment() string {
	return d.deeper(2,
		func() string {
			return pick(d, "signals.time", "principal.authenticated_at", "signals.device.last_seen")
		},
		func() string {
			return `timestamp("` + pick(d, "2026-03-04T05:06:07Z", "2026-03-29T01:59:59.5+01:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59.25Z") + `")`
		},
		func() string { return "(" + d.moment() + pick(d, " + ", " - ") + d.span() + ")" },
		func() string { return "(" + d.span() + " + " + d.moment() + ")" },
		func() string { return "(" + d.flag() + " ? " + d.moment() + " : " + d.moment() + ")" },
	)
}

func (d *draw) span() string {
	return d.deeper(2,
		func() string {
			return `duration("` + pick(d, "0s", "90s", "-1.5h", "2562047h", "-2562047h", "250ms", "24h") + `")`
		},
		func() string { return pick(d, "signals.test_span", "signals.geo.age") },
		func() string { return "(" + d.moment() + " - " + d.moment() + ")" },
		func() string { return "(" + d.span() + pick(d, " + ", " - ") + d.span() + ")" },
		func() string { return "(" + d.flag() + " ? " + d.span() + " : " + d.span() + ")" },
	)
}

func (d *draw) address() string {
	return pick(d, "signals.ip", `ip("10.0.0.1")`, `ip("::1")`, `ip("fe80::1")`, "signals.ip", "ip("+d.text0()+")")
}

// text0 is a text that may be an address.
func (d *draw) text0() string { return pick(d, `"192.0.2.7"`, "request.host", "principal.id") }

func (d *draw) network() string {
	return `"` + pick(d, "10.0.0.0/8", "::/0", "0.0.0.0/0", "fe80::/10", "10.0.0.1/32", "2001:db8::7/64") + `"`
}

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
