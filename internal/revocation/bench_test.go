package revocation_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

const many = 100_000

// BenchmarkRevoked asks for who is not revoked, which is nearly everybody: among
// 100,000 revocations, and with one of each kind.
func BenchmarkRevoked(b *testing.B) {
	everything := func(p *policy.Principal) { p.SPIFFEID, p.KeyID = web, "k-9" }
	few, lots := compiled(b, everyKind...), revocation.Compile(nil, assemble(b, 1, snapshot.NewSet(large(b, many)...)))
	for _, c := range []struct {
		name string
		set  *revocation.Set
		who  *policy.Principal
	}{
		{"by_nothing", revocation.Compile(nil, snap(b, 1, nil)), alice()},
		{"by_many", lots, alice()},
		{"by_every_kind", few, alice()},
		{"by_every_kind_workload", few, workload(web)},
		{"by_every_kind_all_at_once", few, alice(everything)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, revoked := c.set.Revoked(c.who, noon); revoked {
					b.Fatal("revoked")
				}
			}
			figure(b, "revoked_"+c.name)
		})
	}
}

// BenchmarkChange compiles one more revocation beside 100,000, up to the root
// that is acknowledged.
func BenchmarkChange(b *testing.B) {
	base := assemble(b, 1, snapshot.NewSet(large(b, many)...))
	set := revocation.Compile(nil, base)
	if set.EnforcedRoot() != base.Head().Root {
		b.Fatal("drift")
	}
	var next *revocation.Set
	i := 0
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			i++
			e, err := snapshot.NewEntry(document(b, "one-more", fmt.Sprintf("key: k-%d", i)))
			if err != nil {
				b.Fatal(err)
			}
			s := assemble(b, 2, base.Set().With([]snapshot.Entry{e}, nil))
			b.StartTimer()
			next = revocation.Compile(set, s)
		}
		figure(b, "revocation_change")
	})
	b.Run("root", func(b *testing.B) {
		for b.Loop() {
			if next.EnforcedRoot() != next.Head().Root {
				b.Fatal("drift")
			}
		}
		figure(b, "revocation_root")
	})
}

// BenchmarkStart compiles the same from nothing.
func BenchmarkStart(b *testing.B) {
	s := assemble(b, 1, snapshot.NewSet(large(b, many)...))
	for b.Loop() {
		revocation.Compile(nil, s)
	}
	figure(b, "revocation_start")
}

// figure prints what one round took.
func figure(b *testing.B, name string) {
	b.Helper()
	fmt.Printf("figure %s %.0f ns\n", name, float64(b.Elapsed().Nanoseconds())/float64(b.N))
}
