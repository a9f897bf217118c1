package revocation_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
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

// BenchmarkStart compiles from nothing, as a proxy does when it starts: 100,000
// revocations, and 100,000 devices.
func BenchmarkStart(b *testing.B) {
	for name, entries := range map[string][]snapshot.Entry{"revocation_start": large(b, many), "devices_start": inventory(b, many)} {
		s := assemble(b, 1, snapshot.NewSet(entries...))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if set := revocation.Compile(nil, s); len(set.Rejects()) > 0 {
					b.Fatal(set.Rejects()[0])
				}
			}
			figure(b, name)
		})
	}
}

// inventory is so many devices, each known by a certificate and a key.
func inventory(b *testing.B, n int) []snapshot.Entry {
	b.Helper()
	entries := make([]snapshot.Entry, n)
	told := true
	for i := range entries {
		name := fmt.Sprintf("laptop-%d", i)
		spec := &resourcev1.Device{
			Match: &resourcev1.DeviceMatch{Certificates: []string{fmt.Sprintf("%x", sum(name))}, Keys: []string{thumbprint(name)}},
			Os:    "macos", OsVersion: "15.1", Owner: fmt.Sprintf("user-%d", i), Compliant: &told, Managed: &told, DiskEncrypted: &told,
			LastSeen: timestamppb.New(noon), ExpiresAt: timestamppb.New(noon.Add(24 * time.Hour)),
		}
		document, err := resource.Encode(resource.Parsed{Key: resource.Key{Kind: resource.KindDevice, Name: name}, Spec: spec})
		if err != nil {
			b.Fatal(err)
		}
		if entries[i], err = snapshot.NewEntry(document); err != nil {
			b.Fatal(err)
		}
	}
	return entries
}

// figure prints what one round took.
func figure(b *testing.B, name string) {
	b.Helper()
	fmt.Printf("figure %s %.0f ns\n", name, float64(b.Elapsed().Nanoseconds())/float64(b.N))
}
