package route_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/route"
)

type entry = route.Entry[string]

// claim reads "shop/orders GET,POST api.example,*.example /v1/{id},/v2": name,
// methods, hosts and paths, "-" for none. The value is the name. Conditions may
// follow: "X-A=1" on a header, "?a=1" on a parameter, "X-A=1*" on how it begins,
// "X-A" on whether it is there, and "!X-A" on whether it is not.
func claim(s string) entry {
	f := strings.Fields(s)
	list := func(s string) []string {
		if s == "-" {
			return nil
		}
		return strings.Split(s, ",")
	}
	namespace, name, _ := strings.Cut(f[0], "/")
	e := entry{Namespace: namespace, Name: name, Methods: list(f[1]), Hosts: list(f[2]), Paths: list(f[3]), Value: f[0]}
	for _, text := range f[4:] {
		e.Conditions = append(e.Conditions, condition(text))
	}
	copy(e.Digest[:], f[0])
	return e
}

func condition(text string) (c request.Condition) {
	text, absent := strings.CutPrefix(text, "!")
	text, query := strings.CutPrefix(text, "?")
	if query {
		c.Place = request.InQuery
	}
	var valued, prefix bool
	c.Name, c.Value, valued = strings.Cut(text, "=")
	c.Value, prefix = strings.CutSuffix(c.Value, "*")
	switch {
	case absent:
		c.Kind = request.Absent
	case prefix:
		c.Kind = request.Prefix
	case valued:
		c.Kind = request.Exact
	default:
		c.Kind = request.Present
	}
	return c
}

// ask is a canonical request; target may have a query, and fields are "Name: value".
func ask(method, host, target string, fields ...string) *request.Canonical {
	c := &request.Canonical{Method: method, Host: host, Target: target, Header: map[string][]string{}}
	c.Path, c.RawQuery, _ = strings.Cut(target, "?")
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		c.Header[name] = append(c.Header[name], value)
	}
	return c
}

func claims(lines ...string) []entry {
	entries := make([]entry, len(lines))
	for i, line := range lines {
		entries[i] = claim(line)
	}
	return entries
}

