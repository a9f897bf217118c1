package compile_test

import (
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// large is a fleet of 100,000 routes and 10,000 policies, each of which
// selects ten routes by their label, in so many namespaces.
type large struct{ namespaces int }

const (
	largeRoutes   = 100_000
	largePolicies = 10_000
)

// key names the resource of a group, which belongs to one namespace.
func (l large) key(kind resource.Kind, name, group int) resource.Key {
	return resource.Key{Kind: kind, Namespace: fmt.Sprint("team-", group%l.namespaces), Name: fmt.Sprint("x-", name)}
}

func encode(b *testing.B, key resource.Key, labels map[string]string, spec proto.Message) []byte {
	b.Helper()
	document, err := resource.Encode(resource.Parsed{Key: key, Labels: labels, Spec: spec})
	if err != nil {
		b.Fatal(err)
	}
	return document
}

func (l large) route(b *testing.B, i int) []byte {
	b.Helper()
	group := i / 10
	return encode(b, l.key(resource.KindRoute, i, group), map[string]string{"app": fmt.Sprint("app-", group), "tier": "gold"}, &resourcev1.Route{
		Hosts: []string{fmt.Sprintf("h%d.example", i%1000)}, Paths: []string{fmt.Sprintf("/v1/%d/{id}", i)}, Methods: []string{"GET", "PUT"},
		Upstream: fmt.Sprint("x-", group%l.namespaces), Authentication: &resourcev1.Authentication{ClientCertificates: true},
	})
}

func (l large) policy(b *testing.B, i int, group string, all bool) []byte {
	b.Helper()
	routes := &resourcev1.RouteSelector{Labels: map[string]string{"app": fmt.Sprint("app-", i), "tier": "gold"}}
	if all {
		routes = &resourcev1.RouteSelector{All: true}
	}
	return encode(b, l.key(resource.KindPolicy, i, i), nil, &resourcev1.Policy{
		Routes: routes, Effect: resourcev1.Effect_EFFECT_ALLOW, Methods: []string{"GET"},
		Principals: []*resourcev1.PrincipalMatcher{{Match: &resourcev1.PrincipalMatcher_Group{Group: group}}},
		When:       l.when(i),
	})
}

// when is the condition of a policy. One in ten refers to the Set of its
// namespace, and another one to its Condition.
func (l large) when(i int) string {
	const alone = `request.path.startsWith("/v1/") && signals.tls.version == "1.3"`
	switch i / l.namespaces % 10 {
	case 3:
		return alone + ` && signals.ip.inSet("x-0")`
	case 6:
		return alone + ` && condition("x-0")`
	}
	return alone
}

// set is the Set of a namespace, with so many networks.
func (l large) set(b *testing.B, namespace, members, change int) []byte {
	b.Helper()
	networks := []string{fmt.Sprintf("192.0.2.%d", change%256)}
	for i := range members - 1 {
		networks = append(networks, fmt.Sprintf("10.%d.%d.%d/30", i>>14, i>>6&255, i<<2&255))
	}
	return encode(b, l.key(resource.KindSet, 0, namespace), nil, &resourcev1.Set{Cidrs: networks})
}

func (l large) condition(b *testing.B, namespace, change int) []byte {
	b.Helper()
	return encode(b, l.key(resource.KindCondition, 0, namespace), nil, &resourcev1.Condition{When: fmt.Sprintf("signals.time.getHours() != %d", change%24)})
}

func (l large) documents(b *testing.B) [][]byte {
	b.Helper()
	var all [][]byte
	for i := range l.namespaces {
		all = append(all, encode(b, l.key(resource.KindUpstream, i, i), nil, &resourcev1.Upstream{
			Endpoints: []string{"a:1"}, Transport: &resourcev1.Upstream_Tls{Tls: &resourcev1.TLSTransport{}},
		}))
	}
	for i := range l.namespaces {
		all = append(all, l.set(b, i, 1000, 0), l.condition(b, i, 0))
	}
	for i := range largeRoutes {
		all = append(all, l.route(b, i))
	}
	for i := range largePolicies {
		all = append(all, l.policy(b, i, "shop", false))
	}
	return all
}

func entry(b *testing.B, document []byte) snapshot.Entry {
	b.Helper()
	e, err := snapshot.NewEntry(document)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// BenchmarkChange compiles a change of one document among 100,000 routes and
// 10,000 policies, up to the root that is acknowledged.
func BenchmarkChange(b *testing.B) {
	for _, l := range []large{{100}, {1}} {
		base := snap(b, 1, l.documents(b))
		table := compile.Compile(nil, base)
		if len(table.Rejects()) > 0 {
			b.Fatal(table.Rejects()[0])
		}
		for _, c := range []struct {
			name    string
			changed func(i int) []byte
		}{
			{"policy", func(i int) []byte { return l.policy(b, 7, fmt.Sprint("g", i), false) }},
			{"policy for all of its namespace", func(i int) []byte { return l.policy(b, 7, fmt.Sprint("g", i), true) }},
			{"set", func(i int) []byte { return l.set(b, 0, 1000, i+1) }},
			{"set of 100,000", func(i int) []byte { return l.set(b, 0, 100_000, i+1) }},
			{"condition", func(i int) []byte { return l.condition(b, 0, i+1) }},
			{"route", func(i int) []byte {
				return encode(b, l.key(resource.KindRoute, 7, 0), nil, &resourcev1.Route{Hosts: []string{fmt.Sprintf("n%d.example", i)}, Upstream: "x-0", Authentication: &resourcev1.Authentication{Anonymous: true}})
			}},
			{"upstream", func(i int) []byte {
				return encode(b, l.key(resource.KindUpstream, 0, 0), nil, &resourcev1.Upstream{Endpoints: []string{fmt.Sprintf("a:%d", i%60000+1)}, Transport: &resourcev1.Upstream_Tls{Tls: &resourcev1.TLSTransport{}}})
			}},
		} {
			b.Run(fmt.Sprintf("%d namespaces/%s", l.namespaces, c.name), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					s := assemble(b, 2, base.Set().With([]snapshot.Entry{entry(b, c.changed(i))}, nil))
					b.StartTimer()
					next := compile.Compile(table, s)
					if next.EnforcedRoot() != s.Head().Root && len(next.Rejects()) == 0 {
						b.Fatal("drift")
					}
				}
			})
		}
		b.Run(fmt.Sprintf("%d namespaces/root", l.namespaces), func(b *testing.B) {
			for b.Loop() {
				table.EnforcedRoot()
			}
		})
	}
}

