package admission_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/storage"
)

// conflict applies two resources, in either order, and returns the reason for
// which they do not go together; empty if they do.
func conflict(t *testing.T, before, a, b string) string {
	t.Helper()
	reasons := map[string]bool{}
	reason := ""
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		f := newFleet(t, before+"\n"+pair[0])
		_, problems := f.apply(t, pair[1])
		for _, p := range problems.Kept {
			reason = p.Reason
		}
		reasons[texts(problems)[:min(1, len(texts(problems)))]] = true
	}
	if len(reasons) != 1 {
		t.Errorf("the order matters of\n%s\n%s", a, b)
	}
	return reason
}

func TestAddressesThatOneMachineCannotBindTogether(t *testing.T) {
	const together, apart = "address_conflict", ""
	for _, c := range []struct{ a, b, want string }{
		{":443", ":443", together},
		{":443", ":8443", apart},
		{":443", "127.0.0.1:443", together},
		{":443", "[::1]:443", together},
		{"[::]:443", "127.0.0.1:443", together}, // takes IPv4 as well
		{"0.0.0.0:443", "127.0.0.1:443", together},
		{"0.0.0.0:443", "[::]:443", together},
		{"0.0.0.0:443", "[::1]:443", apart},
		{"localhost:443", "127.0.0.1:443", together},
		{"127.0.0.1:443", "127.0.0.2:443", apart},
		{"127.0.0.1:0", "127.0.0.1:0", apart}, // any free port
	} {
		listener := func(name, address string) string {
			return fmt.Sprintf(`Listener edge/%s {address: "%s", tls: {workloadIdentity: true}}`, name, address)
		}
		if got := conflict(t, "", listener("a", c.a), listener("b", c.b)); got != c.want {
			t.Errorf("%s and %s: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestProxiesThatTwoEnrollmentsTake(t *testing.T) {
	const shared, apart = "enrollment_conflict", ""
	for _, c := range []struct{ a, b, want string }{
		{"proxy/a", "proxy/a", shared},
		{"proxy/a", "proxy/b", apart},
		{"proxy/a", "proxy/A", apart},
		{"proxy/*", "proxy/a", shared},
		{"proxy/*", "*/a", shared},
		{"proxy/*/x", "proxy/a/*", shared},
		{"proxy/*/x", "proxy/a/y", apart},
		{"proxy/*", "proxy/a/b", apart},
		{"proxy/**", "proxy", shared},
		{"proxy/**", "proxy/a/b", shared},
		{"proxy/a/**", "proxy/b/**", apart},
		{"**", "proxy/a", shared},
	} {
		enrollment := func(name, pattern, environment string) string {
			return fmt.Sprintf(`Enrollment %s {spiffeId: "spiffe://prod.example/%s", environment: %s}`, name, pattern, environment)
		}
		environments := "Environment aws {}\nEnvironment gcp {}"
		for _, other := range []string{"aws", "gcp"} { // of the same environment, too
			if got := conflict(t, environments, enrollment("a", c.a, "aws"), enrollment("b", c.b, other)); got != c.want {
				t.Errorf("%s and %s: %q, want %q", c.a, c.b, got, c.want)
			}
		}
	}
}

func TestPathsThatAPolicyCanMeet(t *testing.T) {
	const meets, never = "", "never_fires"
	for _, c := range []struct{ route, policy, want string }{
		{"/a", "/a", meets},
		{"/a", "/b", never},
		{"/a", "/a/", never},
		{"/a/**", "/a", meets},
		{"/a/**", "/a/", meets},
		{"/a/**", "/a/{id}/b", meets},
		{"/a/**", "/b/**", never},
		{"/a/{id}", "/a/7", meets},
		{"/a/{id}", "/a/", never}, // a name stands for some text
		{"/a/", "/a/*", never},
		{"/a/{id}", "/*/7", meets},
		{"/a/{id}", "/a/*/b", never},
		{"/**", "/a", meets},
	} {
		f := newFleet(t, fmt.Sprintf(`
			Upstream shop/u {endpoints: ["u:1"], tls: {}}
			Route shop/r {hosts: [a.example], paths: ["%s"], upstream: u, authentication: {anonymous: true}}`, c.route))
		_, problems := f.apply(t, fmt.Sprintf(`Policy shop/p {routes: {all: true}, effect: DENY, paths: ["%s"]}`, c.policy))
		if got := strings.Contains(texts(problems), never); got != (c.want == never) {
			t.Errorf("route %s, policy %s: %s", c.route, c.policy, texts(problems))
		}
	}
}

func TestEnvironmentsHoldWhatProxiesTake(t *testing.T) {
	const upstreams = `
		Upstream shop/a {endpoints: ["a:1"], tls: {}}
		Upstream shop/b {environments: [aws], endpoints: ["a:1"], tls: {}}
		Upstream shop/c {environments: [gcp], endpoints: ["a:1"], tls: {}}`
	const two = `Route shop/r {hosts: [a.example, b.example], paths: ["/a", "/b"], upstream: a, authentication: {anonymous: true}}`
	const environments = "Environment aws {}\nEnvironment gcp {}"
	for name, c := range map[string]struct {
		documents, bytes, places int
		apply, want              string
	}{
		"as many as there may be": {4, 1 << 10, 4, upstreams + "\n" + two, ""},
		"one more": {3, 1 << 10, 4, upstreams + "\n" + two, `
			-1 Environment/aws : too_many: would hold 4 resources: more than 3
			-1 Environment/gcp : too_many: would hold 4 resources: more than 3`},
		"one more in one of them": {3, 1 << 10, 4, upstreams + "\nUpstream shop/d {environments: [aws], endpoints: [\"a:1\"], tls: {}}", `
			-1 Environment/aws : too_many: would hold 4 resources: more than 3`},
		"too large": {4, 50, 4, upstreams, `
			-1 Environment/aws : too_many: would hold 85 bytes of resources: more than 50
			-1 Environment/gcp : too_many: would hold 85 bytes of resources: more than 50`},
		"too many places": {4, 1 << 10, 3, upstreams + "\n" + two, `
			-1  : too_many: would hold 4 combinations of hosts and paths: more than 3
			-1 Environment/aws : too_many: would hold 4 combinations of hosts and paths: more than 3
			-1 Environment/gcp : too_many: would hold 4 combinations of hosts and paths: more than 3`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, environments)
			f.Limit(c.documents, c.bytes, c.places)
			_, problems := f.apply(t, c.apply)
			same(t, texts(problems), c.want)
		})
	}
}

// A limit that a newer release lowered must not keep anyone from getting below.
func TestWhatIsTooMuchMayBecomeLess(t *testing.T) {
	f := newFleet(t, `
		Environment aws {}
		Upstream shop/a {endpoints: ["a:1"], tls: {}}
		Upstream shop/b {endpoints: ["a:1"], tls: {}}
		Upstream shop/c {endpoints: ["a:1"], tls: {}}`)
	f.Limit(2, 1<<10, 1)
	if _, problems := f.apply(t, `Upstream shop/a {endpoints: ["other:1"], tls: {}}`); problems.Total > 0 {
		t.Errorf("replace: %s", texts(problems))
	}
	if _, problems := f.delete(t, "Upstream shop/a"); problems.Total > 0 {
		t.Errorf("delete: %s", texts(problems))
	}
	if _, problems := f.apply(t, `Upstream shop/d {endpoints: ["a:1"], tls: {}}`); problems.Total == 0 {
		t.Error("one more was admitted")
	}
}

// A State is told the same versions more than once when calls overlap.
func TestAdvancingOverWhatIsKnown(t *testing.T) {
	f := newFleet(t, "Environment aws {}")
	plan, problems := f.apply(t, "Environment gcp {}")
	if problems.Total > 0 {
		t.Fatal(texts(problems))
	}
	early, err := admission.ReadVersions(f.stored(), f.Revision())
	if err != nil {
		t.Fatal(err)
	}
	if _, problems := f.delete(t, "Environment gcp"); problems.Total > 0 {
		t.Fatal(texts(problems))
	}
	before, at := f.Dump(), f.Revision()
	f.Advance(early)
	if f.Dump() != before || f.Revision() != at {
		t.Errorf("what was deleted is back, or the revision: %d, want %d", f.Revision(), at)
	}
	if len(plan.Environments) != 1 || plan.Environments[0] != "gcp" {
		t.Errorf("distributed to %v, want gcp", plan.Environments)
	}
}

func TestVersionsOfANewerBuildAreAnError(t *testing.T) {
	_, err := admission.ReadVersions([]storage.Version{{
		Key: resource.Key{Kind: "Schema", Namespace: "shop", Name: "a"}, Revision: 7, Document: []byte("\x0a\x06Schema\x1a\x01a"),
	}}, 7)
	if err == nil || !strings.Contains(err.Error(), "revision 7") {
		t.Errorf("got %v, want an error that names revision 7", err)
	}
}

func TestEnvironmentsThatAPlanTouches(t *testing.T) {
	for name, c := range map[string]struct{ apply, want string }{
		"everywhere":                   {`Upstream shop/orders {endpoints: ["new:1"], tls: {}}`, "[aws gcp]"},
		"one":                          {`Upstream shop/aws-only {environments: [aws], endpoints: ["new:1"], tls: {}}`, "[aws]"},
		"where it was and where it is": {`Upstream shop/aws-only {environments: [gcp], endpoints: ["new:1"], tls: {}}`, "[aws gcp]"},
		"nowhere":                      {`Enrollment more {spiffeId: "spiffe://prod.example/x", environment: aws}`, "[]"},
		"a new one":                    {`Environment eu {}`, "[eu]"},
		"unchanged":                    {`Environment aws {}`, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, problems := newFleet(t, shop).apply(t, c.apply)
			if problems.Total > 0 {
				t.Fatal(texts(problems))
			}
			if got := fmt.Sprint(plan.Environments); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	plan, problems := newFleet(t, shop).delete(t, "Environment gcp")
	if problems.Total > 0 || fmt.Sprint(plan.Environments) != "[gcp]" {
		t.Errorf("deleting an environment touches %v: %s", plan.Environments, texts(problems))
	}
}