func mustTable(t testing.TB, lines ...string) *route.Table[string] {
	t.Helper()
	table, err := route.NewTable(claims(lines...))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestMatch(t *testing.T) {
	table := mustTable(t,
		"shop/site     -        shop.example          -",
		"shop/read     GET,HEAD shop.example          /v1/orders/{id},/v1/orders",
		"shop/write    POST     shop.example          /v1/orders",
		"shop/cancel   POST     shop.example          /v1/orders/{id}/cancel",
		"shop/today    GET      shop.example          /v1/orders/today",
		"shop/tree     GET      shop.example          /v1/orders/today/**",
		"shop/old      DELETE   shop.example          /v1/**",
		"team/tenants  GET      *.shop.example        /v1/**",
		"team/slash    GET      *.shop.example        /dir/",
		"team/admin    GET      admin.shop.example    /v1/admin",
		"team/address  GET      10.0.0.1,[::1]        /",
		"ops/health    GET      *                     /healthz",
	)
	for _, c := range []struct{ method, host, path, want string }{
		{"GET", "shop.example", "/v1/orders", "shop/read"},
		{"HEAD", "shop.example", "/v1/orders", "shop/read"},
		{"POST", "shop.example", "/v1/orders", "shop/write"},
		{"DELETE", "shop.example", "/v1/orders", "shop/old"},
		{"PUT", "shop.example", "/v1/orders", "shop/site"}, // a claim that does not fit hides none that does
		{"GET", "shop.example", "/v1/orders/7", "shop/read"},
		{"GET", "shop.example", "/v1/orders/today", "shop/today"},
		{"HEAD", "shop.example", "/v1/orders/today", "shop/read"},
		{"GET", "shop.example", "/v1/orders/today/x", "shop/tree"},
		{"POST", "shop.example", "/v1/orders/today/cancel", "shop/cancel"}, // back from today/** to {id}
		{"GET", "shop.example", "/v1/orders/", "shop/site"},
		{"GET", "shop.example", "/", "shop/site"},
		{"GET", "shop.example", "/healthz", "shop/site"},

		{"GET", "a.shop.example", "/v1/x", "team/tenants"},
		{"GET", "a.shop.example", "/v1", "team/tenants"},
		{"GET", "a.shop.example", "/v1/", "team/tenants"},
		{"GET", "a.shop.example", "/dir/", "team/slash"},
		{"GET", "a.shop.example", "/dir", ""},
		{"GET", "a.shop.example", "/healthz", "ops/health"},
		{"GET", "admin.shop.example", "/v1/admin", "team/admin"},
		{"GET", "admin.shop.example", "/v1/other", "team/tenants"},
		{"GET", "a.b.shop.example", "/v1/x", ""}, // one label
		{"GET", ".shop.example", "/v1/x", ""},
		{"GET", "xshop.example", "/v1/x", ""},
		{"GET", "10.0.0.1", "/", "team/address"},
		{"GET", "[::1]", "/", "team/address"},
		{"GET", "other.example", "/healthz", "ops/health"},
		{"GET", "other.example", "/", ""},

		{"POST", "a.shop.example", "/v1/x", "405 GET"},
		{"DELETE", "other.example", "/healthz", "405 GET"},
		{"POST", "[::1]", "/", "405 GET"},

		// What is not canonical is not found.
		{"get", "shop.example", "/", ""},
		{"", "shop.example", "/", ""},
		{"CONNECT", "shop.example", "/", ""},
		{"GET", "Shop.example", "/", ""},
		{"GET", "", "/healthz", ""},
		{"GET", "*", "/", ""},
		{"GET", "shop.example", "", ""},
		{"GET", "shop.example", "x", ""},
		{"GET", "shop.example", "//", ""},
		{"GET", "shop.example", "/a/../b", ""},
	} {
		if got := lookUp(table, c.method, c.host, c.path); got != c.want {
			t.Errorf("%s %s%s: %q, want %q", c.method, c.host, c.path, got, c.want)
		}
	}
}

// lookUp returns the route, or "405" and the methods, or nothing.
func lookUp(table *route.Table[string], method, host, path string, fields ...string) string {
	return found(table, ask(method, host, path, fields...))
}

func found(table *route.Table[string], c *request.Canonical) string {
	value, result := table.Match(c)
	if unclear := result.Unclear(); unclear != "" {
		return strings.TrimSpace(value + "400 " + unclear)
	}
	if allow := result.Allow(); len(allow) > 0 {
		return strings.TrimSpace(value + "405 " + strings.Join(allow, ","))
	}
	if result.Found() != (value != "") {
		return "found without a route"
	}
	return value
}

func TestAllowListsWhatWouldHaveFitted(t *testing.T) {
	table := mustTable(t,
		"a/a PUT,GET a.example   /x",
		"a/b DELETE  a.example   /{y}",
		"a/c PATCH   *.example   /**",
		"a/d POST    *           /x",
		"a/e OPTIONS *           /y",
		"a/f POST    b.c.example -",
	)
	if got := lookUp(table, "HEAD", "a.example", "/x"); got != "405 DELETE,GET,PATCH,POST,PUT" {
		t.Error(got)
	}
	if got := lookUp(table, "HEAD", "other", "/y"); got != "405 OPTIONS" {
		t.Error(got)
	}
}

func TestZeroTable(t *testing.T) {
	var table route.Table[string]
	if got := lookUp(&table, "GET", "a", "/"); got != "" {
		t.Errorf("the zero table has a route %q", got)
	}
	for e := range table.All() {
		t.Errorf("the zero table yields %v", e)
	}
}

func TestNewTableRefuses(t *testing.T) {
	for _, c := range []struct {
		refused []string
		field   string
		sibling []string
	}{
		{[]string{"a/a GET - /"}, "hosts", []string{"a/a GET * /"}},
		{[]string{"a/a GET A.example /"}, "hosts", []string{"a/a GET a.example /"}},
		{[]string{"a/a GET a.example:443 /"}, "hosts", []string{"a/a GET a.example /"}},
		{[]string{"a/a GET a.example. /"}, "hosts", []string{"a/a GET a.example /"}},
		{[]string{"a/a GET ** /"}, "hosts", []string{"a/a GET * /"}},
		{[]string{"a/a GET *.*.example /"}, "hosts", []string{"a/a GET *.b.example /"}},
		{[]string{"a/a GET a.*.example /"}, "hosts", []string{"a/a GET *.example /"}},
		{[]string{"a/a GET *a.example /"}, "hosts", []string{"a/a GET *.a.example /"}},
		{[]string{"a/a GET *. /"}, "hosts", []string{"a/a GET *.a /"}},
		{[]string{"a/a GET *.0.0.1 /"}, "hosts", []string{"a/a GET 10.0.0.1 /"}},
		{[]string{"a/a GET *.[::1] /"}, "hosts", []string{"a/a GET [::1] /"}},
		{[]string{"a/a get a /"}, "methods", []string{"a/a GET a /"}},
		{[]string{"a/a TRACE a /"}, "methods", []string{"a/a GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS a /"}},
		{[]string{"a/a CONNECT a /"}, "methods", []string{"a/a - a /"}},
		{[]string{"a/a GET a x"}, "paths", []string{"a/a GET a /x"}},
		{[]string{"a/a GET a /**/x"}, "paths", []string{"a/a GET a /**"}},
		{[]string{"a/a GET a /%2e"}, "paths", []string{"a/a GET a /.x"}},
		{[]string{"a/a GET,GET a /"}, "", []string{"a/a GET a /"}},
		{[]string{"a/a GET a,a /"}, "", []string{"a/a GET a,b /"}},
		{[]string{"a/a GET a /{x},/{y}"}, "", []string{"a/a GET a /{x},/{x}/"}},
		{[]string{"a/a GET a /x", "a/a GET a /y"}, "", []string{"a/a GET a /x", "b/a GET a /y"}},
	} {
		_, err := route.NewTable(claims(c.refused...))
		var problems route.Problems
		if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Field != c.field || problems[0].Other != "" ||
			problems[0].Namespace != "a" || problems[0].Name != "a" {
			t.Errorf("%q: %v", c.refused, err)
		}
		mustTable(t, c.sibling...)
	}
}

func TestConflictNamesBoth(t *testing.T) {
	for _, c := range []struct {
		first, second string
		conflict      bool
	}{
		{"GET a /x", "GET a /x", true},
		{"GET a /x", "HEAD a /x", false},
		{"GET,PUT a /x", "PUT,POST a /x", true},
		{"GET a /x", "- a /x", false}, // a named method before every method
		{"- a /x", "- a /x", true},
		{"- a -", "- a /**", true},
		{"GET a /{x}", "GET a /*", true},
		{"GET a /{x}", "GET a /x", false},
		{"GET a /x", "GET a /x/", false},
		{"GET a /x", "GET b /x", false},
		{"GET a,b /x", "GET b,c /x", true},
		{"GET *.a /x", "GET b.a /x", false},
		{"GET *.a /x", "GET *.a /x", true},
		{"GET * /x", "GET * /x", true},
		{"GET * /x", "GET *.a /x", false},
		{"GET a /w,/x,/y", "GET a /x,/y,/z", true}, // reported once
	} {
		_, err := route.NewTable(claims("shop/one "+c.first, "team/two "+c.second))
		var problems route.Problems
		if errors.As(err, &problems); c.conflict != (len(problems) == 1) {
			t.Errorf("%s and %s: %v", c.first, c.second, err)
			continue
		}
		if c.conflict && (problems[0].Namespace+"/"+problems[0].Name != "team/two" || problems[0].Other != "shop/one") {
			t.Errorf("%s and %s: names %+v", c.first, c.second, problems[0])
		}
	}
}

func TestAllProblemsAreReported(t *testing.T) {
	_, err := route.NewTable(claims(
		"a/a get,TRACE A -",
		"a/b GET a x,y",
		"a/c GET a /",
		"a/d GET a /",
	))
	var problems route.Problems
	if !errors.As(err, &problems) || len(problems) != 6 || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("%d problems: %v", len(problems), err)
	}
}

