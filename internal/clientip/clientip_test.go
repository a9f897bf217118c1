package clientip_test

import (
	"net/netip"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/clientip"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// declare reads a Listener's clientIp as a file has it.
func declare(t testing.TB, clientIP string) *clientip.Declaration {
	t.Helper()
	all, problems := resource.ParseYAML([]byte(`
apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: edge, name: public}
spec: {address: ":443", tls: {workloadIdentity: true}, clientIp: {` + clientIP + `}}`))
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0].String())
	}
	p, problems := resource.Decode(all[0].Resource)
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0].String())
	}
	d := clientip.Declare(p.Spec.(*resourcev1.Listener).GetClientIp())
	return &d
}

// locate says where a request comes from, as a gateway does.
func locate(d *clientip.Declaration, peer string, header map[string][]string) clientip.Address {
	return d.OfRequest(d.OfConnection(netip.MustParseAddr(peer).Unmap()), header)
}

func header(lines ...string) map[string][]string {
	h := map[string][]string{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		name = textproto.CanonicalMIMEHeaderKey(name)
		h[name] = append(h[name], strings.TrimSpace(value))
	}
	return h
}

func known(a clientip.Address) string {
	if !a.IP.IsValid() {
		return "unknown"
	}
	return a.IP.String()
}

// The examples of docs/signals.md are true.
func TestDocumentedExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/signals.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]*)`")
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([0-9a-f:.]+) \\|(.*)\\| ([^|]+) \\|$").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		var lines []string
		for _, q := range quoted.FindAllStringSubmatch(row[3], -1) {
			lines = append(lines, q[1])
		}
		got := locate(declare(t, row[1]), row[2], header(lines...))
		if known(got) != row[4] {
			t.Errorf("%s\ngot %+v", row[0], got)
		}
		if (got.Unknown != "") == got.IP.IsValid() {
			t.Errorf("%s\nknown is %t, because %q", row[0], got.IP.IsValid(), got.Unknown)
		}
	}
	if len(rows) < 30 {
		t.Errorf("%d examples were found", len(rows))
	}
}

// An entry of X-Forwarded-For has one reading, or none.
func TestEntriesOfXForwardedFor(t *testing.T) {
	d := declare(t, `forwarded: {header: X_FORWARDED_FOR, trustedHops: 1}`)
	for entry, want := range map[string]string{
		"203.0.113.9":                     "203.0.113.9",
		"203.0.113.9:1":                   "203.0.113.9",
		"203.0.113.9:65535":               "203.0.113.9",
		"2001:DB8::9":                     "2001:db8::9",
		"[2001:db8::9]":                   "2001:db8::9",
		"[2001:db8::9]:443":               "2001:db8::9",
		"::ffff:203.0.113.9":              "203.0.113.9",
		"[::ffff:cb00:7109]:1":            "203.0.113.9",
		"::ffff:0:203.0.113.9":            "::ffff:0:cb00:7109",
		"127.0.0.1":                       "127.0.0.1",
		"":                                "unknown",
		"203.0.113":                       "unknown",
		"3405803785":                      "unknown",
		"0xcb.0.0x71.9":                   "unknown",
		"0313.0.0161.011":                 "unknown",
		"203.0.113.09":                    "unknown",
		"203.0.113.256":                   "unknown",
		"203.0.113.9.":                    "unknown",
		"203.0.113.9:":                    "unknown",
		"203.0.113.9:0x1":                 "unknown",
		"203.0.113.9:65536":               "unknown",
		"203.0.113.9:000443":              "unknown",
		"203.0.113.9:+1":                  "unknown",
		"203.0.113.9/32":                  "unknown",
		"203.0.113.9 198.51.100.7":        "unknown",
		"203.0.113.9;198.51.100.7":        "unknown",
		"[203.0.113.9]":                   "unknown",
		"[203.0.113.9]:1":                 "unknown",
		"[2001:db8::9":                    "unknown",
		"2001:db8::9]":                    "unknown",
		"[[2001:db8::9]]":                 "unknown",
		"[2001:db8::9]443":                "unknown",
		"[2001:db8::9]:_x":                "unknown",
		"fe80::9%1":                       "unknown",
		"[fe80::9%25eth0]:1":              "unknown",
		"::ffff:203.0.113.9%eth0":         "unknown",
		"0.0.0.0":                         "unknown",
		"::":                              "unknown",
		"::ffff:0.0.0.0":                  "unknown",
		`"203.0.113.9"`:                   "unknown",
		"for=203.0.113.9":                 "unknown",
		"unknown":                         "unknown",
		"_hidden":                         "unknown",
		"localhost":                       "unknown",
		"２０３.0.113.9":                     "unknown",
		"203.0.113.9\x00":                 "unknown",
		strings.Repeat("1", 60<<10):       "unknown",
		"2001:db8::9" + "%" + "203.0.113": "unknown",
	} {
		for _, line := range []string{entry, "10.0.0.1," + entry, "10.0.0.1, \t" + entry} {
			got := locate(d, "10.0.4.1", map[string][]string{"X-Forwarded-For": {line}})
			if known(got) != want || got.Source != clientip.XForwardedFor {
				t.Errorf("%.80q: got %+v, want %s", line, got, want)
			}
		}
	}
}

// An element of Forwarded is as RFC 7239 wants it, or nothing.
func TestElementsOfForwarded(t *testing.T) {
	d := declare(t, `forwarded: {header: FORWARDED, trustedHops: 1}`)
	for element, want := range map[string]string{
		`for=203.0.113.9`:                                   "203.0.113.9",
		`FOR=203.0.113.9`:                                   "203.0.113.9",
		`for="203.0.113.9"`:                                 "203.0.113.9",
		`for="203.0.113.9:443"`:                             "203.0.113.9",
		`for="203.0.113.9:_port"`:                           "203.0.113.9",
		`for="[2001:db8::9]"`:                               "2001:db8::9",
		`for="[::ffff:203.0.113.9]:1"`:                      "203.0.113.9",
		`proto=https;by=_lb;for=203.0.113.9;host=a.example`: "203.0.113.9",
		`for=203.0.113.9;host="a.example:443"`:              "203.0.113.9",
		`for=203.0.113.9;host="a,b;for=10.0.0.1"`:           "203.0.113.9",
		`by="for=10.0.0.1";for=203.0.113.9`:                 "203.0.113.9",
		`for=203.0.113.9;ext="=\t"`:                         "unknown",
		``:                                                  "unknown",
		`203.0.113.9`:                                       "unknown",
		`for`:                                               "unknown",
		`for=`:                                              "unknown",
		`for=""`:                                            "unknown",
		`=203.0.113.9`:                                      "unknown",
		`for=203.0.113.9;`:                                  "unknown",
		`;for=203.0.113.9`:                                  "unknown",
		`for=203.0.113.9;;proto=https`:                      "unknown",
		`for=203.0.113.9; proto=https`:                      "unknown",
		`for =203.0.113.9`:                                  "unknown",
		`for= 203.0.113.9`:                                  "unknown",
		`for=203.0.113.9:443`:                               "unknown",
		`for=[2001:db8::9]`:                                 "unknown",
		`for="2001:db8::9"`:                                 "unknown",
		`for="[203.0.113.9]"`:                               "unknown",
		`for="[fe80::9%eth0]"`:                              "unknown",
		`for=010.0.0.1`:                                     "unknown",
		`for="203.0.113.9`:                                  "unknown",
		`for=203.0.113.9"`:                                  "unknown",
		`for="203.0.113.9"x`:                                "unknown",
		`for="203.0.113.9"proto=https`:                      "unknown",
		`for="203.0.113.\9"`:                                "unknown",
		`for=203.0.113.9;FOR=203.0.113.9`:                   "unknown",
		`for=203.0.113.9;proto=http;proto=https`:            "unknown",
		`for=unknown`:                                       "unknown",
		`for="unknown:443"`:                                 "unknown",
		`for=_`:                                             "unknown",
		`for=_a.b-c`:                                        "unknown",
		`for="_a:1"`:                                        "unknown",
		`proto=https`:                                       "unknown",
		`host="\", for=10.0.0.1, x=\"";for=203.0.113.9`:      "unknown",
		`for=203.0.113.9;host="\", for=10.0.0.1"`:            "unknown",
		`for=203.0.113.9;host="a\\"`:                         "unknown",
		`for=203.0.113.9` + strings.Repeat(";a=b", 20):       "unknown",
		`for=203.0.113.9;a=1;b=1;c=1;d=1;e=1;f=1;g=1;h=1`:    "203.0.113.9",
		`for=` + strings.Repeat(`1`, 60<<10):                 "unknown",
		`for="` + strings.Repeat(`,`, 60<<10) + `"`:          "unknown",
		strings.Repeat(`"`, 60<<10):                          "unknown",
		`for="[2001:db8::9]:443", ` + strings.Repeat(` `, 9): "unknown",
	} {
		for _, line := range []string{element, "for=10.0.0.1," + element, "for=10.0.0.1, \t" + element} {
			got := locate(d, "10.0.4.1", map[string][]string{"Forwarded": {line}})
			if known(got) != want || got.Source != clientip.Forwarded {
				t.Errorf("%.80q: got %+v, want %s", line, got, want)
			}
		}
	}
}

