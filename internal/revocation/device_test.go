package revocation_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// lane are the documents of devices and revocations, each as in "Device name: spec".
func lane(t failer, resources ...string) (all [][]byte) {
	t.Helper()
	for _, r := range resources {
		head, spec, _ := strings.Cut(r, ": ")
		kind, name, _ := strings.Cut(head, " ")
		all = append(all, documentOf(t, kind, name, spec))
	}
	return all
}

// device is a Device with an hour's facts.
func device(name, match string) string {
	return fmt.Sprintf(`Device %s: match: {%s}, compliant: true, expiresAt: "2026-01-31T13:00:00Z"`, name, match)
}

func sum(text string) [32]byte { return sha256.Sum256([]byte(text)) }

func thumbprint(text string) string {
	s := sum(text)
	return base64.RawURLEncoding.EncodeToString(s[:])
}

func TestDevices(t *testing.T) {
	const laptop, robot = "spiffe://prod.example/laptop/7", "spiffe://prod.example/robot/7"
	set := revocation.Compile(nil, snap(t, 1, lane(t,
		device("laptop", fmt.Sprintf(`certificates: [%x, %x], keys: [%s], spiffeId: %q`, sum("old"), sum("new"), thumbprint("key"), laptop)),
		device("till", `certified: {issuer: "https://pki.example", id: till}`),
		device("robot", fmt.Sprintf("spiffeId: %q", robot)),
		device("copy", fmt.Sprintf("spiffeId: %q", robot)),
		`Revocation lost: device: laptop, expiresAt: "2026-01-31T12:30:00Z"`,
	)))
	checkRoot(t, set)
	for name, c := range map[string]struct {
		e    revocation.Evidence
		want string // the device, or clash
		lost bool
	}{
		"nothing":                     {},
		"a certificate":               {revocation.Evidence{Certificate: sum("new")}, "laptop", true},
		"the one before":              {revocation.Evidence{Certificate: sum("old")}, "laptop", true},
		"a key":                       {revocation.Evidence{Key: sum("key")}, "laptop", true},
		"an ID":                       {revocation.Evidence{SPIFFEID: laptop}, "laptop", true},
		"all of it":                   {revocation.Evidence{Certificate: sum("new"), Key: sum("key"), SPIFFEID: laptop}, "laptop", true},
		"and what is nobody's":        {revocation.Evidence{Certificate: sum("x"), Key: sum("key"), SPIFFEID: laptop + "x"}, "laptop", true},
		"a key as certificate":        {e: revocation.Evidence{Certificate: sum("key")}},
		"a certificate as key":        {e: revocation.Evidence{Key: sum("new")}},
		"a subject":                   {revocation.Evidence{Issuer: "https://pki.example", Subject: "till"}, "till", false},
		"a subject of another issuer": {e: revocation.Evidence{Issuer: "https://other.example", Subject: "till"}},
		"an issuer":                   {e: revocation.Evidence{Issuer: "https://pki.example"}},
		"two devices":                 {revocation.Evidence{Issuer: "https://pki.example", Subject: "till", Key: sum("key")}, "clash", true},
		"one that two are known by":   {revocation.Evidence{SPIFFEID: robot}, "clash", false},
	} {
		d, clash := set.Device(&c.e)
		got := map[bool]string{true: "clash"}[clash]
		if d != nil {
			got += d.ID
		}
		by, lost := set.DeviceRevoked(&c.e, noon)
		if got != c.want || lost != c.lost || lost != (by == "lost") {
			t.Errorf("%s: %q, revoked is %t by %q", name, got, lost, by)
		}
		if _, lost := set.DeviceRevoked(&c.e, noon.Add(time.Hour)); lost {
			t.Errorf("%s: is revoked when the revocation has expired", name)
		}
	}
	var none *revocation.Set
	if d, clash := none.Device(&revocation.Evidence{Key: sum("key")}); d != nil || clash {
		t.Errorf("without a set there is %v", d)
	}
}

func TestFactsOfDevices(t *testing.T) {
	set := revocation.Compile(nil, snap(t, 1, lane(t, `Device full: match: {spiffeId: "spiffe://a/1"}, os: macos, osVersion: "26.1", diskEncrypted: true,
		screenLock: false, compliant: true, managed: false, owner: ann, lastSeen: "2026-01-31T11:00:00Z", expiresAt: "2026-01-31T13:00:00Z"`,
		`Device bare: match: {spiffeId: "spiffe://a/2"}, expiresAt: "2026-01-31T13:00:00Z"`)))
	for id, want := range map[string]policy.Device{
		"spiffe://a/1": {
			ID: "full", OS: "macos", OSVersion: "26.1", Owner: "ann", DiskEncrypted: policy.Yes, ScreenLock: policy.No, Compliant: policy.Yes,
			Managed: policy.No, LastSeen: noon.Add(-time.Hour), Expires: noon.Add(time.Hour),
		},
		"spiffe://a/2": {ID: "bare", Expires: noon.Add(time.Hour)},
	} {
		if d, _ := set.Device(&revocation.Evidence{SPIFFEID: id}); d == nil || *d != want {
			t.Errorf("%s: %+v", id, d)
		}
	}
}