func TestOneEntryClaimsABoundedNumber(t *testing.T) {
	hosts := func(n int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("h%d.example", i)
		}
		return list
	}
	e := entry{Namespace: "a", Name: "a", Hosts: hosts(route.MaxClaims / 2), Paths: []string{"/a", "/b"}}
	if _, err := route.NewTable([]entry{e}); err != nil {
		t.Error(err)
	}
	e.Hosts = hosts(route.MaxClaims/2 + 1)
	if _, err := route.NewTable([]entry{e}); err == nil {
		t.Error("accepted")
	}
}

// TestEveryServedMethodHasARoute: the methods of a table are those that package
// request lets through.
func TestEveryServedMethodHasARoute(t *testing.T) {
	table := mustTable(t, "a/a - a /")
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "", "every method"} {
		_, err := request.Canonicalise(request.Raw{Method: method, Target: "/", Host: "a", ProtoMajor: 2})
		if _, result := table.Match(ask(method, "a", "/")); result.Found() != (err == nil) {
			t.Errorf("%q: found %v, as a request %v", method, result.Found(), err)
		}
	}
}

func TestAllYieldsWhatIsInForce(t *testing.T) {
	names := func(table *route.Table[string]) []string {
		var list []string
		for e := range table.All() {
			if string(e.Digest[:3]) != e.Namespace+"/"+e.Name {
				t.Errorf("digest %q of %s/%s", e.Digest, e.Namespace, e.Name)
			}
			list = append(list, e.Value)
		}
		return list
	}
	lines := []string{
		"a/a - *,*.b,c /x,/y/{z}/w,/q/**",
		"a/b GET,PUT c /x/y",
		"a/c - d -",
		"a/d - *.b /x/{y}/lost/z",
		"a/e - d /kept,/lost",
	}
	table := mustTable(t, lines...)
	if got := names(table); !slices.Equal(got, []string{"a/a", "a/b", "a/c", "a/d", "a/e"}) {
		t.Errorf("all are %q", got)
	}
	for range table.All() {
		break
	}
	table.Lose("lost") // one claim of a/e of two
	if got := names(table); !slices.Equal(got, []string{"a/a", "a/b", "a/c"}) {
		t.Errorf("after a loss, all are %q", got)
	}
}