// A list has an end, and so has patience.
func TestLongLists(t *testing.T) {
	trusting := declare(t, `forwarded: {header: X_FORWARDED_FOR, trustedCidrs: [10.0.4.0/24]}`)
	for n, want := range map[int]string{0: "203.0.113.9", 31: "203.0.113.9", 32: "unknown", 5000: "unknown"} {
		got := locate(trusting, "10.0.4.1", header("X-Forwarded-For: 203.0.113.9"+strings.Repeat(", 10.0.4.2", n)))
		if known(got) != want {
			t.Errorf("behind %d proxies: %+v", n, got)
		}
	}
	counting := declare(t, `forwarded: {header: X_FORWARDED_FOR, trustedHops: 16}`)
	for n, want := range map[int]string{14: "unknown", 15: "203.0.113.9", 16: "10.0.4.2"} {
		got := locate(counting, "10.0.4.1", header("X-Forwarded-For: 203.0.113.9"+strings.Repeat(", 10.0.4.2", n)))
		if known(got) != want {
			t.Errorf("behind %d proxies: %+v", n, got)
		}
	}
}

// Why an address is unknown is said without a word of the client's.
func TestUnknownIsExplained(t *testing.T) {
	for _, c := range []struct{ declared, line, want string }{
		{`header: X_FORWARDED_FOR, trustedHops: 2`, "X-Forwarded-For: 10.0.0.1, secret, 10.0.4.2", "entry 2 from the right: it is no address"},
		{`header: X_FORWARDED_FOR, trustedHops: 2`, "X-Forwarded-For: 10.0.0.1", "entry 2 from the right: there is none"},
		{`header: X_FORWARDED_FOR, trustedCidrs: [10.0.4.0/24]`, "X-Forwarded-For: 10.0.4.2", "entry 2 from the right: there is none"},
		{`header: FORWARDED, trustedHops: 1`, "Forwarded: for=_secret", "entry 1 from the right: who forwarded it does not say"},
		{`header: FORWARDED, trustedHops: 1`, "Forwarded: for=unknown", "entry 1 from the right: who forwarded it does not know"},
		{`header: FORWARDED, trustedHops: 1`, "Forwarded: secret", "entry 1 from the right: it is not as RFC 7239 wants it"},
		{`header: FORWARDED, trustedHops: 1`, "Forwarded: proto=https", "entry 1 from the right: it has no for"},
	} {
		got := locate(declare(t, "forwarded: {"+c.declared+"}"), "10.0.4.1", header(c.line))
		if got.Unknown != c.want || got.IP.IsValid() {
			t.Errorf("%s: %+v", c.line, got)
		}
	}
}

