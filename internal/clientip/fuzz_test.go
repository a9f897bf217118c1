package clientip_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/clientip"
)

// checkAnswer fails unless an address is in its one form, or unknown for a reason.
func checkAnswer(t *testing.T, got clientip.Address) {
	t.Helper()
	switch ip := got.IP; {
	case !ip.IsValid():
		if got.Unknown == "" || len(got.Unknown) > 80 {
			t.Fatalf("unknown, and not why: %+v", got)
		}
	case ip.Is4In6() || ip.Zone() != "" || ip.IsUnspecified() || got.Unknown != "":
		t.Fatalf("not in its one form: %+v", got)
	}
}

// FuzzXForwardedFor has a client send anything. What the proxies in front add is
// believed whatever that is; without them no more comes of it than of its last entry
// alone, as the standard library reads it.
func FuzzXForwardedFor(f *testing.F) {
	for _, seed := range []string{"", "10.0.0.1", "10.0.0.1, [::1]:80", `"`, ",", "fe80::1%eth0", "unknown", "010.0.0.1,10.1", "\t,\t 1.2.3.4:5 "} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	one := declare(f, `forwarded: {header: X_FORWARDED_FOR, trustedHops: 1}`)
	two := declare(f, `forwarded: {header: X_FORWARDED_FOR, trustedHops: 2}`)
	networks := declare(f, `forwarded: {header: X_FORWARDED_FOR, trustedCidrs: [10.0.4.0/24]}`)
	f.Fuzz(func(t *testing.T, claim string, joined bool) {
		added := appended("X-Forwarded-For", claim, []string{"203.0.113.9", "10.0.4.2"}, joined)
		for name, d := range map[string]*clientip.Declaration{"hops": two, "networks": networks} {
			if got := locate(d, "10.0.4.1", added); known(got) != "203.0.113.9" {
				t.Fatalf("%s: %q makes it %+v", name, claim, got)
			}
		}
		got := locate(one, "10.0.4.1", map[string][]string{"X-Forwarded-For": {claim}})
		checkAnswer(t, got)
		last := strings.Trim(claim[strings.LastIndexByte(claim, ',')+1:], " \t")
		if want := reading(last); want != got.IP {
			t.Fatalf("%q: got %+v, want %s", claim, got, want)
		}
	})
}

// reading is what the standard library makes of an entry.
func reading(entry string) netip.Addr {
	ip, err := netip.ParseAddr(entry)
	if inner, ok := strings.CutPrefix(entry, "["); err != nil && ok && strings.HasSuffix(inner, "]") {
		if ip, err = netip.ParseAddr(strings.TrimSuffix(inner, "]")); ip.Is4() {
			return netip.Addr{}
		}
	}
	if err != nil {
		both, wrong := netip.ParseAddrPort(entry)
		ip, err = both.Addr(), wrong
	}
	if err != nil || ip.Zone() != "" || ip.Unmap().IsUnspecified() {
		return netip.Addr{}
	}
	return ip.Unmap()
}

// FuzzForwarded does the same for RFC 7239. What is read from the right is, where it
// can be read from the left as well, the same.
func FuzzForwarded(f *testing.F) {
	for _, seed := range []string{
		"", "for=10.0.0.1", `for="[::1]:80";proto=https, for=_x`, `"`, `for="`, `for="a\"`, `x="\", for=10.0.0.1, y="`, ",", "for=unknown", `for="10.0.0.1:_p";BY=a`,
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	one := declare(f, `forwarded: {header: FORWARDED, trustedHops: 1}`)
	two := declare(f, `forwarded: {header: FORWARDED, trustedHops: 2}`)
	networks := declare(f, `forwarded: {header: FORWARDED, trustedCidrs: [10.0.4.0/24]}`)
	f.Fuzz(func(t *testing.T, claim string, joined bool) {
		added := appended("Forwarded", claim, []string{`for="203.0.113.9:4711";host="a, for=10.0.0.1"`, "for=10.0.4.2;proto=https"}, joined)
		for name, d := range map[string]*clientip.Declaration{"hops": two, "networks": networks} {
			if got := locate(d, "10.0.4.1", added); known(got) != "203.0.113.9" {
				t.Fatalf("%s: %q makes it %+v", name, claim, got)
			}
		}
		got := locate(one, "10.0.4.1", map[string][]string{"Forwarded": {claim}})
		checkAnswer(t, got)
		if last, ok := lastElement(claim); ok && got.IP.IsValid() {
			if alone := locate(one, "10.0.4.1", map[string][]string{"Forwarded": {last}}); alone != got {
				t.Fatalf("%q: got %+v, from the left %+v", claim, got, alone)
			}
		}
	})
}

// appended is a header as proxies leave it that each add to what a client claims: to
// its line, or in a line of their own.
func appended(name, claim string, added []string, joined bool) map[string][]string {
	if joined {
		return map[string][]string{name: {claim + ", " + strings.Join(added, ",")}}
	}
	return map[string][]string{name: append([]string{claim}, added...)}
}

// lastElement reads a list from the left; false says that its quotes do not pair.
func lastElement(s string) (string, bool) {
	begin, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			begin = i + 1
		}
	}
	return strings.Trim(s[begin:], " \t"), !quoted
}