// A device that this build does not understand is unknown, and shown as rejected.
// When it is revoked nobody passes, as its requests cannot be told from others.
func TestRejectedDevice(t *testing.T) {
	docs := lane(t, device("laptop", `spiffeId: "spiffe://a/1"`), device("phone", `spiffeId: "spiffe://a/2"`))
	spoilt := edited(t, docs[0], func(d *resourcev1.Document) { d.Spec = append(d.Spec, newer()...) })
	before := revocation.Compile(nil, snap(t, 1, docs))
	set := revocation.Compile(before, snap(t, 2, [][]byte{spoilt, docs[1]}))
	checkRoot(t, set)
	if d, _ := set.Device(&revocation.Evidence{SPIFFEID: "spiffe://a/1"}); d != nil || len(set.Rejects()) != 1 || set.Unavailable() != "" {
		t.Errorf("there is %+v, rejects are %v, unavailable is %q", d, set.Rejects(), set.Unavailable())
	}
	if d, _ := set.Device(&revocation.Evidence{SPIFFEID: "spiffe://a/2"}); d == nil {
		t.Error("the other device is gone")
	}
	set = revocation.Compile(set, snap(t, 3, append(lane(t, "Revocation lost: device: laptop"), spoilt, docs[1])))
	checkRoot(t, set)
	if !strings.Contains(set.Unavailable(), "Device/laptop") {
		t.Errorf("unavailable is %q", set.Unavailable())
	}
	unmatched := edited(t, docs[0], func(d *resourcev1.Document) {
		spec, err := proto.Marshal(&resourcev1.Device{Os: "macos"})
		if err != nil {
			t.Fatal(err)
		}
		d.Spec = spec
	})
	if set := revocation.Compile(nil, snap(t, 4, [][]byte{unmatched})); len(set.Rejects()) != 1 {
		t.Errorf("one that is known by nothing: %v", set.Rejects())
	}
}

// What gets lost of a device on the way into one index is missing in the root.
func TestLostDevice(t *testing.T) {
	set := revocation.Compile(nil, snap(t, 1, lane(t, device("laptop", `spiffeId: "spiffe://a/1", keys: [`+thumbprint("key")+`]`), device("phone", `spiffeId: "spiffe://a/2"`))))
	checkRoot(t, set)
	for _, lost := range []*revocation.Set{set.Lose("laptop"), set.LosePlace("laptop", 0), set.LosePlace("laptop", 1)} {
		if lost.EnforcedRoot() == set.EnforcedRoot() {
			t.Error("the root does not tell")
		}
		key := resource.Key{Kind: resource.KindDevice, Name: "laptop"}
		if got, want := lost.EnforcedRoot(), set.Snapshot().Set().Without([]resource.Key{key}); got != want {
			t.Errorf("root %s, want %s", got.Short(), want.Short())
		}
	}
}

// fleet is many devices, each with a certificate and a key.
func fleet(t failer, n int) []snapshot.Entry {
	t.Helper()
	entries := make([]snapshot.Entry, n)
	for i := range entries {
		text := fmt.Sprintf(`%s, os: macos, osVersion: "26.1", diskEncrypted: true, screenLock: true, managed: true, owner: user-%d@corp.example, lastSeen: "2026-01-31T11:00:00Z"`,
			device("", fmt.Sprintf(`certificates: [%x], keys: [%s]`, sum(fmt.Sprint("c", i)), thumbprint(fmt.Sprint("k", i)))), i)
		_, spec, _ := strings.Cut(text, ": ")
		e, err := snapshot.NewEntry(documentOf(t, "Device", fmt.Sprintf("laptop-%d", i), spec))
		if err != nil {
			t.Fatalf("%v", err)
		}
		entries[i] = e
	}
	return entries
}

func TestLookingForDevicesDoesNotAllocate(t *testing.T) {
	set := revocation.Compile(nil, assemble(t, 1, snapshot.NewSet(fleet(t, 100)...)))
	e := revocation.Evidence{Certificate: sum("c7"), SPIFFEID: web, Issuer: login, Subject: "x", Key: sum("k7")}
	if n := testing.AllocsPerRun(100, func() {
		if d, _ := set.Device(&e); d == nil || d.ID != "laptop-7" {
			t.Fatalf("%v", d)
		}
		if _, revoked := set.DeviceRevoked(&e, noon); revoked {
			t.Fatal("revoked")
		}
	}); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}

// BenchmarkDevices has 100,000 devices: what one is found in, what a change of one
// takes, and how much memory all of them do.
func BenchmarkDevices(b *testing.B) {
	entries := fleet(b, many)
	base := assemble(b, 1, snapshot.NewSet(entries...))
	before := live()
	set := revocation.Compile(nil, base)
	fmt.Printf("figure devices_100k_compiled %.1f MiB\n", float64(live()-before)/(1<<20))
	if set.EnforcedRoot() != base.Head().Root || len(set.Rejects()) > 0 {
		b.Fatal("drift")
	}
	e := revocation.Evidence{Certificate: sum("c4711"), Key: sum("k4711")}
	b.Run("find", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if d, _ := set.Device(&e); d == nil {
				b.Fatal("unknown")
			}
		}
		figure(b, "device_found_of_100k")
	})
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			revocation.Compile(nil, base)
		}
		figure(b, "devices_100k_start")
	})
	b.Run("change", func(b *testing.B) {
		i := 0
		for b.Loop() {
			b.StopTimer()
			i++
			spec := fmt.Sprintf(`match: {certificates: [%x], keys: [%s]}, compliant: %t, expiresAt: "2026-01-31T13:00:00Z"`, e.Certificate, thumbprint("k4711"), i%2 == 0)
			changed, err := snapshot.NewEntry(documentOf(b, "Device", "laptop-4711", spec))
			if err != nil {
				b.Fatal(err)
			}
			s := assemble(b, 2, base.Set().With([]snapshot.Entry{changed}, nil))
			b.StartTimer()
			if revocation.Compile(set, s).EnforcedRoot() != s.Head().Root {
				b.Fatal("drift")
			}
		}
		figure(b, "device_change_of_100k")
	})
	runtime.KeepAlive(entries)
	runtime.KeepAlive(base)
}

// live returns how many bytes are in use.
func live() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