// naive is the meaning of a table in its plainest form: every claim of every
// entry, sorted by what Match promises, tried in order.
type naive []naiveClaim

type naiveClaim struct {
	host, method, value string
	path                pattern.Path
	conditions          []request.Condition
}

func newNaive(t testing.TB, entries []entry) naive {
	t.Helper()
	var n naive
	orDefault := func(list []string, otherwise string) []string {
		if len(list) == 0 {
			return []string{otherwise}
		}
		return list
	}
	for _, e := range entries {
		for _, host := range e.Hosts {
			for _, template := range orDefault(e.Paths, "/**") {
				path, err := pattern.ParsePath(template)
				if err != nil {
					t.Fatal(err)
				}
				for _, method := range orDefault(e.Methods, "") {
					n = append(n, naiveClaim{host, method, e.Value, path, request.SortedConditions(e.Conditions)})
				}
			}
		}
	}
	rank := func(host string) int {
		return strings.Count(host, "*") * (2 - min(1, strings.Count(host, ".")))
	}
	slices.SortFunc(n, func(a, b naiveClaim) int {
		return cmp.Or(
			cmp.Compare(rank(a.host), rank(b.host)),
			a.path.Compare(b.path),
			-cmp.Compare(min(1, len(a.method)), min(1, len(b.method))),
			-cmp.Compare(len(a.conditions), len(b.conditions)),
			cmp.Compare(kinds(a.conditions), kinds(b.conditions)),
			slices.CompareFunc(a.conditions, b.conditions, func(a, b request.Condition) int { return -cmp.Compare(len(a.Value), len(b.Value)) }),
		)
	})
	return n
}

// kinds is what conditions are about, so that texts compare as they do.
func kinds(conditions []request.Condition) string {
	var b strings.Builder
	for _, c := range conditions {
		fmt.Fprintf(&b, "%d %s %d,", c.Place, c.Name, c.Kind)
	}
	return b.String()
}

// holds reports whether conditions hold, and whether that can be told.
func holds(conditions []request.Condition, c *request.Canonical) (ok, sure bool) {
	params, err := url.ParseQuery(c.RawQuery)
	for i := range conditions {
		want := &conditions[i]
		values := c.Header[want.Name]
		if want.Place == request.InQuery {
			if values = params[want.Name]; err != nil {
				values = []string{"", ""}
			}
		}
		switch want.Kind {
		case request.Present, request.Absent:
			ok = (len(values) > 0) == (want.Kind == request.Present)
		case request.Exact, request.Prefix:
			if len(values) > 1 {
				return false, false
			}
			ok = len(values) == 1 && (want.Kind == request.Exact && values[0] == want.Value || want.Kind == request.Prefix && strings.HasPrefix(values[0], want.Value))
		}
		if !ok {
			return false, true
		}
	}
	return true, true
}

