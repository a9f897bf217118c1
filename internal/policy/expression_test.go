package policy_test

import (
	"fmt"
	"strings"
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
