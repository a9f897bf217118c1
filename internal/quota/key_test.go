package quota_test

import (
	"bytes"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/quota"
)

func client(text string) *policy.Input { return &policy.Input{ClientIP: netip.MustParseAddr(text)} }

func user(issuer, id string) *policy.Input {
	return &policy.Input{Principal: &policy.Principal{Kind: policy.User, Issuer: issuer, ID: id}}
}

func header(name string, values ...string) *policy.Input {
	return &policy.Input{Header: map[string][]string{name: values}}
}

func mustText(t testing.TB, text string) *policy.Text {
	t.Helper()
	compiled, err := policy.CompileText("key", text)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func TestKeys(t *testing.T) {
	address := quota.Part{Kind: quota.ClientAddress, IPv4: 32, IPv6: 64}
	network := quota.Part{Kind: quota.ClientAddress, IPv4: 24, IPv6: 48}
	tenant := quota.Part{Kind: quota.Header, Name: "X-Tenant"}
	expression := quota.Part{Kind: quota.Text, Text: mustText(t, `request.headers["x-tenant"]`)}
	for _, c := range []struct {
		part  quota.Part
		a, b  *policy.Input
		alike bool
	}{
		{address, client("192.0.2.1"), client("192.0.2.1"), true},
		{address, client("192.0.2.1"), client("192.0.2.2"), false},
		{address, client("192.0.2.1"), client("::ffff:192.0.2.1"), true},
		{address, client("2001:db8::1"), client("2001:db8::ffff:1"), true},
		{address, client("2001:db8::1"), client("2001:db8:0:1::1"), false},
		{address, client("fe80::1%eth0"), client("fe80::1%eth1"), true},
		{address, &policy.Input{}, &policy.Input{}, true}, // not known of either
		{address, &policy.Input{}, client("0.0.0.0"), false},
		{network, client("192.0.2.1"), client("192.0.2.200"), true},
		{network, client("192.0.2.1"), client("192.0.3.1"), false},
		{network, client("2001:db8::1"), client("2001:db8:0:1::1"), true},
		{quota.Part{Kind: quota.Principal}, user("a", "ann"), user("a", "ann"), true},
		{quota.Part{Kind: quota.Principal}, user("a", "ann"), user("b", "ann"), false},
		{quota.Part{Kind: quota.Principal}, user("ab", "c"), user("a", "bc"), false},
		{quota.Part{Kind: quota.Principal}, &policy.Input{}, &policy.Input{}, true},
		{quota.Part{Kind: quota.Principal}, &policy.Input{}, user("", ""), false},
		{quota.Part{Kind: quota.Issuer}, user("a", "ann"), user("a", "bob"), true},
		{quota.Part{Kind: quota.Issuer}, user("a", "ann"), user("b", "ann"), false},
		{tenant, header("X-Tenant", "a"), header("X-Tenant", "a", "b"), true},
		{tenant, header("X-Tenant", "a"), header("X-Tenant", "b"), false},
		{tenant, header("X-Tenant", ""), header("X-Other", "a"), false},
		{tenant, header("X-Other", "b"), header("X-Other", "a"), true},
		{expression, header("X-Tenant", "a"), header("X-Tenant", "b"), false},
		{expression, header("X-Tenant", "a"), header("X-Tenant", "a", "c"), true},
		{expression, header("X-Other", "b"), header("X-Other", "a"), true}, // no value
		{quota.Part{Kind: quota.Route}, &policy.Input{Route: policy.RouteID{Namespace: "ab", Name: "c"}}, &policy.Input{Route: policy.RouteID{Namespace: "a", Name: "bc"}}, false},
		{quota.Part{Kind: quota.ServerName}, &policy.Input{ServerName: "a.example"}, &policy.Input{ServerName: "b.example"}, false},
		{quota.Part{}, client("192.0.2.1"), user("a", "ann"), true},
	} {
		key := quota.Key{c.part}
		if got := bytes.Equal(key.Append(nil, c.a), key.Append(nil, c.b)); got != c.alike {
			t.Errorf("%+v: %+v and %+v are alike: %v", c.part, c.a, c.b, got)
		}
	}
}

// What is in one part cannot be taken for what is in the next.
func TestPartsStayApart(t *testing.T) {
	key := quota.Key{{Kind: quota.Header, Name: "A"}, {Kind: quota.Header, Name: "B"}, {Kind: quota.Principal}}
	draw := func(t *rapid.T, name string) *policy.Input {
		in := &policy.Input{Header: map[string][]string{}}
		for _, field := range []string{"A", "B"} {
			if rapid.Bool().Draw(t, name+field) {
				in.Header[field] = []string{rapid.StringOfN(rapid.RuneFrom([]rune("\x00\x01\x02a")), 0, 4, -1).Draw(t, name+field+"value")}
			}
		}
		if rapid.Bool().Draw(t, name+"principal") {
			in.Principal = &policy.Principal{Kind: policy.User, ID: rapid.StringOfN(rapid.RuneFrom([]rune("\x00\x01a")), 0, 3, -1).Draw(t, name+"id")}
		}
		return in
	}
	same := func(a, b *policy.Input) bool {
		for _, field := range []string{"A", "B"} {
			if len(a.Header[field]) != len(b.Header[field]) || len(a.Header[field]) > 0 && a.Header[field][0] != b.Header[field][0] {
				return false
			}
		}
		return (a.Principal == nil) == (b.Principal == nil) && (a.Principal == nil || a.Principal.ID == b.Principal.ID)
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		if got := bytes.Equal(key.Append(nil, a), key.Append(nil, b)); got != same(a, b) {
			t.Fatalf("%+v and %+v are alike: %v", a, b, got)
		}
	})
}

func TestWhatOnlyAuthenticationTells(t *testing.T) {
	for _, c := range []struct {
		part quota.Part
		want bool
	}{
		{quota.Part{Kind: quota.ClientAddress}, false},
		{quota.Part{Kind: quota.Principal}, true},
		{quota.Part{Kind: quota.Issuer}, true},
		{quota.Part{Kind: quota.Header}, false},
		{quota.Part{Kind: quota.Text, Text: mustText(t, `request.path`)}, false},
		{quota.Part{Kind: quota.Text, Text: mustText(t, `string(principal.claims.tenant)`)}, true},
		{quota.Part{Kind: quota.Text, Text: mustText(t, `signals.device.id`)}, true},
		{quota.Part{Kind: quota.Text, Text: mustText(t, `signals.geo.country`)}, false},
		{quota.Part{Kind: quota.Text, Text: mustText(t, `signals.tls.sni`)}, false},
	} {
		if got := (quota.Key{{}, c.part}).Authenticates(); got != c.want {
			t.Errorf("%+v: %v", c.part, got)
		}
	}
}