// BenchmarkStart compiles the same from nothing.
func BenchmarkStart(b *testing.B) {
	s := snap(b, 1, large{100}.documents(b))
	for b.Loop() {
		compile.Compile(nil, s)
	}
}

// BenchmarkLargeSet compiles a Set of 100,000 networks, or IDs, as a proxy does with
// the first of them and with each change, and says what it holds of one.
func BenchmarkLargeSet(b *testing.B) {
	const members = 100_000
	ids := make([]string, members)
	for i := range ids {
		ids[i] = fmt.Sprintf("6f9619ff-8b86-d011-b42d-00c04f%06d", i)
	}
	of := large{1}
	for name, document := range map[string][]byte{
		"cidrs": of.set(b, 0, members, 0),
		"ids":   encode(b, of.key(resource.KindSet, 0, 0), nil, &resourcev1.Set{Ids: ids}),
	} {
		b.Run(name, func(b *testing.B) {
			s := snap(b, 1, [][]byte{document})
			before := heap()
			table := compile.Compile(nil, s)
			fmt.Printf("figure set_100k_%s_table %d bytes\n", name, heap()-before)
			for b.Loop() {
				table = compile.Compile(nil, s)
			}
			if len(table.Rejects()) > 0 {
				b.Fatal(table.Rejects()[0])
			}
			fmt.Printf("figure set_100k_%s_compile %.1f ms\n", name, float64(b.Elapsed().Microseconds())/1000/float64(b.N))
		})
	}
}

// heap is what is in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