// lookUp is lookUp in a table without telling what is unclear. It is not asked of
// requests in which anything is.
func (n naive) lookUp(c *request.Canonical) (want string, all []string, sure bool) {
	_, parent, _ := strings.Cut(c.Host, ".")
	var allow []string
	for _, e := range n {
		if e.host != c.Host && e.host != "*."+parent && e.host != "*" || !e.path.Match(c.Path) {
			continue
		}
		ok, sure := holds(e.conditions, c)
		switch {
		case !sure:
			return "", nil, false
		case !ok:
		case e.method == c.Method || e.method == "":
			all = append(all, e.value)
		default:
			allow = append(allow, e.method)
		}
	}
	slices.Sort(allow)
	switch {
	case len(all) > 0:
		return all[0], all, true
	case len(allow) > 0:
		return "405 " + strings.Join(slices.Compact(allow), ","), nil, true
	}
	return "", nil, true
}

// pick makes a table of few words, so that claims meet often. Conflicting
// entries are left out.
func pick(r *rand.Rand, n int) []entry {
	hosts := []string{"a.x", "b.x", "x", "*.x", "*"}
	methods := []string{"GET", "PUT", "POST"}
	segments := []string{"a", "b", "", "{n}", "**"}
	conditions := []string{"X-A=1", "X-A=12", "X-A=*", "X-A=1*", "X-A", "!X-A", "X-B=", "X-B=1*", "!X-B", "?a=1", "?a=1*", "?a", "!?a", "?b=1", "?B=1"}
	some := func(list []string) []string {
		list = slices.Clone(list)
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list[:1+r.IntN(2)]
	}
	var entries []entry
	for i := range n {
		e := entry{Namespace: "n", Name: fmt.Sprint(i), Value: fmt.Sprint("n/", i), Hosts: some(hosts)}
		if r.IntN(3) > 0 {
			e.Methods = some(methods)
		}
		if r.IntN(2) > 0 {
			for _, text := range some(conditions) {
				e.Conditions = append(e.Conditions, condition(text))
			}
		}
		for range r.IntN(3) {
			path := ""
			for range 1 + r.IntN(4) {
				path += "/" + segments[r.IntN(len(segments))]
			}
			path = strings.Replace(path, "{n}", "{m}", 1)
			path = strings.Replace(path, "{n}", "{o}", 1)
			if _, err := pattern.ParsePath(path); err == nil {
				e.Paths = append(e.Paths, path)
			}
		}
		if _, err := route.NewTable(append(slices.Clone(entries), e)); err == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

func FuzzMatchAgainstNaive(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, uint8(3+seed), "GET", "a.x", "/a/b")
	}
	f.Fuzz(func(t *testing.T, seed uint64, size uint8, method, host, path string) {
		r := rand.New(rand.NewPCG(seed, 0))
		entries := pick(r, int(size%40))
		table, err := route.NewTable(entries)
		if err != nil {
			t.Fatal(err)
		}
		plain := newNaive(t, entries)
		check := func(method, host, path string) {
			c := ask(method, host, path)
			c.RawQuery = []string{"", "a=1", "%61=%31&b=2", "b=1+2&a=", "a=12&c"}[r.IntN(5)]
			c.Header = [...]map[string][]string{{}, {"X-A": {"1"}}, {"X-A": {"12"}, "X-B": {""}}, {"X-B": {"1"}}}[r.IntN(4)]
			want, all, sure := plain.lookUp(c)
			if got := found(table, c); sure && got != want {
				t.Errorf("%+v: %q, want %q among %+v", c, got, want, entries)
			}
			if got := slices.Collect(table.Candidates(c)); sure && !slices.Equal(got, all) {
				t.Errorf("%+v: %q are candidates, want %q among %+v", c, got, all, entries)
			}
		}
		if request.IsHost(host) && slices.Contains([]string{"GET", "PUT", "POST", "HEAD"}, method) {
			check(method, host, path)
		}
		for _, method := range []string{"GET", "PUT", "HEAD"} {
			for _, host := range []string{"a.x", "b.x", "c.x", "x", "y", "a.b.x"} {
				for range 8 {
					path := ""
					for range 1 + r.IntN(4) {
						path += "/" + []string{"a", "b", "c", ""}[r.IntN(4)]
					}
					check(method, host, path)
				}
			}
		}
		n := 0
		for range table.All() {
			n++
		}
		if n != len(entries) {
			t.Errorf("%d of %d entries are in force", n, len(entries))
		}
	})
}