func TestOfConnection(t *testing.T) {
	for _, c := range []struct {
		declared, peer, want string
		source               clientip.Source
	}{
		{`direct: {}`, "203.0.113.9", "203.0.113.9", clientip.Direct},
		{`proxyProtocol: {trustedCidrs: [10.0.4.0/24]}`, "203.0.113.9", "203.0.113.9", clientip.Direct},
		{`proxyProtocol: {trustedCidrs: [10.0.4.0/24]}`, "10.0.4.1", "unknown", clientip.ProxyProtocol},
		{`forwarded: {header: FORWARDED, trustedCidrs: ["2001:db8::/32"]}`, "2001:db8::1", "unknown", clientip.Forwarded},
		{`forwarded: {header: FORWARDED, trustedCidrs: ["2001:db8::/32"]}`, "2001:db9::1", "2001:db9::1", clientip.Direct},
	} {
		if got := locate(declare(t, c.declared), c.peer, nil); known(got) != c.want || got.Source != c.source {
			t.Errorf("%s, from %s: %+v", c.declared, c.peer, got)
		}
	}
	var none clientip.Declaration
	got := none.OfRequest(none.OfConnection(netip.MustParseAddr("203.0.113.9")), header("X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1"))
	if known(got) != "203.0.113.9" || got.Source != clientip.Undeclared {
		t.Errorf("undeclared: %+v", got)
	}
}