// fleet makes n routes of the shapes that real tables have, and one request to
// each.
func fleet(shape string, n int) (entries []entry, hosts, paths []string) {
	for i := range n {
		host, path := "api.example", fmt.Sprintf("/v1/team%d/orders%d", i%1000, i)
		switch shape {
		case "hosts":
			host, path = fmt.Sprintf("api%d.example", i), "/v1/orders"
		case "both":
			host, path = fmt.Sprintf("api%d.example", i%1000), fmt.Sprintf("/v1/orders%d", i/1000)
		case "header", "query":
			path = "/v1/orders"
		}
		e := entry{
			Namespace: "n", Name: fmt.Sprint(i), Hosts: []string{host},
			Paths: []string{path + "/{id}", path + "/{id}/items/**"}, Methods: []string{"GET", "POST"}, Value: path,
		}
		switch shape { // which all have the same host and paths
		case "header":
			e.Conditions = []request.Condition{condition(fmt.Sprint("X-Tenant=t", i))}
		case "query":
			e.Conditions = []request.Condition{condition(fmt.Sprint("?tenant=t", i))}
		}
		entries = append(entries, e)
		hosts, paths = append(hosts, host), append(paths, path+"/0190f7c2/items/3")
	}
	return entries, hosts, paths
}

// requests makes one request to each route of a fleet.
func requests(hosts, paths []string, conditions string) []*request.Canonical {
	asked := make([]*request.Canonical, len(hosts))
	for i := range hosts {
		target := paths[i]
		var fields []string
		switch conditions {
		case "header":
			fields = []string{fmt.Sprint("X-Tenant: t", i), "Accept: */*", "User-Agent: x"}
		case "query":
			target += fmt.Sprint("?page=7&tenant=t", i, "&sort=name")
		}
		asked[i] = ask("GET", hosts[i], target, fields...)
	}
	return asked
}

// touch reads a request, as whoever has just parsed it has.
func touch(c *request.Canonical) (sum int) {
	for _, text := range []string{c.Method, c.Host, c.Path, c.RawQuery} {
		for i := range len(text) {
			sum += int(text[i])
		}
	}
	for name, values := range c.Header {
		sum += len(name) + len(values[0])
	}
	return sum
}

// The requests of a batch are in the processor's caches, as they are when they come;
// what is measured is what the table costs, of which nearly nothing is.
func BenchmarkMatch(b *testing.B) {
	const batch = 32
	var slowest float64
	for _, shape := range []string{"paths", "hosts", "both", "header", "query"} {
		for _, n := range []int{100, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", shape, n), func(b *testing.B) {
				entries, hosts, paths := fleet(shape, n)
				table, err := route.NewTable(entries)
				if err != nil {
					b.Fatal(err)
				}
				asked := requests(hosts, paths, shape)
				b.ReportAllocs()
				var spent time.Duration
				next, now, sum := 0, make([]*request.Canonical, batch), 0
				for b.Loop() {
					for i := range now {
						next = (next + 7919) % n
						now[i] = asked[next]
						sum += touch(now[i])
					}
					begin := time.Now()
					for _, c := range now {
						if _, result := table.Match(c); !result.Found() {
							b.Fatal("no route")
						}
					}
					spent += time.Since(begin)
				}
				each := float64(spent) / float64(b.N*batch)
				b.ReportMetric(each, "ns/op")
				if n == 100_000 && sum > 0 {
					fmt.Printf("figure route_match_100k_%s %.0f ns\n", shape, each)
					slowest = max(slowest, each)
				}
			})
		}
	}
	fmt.Printf("figure route_match_100k %.0f ns\n", slowest)
}

func BenchmarkNewTable(b *testing.B) {
	for _, shape := range []string{"paths", "hosts", "both", "header"} {
		entries, _, _ := fleet(shape, 100_000)
		b.Run(shape, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := route.NewTable(entries); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAll(b *testing.B) {
	entries, _, _ := fleet("both", 100_000)
	table, err := route.NewTable(entries)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		for range table.All() {
			n++
		}
		if n != len(entries) {
			b.Fatal(n)
		}
	}
}
