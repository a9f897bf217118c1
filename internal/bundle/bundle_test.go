package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

var issued = time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func snap(t testing.TB, by *snapshot.Signer, environment string, revision snapshot.Revision, specs ...string) *snapshot.Snapshot {
	t.Helper()
	var entries []snapshot.Entry
	for i, spec := range specs {
		b, err := proto.Marshal(&resourcev1.Document{Kind: "Policy", Namespace: "shop", Name: fmt.Sprint("p", i), Spec: []byte(spec)})
		if err != nil {
			t.Fatal(err)
		}
		e, err := snapshot.NewEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	set := snapshot.NewSet(entries...)
	head, err := by.SignHead(snapshot.Statement{Epoch: 1, Environment: environment, Revision: revision, Root: set.Root(), Documents: set.Len()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fresh(t testing.TB, by *snapshot.Signer, head snapshot.Head) *proxyv1.SignedFreshness {
	t.Helper()
	f, err := by.SignFreshness(snapshot.Freshness{
		Epoch: head.Epoch, Environment: head.Environment, Revision: head.Revision, HeadDigest: head.Digest(), IssuedAt: issued,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// whole is a bundle of both lanes.
func whole(t testing.TB, by *snapshot.Signer) *bundle.Bundle {
	t.Helper()
	policy, security := snap(t, by, "aws", 10, "a", "b"), snap(t, by, snapshot.SecurityLane, 3, "c")
	return &bundle.Bundle{
		Policy: policy, Security: security, Freshness: fresh(t, by, policy.Head()), SecurityFreshness: fresh(t, by, security.Head()),
	}
}

func written(t testing.TB, b *bundle.Bundle) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := bundle.Write(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func alone(t testing.TB, s *snapshot.Snapshot) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := bundle.WriteSnapshot(&out, s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(b []byte) (*bundle.Bundle, error) {
	return bundle.Read(bytes.NewReader(b), signer(1).Verifier())
}

// same fails unless got holds what want does, confirmed by the same statements.
func same(t testing.TB, got, want *bundle.Bundle) {
	t.Helper()
	for _, pair := range [][2]*snapshot.Snapshot{{got.Policy, want.Policy}, {got.Security, want.Security}} {
		if pair[0].Head().Digest() != pair[1].Head().Digest() || pair[0].Set().Root() != pair[1].Set().Root() {
			t.Errorf("holds %v, want %v", pair[0].Head().Statement, pair[1].Head().Statement)
		}
	}
	if !bytes.Equal(got.Freshness.GetStatement(), want.Freshness.GetStatement()) ||
		!bytes.Equal(got.SecurityFreshness.GetStatement(), want.SecurityFreshness.GetStatement()) {
		t.Errorf("is confirmed by %v and %v", got.Freshness, got.SecurityFreshness)
	}
}

// section is one of the second version.
func section(name string, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte(name), uint32(len(payload))), payload...)
}

const magicSize = len("sallyport last-good v2\n")

// with puts a section after the magic of a file of the second version, and sums that
// up anew.
func with(file, section []byte) []byte {
	b := slices.Concat(file[:magicSize], section, file[magicSize:len(file)-sha256.Size])
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func golden(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, now, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A build reads what the one before it wrote and what the one after it will: files
// stay in testdata when the format goes on. Those of v1 were written before there were
// key sets and counts.
func TestOneVersionBackAndForward(t *testing.T) {
	both, policy := whole(t, signer(1)), snap(t, signer(1), "aws", 10, "a", "b")
	for _, c := range []struct {
		name string
		now  []byte
		want *bundle.Bundle
	}{
		{"last-good.v1", alone(t, policy), &bundle.Bundle{Policy: policy}},
		{"security-last-good.v1", alone(t, both.Security), &bundle.Bundle{Security: both.Security}},
		{"bundle.v2", written(t, both), both},
		{"bundle.v2.next", with(written(t, both), section("more", []byte("of which nobody knows"))), both},
	} {
		for from, b := range map[string][]byte{"testdata": golden(t, c.name, c.now), "now": c.now} {
			got, err := read(b)
			if err != nil {
				t.Errorf("%s, %s: %v", c.name, from, err)
				continue
			}
			same(t, got, c.want)
		}
	}
}

// Builds of before have to find what they know in what is written now: the magic, parts
// after their lengths, a length of zero, and the checksum.
func TestLastGoodIsAsItWas(t *testing.T) {
	policy := snap(t, signer(1), "aws", 10, "a", "b")
	file := alone(t, policy)
	rest, ok := bytes.CutPrefix(file, []byte("sallyport last-good v1\n"))
	sum := sha256.Sum256(file[:len(file)-sha256.Size])
	if !ok || !bytes.HasSuffix(file, sum[:]) {
		t.Fatal("neither magic nor checksum are as they were")
	}
	size := binary.BigEndian.Uint32(rest)
	var part proxyv1.Update
	if err := proto.Unmarshal(rest[4:4+size], &part); err != nil || len(part.GetDocuments()) != 2 || part.GetHead() == nil {
		t.Errorf("the part is %v, %v", &part, err)
	}
	if want, err := proto.Marshal(slices.Collect(snapshot.Updates(nil, policy))[0]); err != nil || !bytes.Equal(rest[4:4+size], want) {
		t.Errorf("the part is encoded as %x, %v, want %x", rest[4:4+size], err, want)
	}
	if end := rest[4+size:]; !bytes.Equal(end[:len(end)-sha256.Size], []byte{0, 0, 0, 0}) {
		t.Errorf("it ends with % x", end)
	}
}

// A proxy that pins the fleet's first key takes what a later one signed, if the bundle
// leads it there; and nothing that a key signed which was retired on the way.
func TestBundleAfterARotation(t *testing.T) {
	first, second := signer(1), signer(2)
	set, err := first.SignKeySet(snapshot.KeySet{}, first.Public(), second.Public())
	if err != nil {
		t.Fatal(err)
	}
	last, err := second.SignKeySet(set, second.Public())
	if err != nil {
		t.Fatal(err)
	}
	chain := []*proxyv1.SignedKeySet{set.Signed(), last.Signed()}
	later := whole(t, second)
	later.KeySets = chain
	v := first.Verifier()
	got, err := bundle.Read(bytes.NewReader(written(t, later)), v)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, later)
	if v.Newest().Generation != 2 {
		t.Errorf("the verifier is at generation %d", v.Newest().Generation)
	}
	later.KeySets = nil
	if _, err := read(written(t, later)); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("without the way there: %v", err)
	}
	before := whole(t, first)
	before.KeySets = chain
	if _, err := read(written(t, before)); !errors.Is(err, snapshot.ErrRetired) {
		t.Errorf("signed with a key that the bundle says is retired: %v", err)
	}
}

// What is not whole is nothing, wherever it was torn and whichever bit has flipped.
func TestDamage(t *testing.T) {
	for name, file := range map[string][]byte{"v1": alone(t, snap(t, signer(1), "aws", 10, "a", "b")), "v2": written(t, whole(t, signer(1)))} {
		for at := range file {
			if _, err := read(file[:at]); err == nil {
				t.Errorf("%s: torn at %d of %d bytes, it is read", name, at, len(file))
			}
			b := slices.Clone(file)
			b[at] ^= 1 << (at % 8)
			if _, err := read(b); err == nil {
				t.Errorf("%s: with a bit of byte %d flipped, it is read", name, at)
			}
		}
		if _, err := read(append(slices.Clone(file), 0)); err == nil {
			t.Errorf("%s: it is read with a byte behind it", name)
		}
	}
}

// Nothing comes out of a bundle that is whole and that nobody signed for the fleet.
func TestHostileBundles(t *testing.T) {
	ours, theirs := whole(t, signer(1)), whole(t, signer(2))
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"of another fleet", written(t, theirs), "signature"},
		{"revocations of another fleet", written(t, &bundle.Bundle{Policy: ours.Policy, Security: theirs.Security}), "signature"},
		{"confirmed by another fleet", written(t, &bundle.Bundle{Policy: ours.Policy, Freshness: theirs.Freshness}), "signature"},
		{"nothing in it", written(t, &bundle.Bundle{}), "holds no snapshot"},
		{"two of a lane", with(written(t, ours), section("part", lastPart(t, snap(t, signer(1), "gcp", 4)))), "two snapshots"},
		{"confirmed twice", with(written(t, ours), section("frsh", marshal(t, ours.Freshness))), "two freshness statements"},
		{"a section that is not to be passed over", with(written(t, ours), section("MORE", []byte("of which nobody knows"))), "cannot do without"},
		{"a section of no type", with(written(t, ours), section("\x00\x00\x00\x00", nil)), "cannot do without"},
		{"a section of 4 GiB", slices.Concat([]byte("sallyport last-good v2\npart"), []byte{0xff, 0xff, 0xff, 0xff}), "too large"},
		{"a part of 4 GiB", slices.Concat([]byte("sallyport last-good v1\n"), []byte{0xff, 0xff, 0xff, 0xff}), "too large"},
		{"rubbish for a part", with(written(t, ours), section("part", []byte{0xff})), "parse part"},
		{"without a head", with(written(t, &bundle.Bundle{}), section("part", nil)), "ends before the head"},
		{"of the version after the next", []byte("sallyport last-good v3\n"), "not a snapshot file"},
	} {
		if _, err := read(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lastPart is the only part of a snapshot.
func lastPart(t testing.TB, s *snapshot.Snapshot) (b []byte) {
	t.Helper()
	for part := range snapshot.Updates(nil, s) {
		b = marshal(t, part)
	}
	return b
}

// endless is a file without an end, of sections that nobody knows.
type endless struct{ next []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.next) == 0 {
		e.next = section("more", make([]byte, 512<<10))
	}
	n := copy(p, e.next)
	e.next = e.next[n:]
	return n, nil
}

// Whoever sends without an end is not listened to for ever.
func TestBundleIsBounded(t *testing.T) {
	_, err := bundle.Read(&endless{next: []byte("sallyport last-good v2\n")}, signer(1).Verifier())
	if !errors.Is(err, snapshot.ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// A snapshot of several parts is one again.
func TestLargeBundle(t *testing.T) {
	specs := slices.Repeat([]string{strings.Repeat("x", 100<<10)}, 30)
	b := &bundle.Bundle{Policy: snap(t, signer(1), "aws", 10, specs...), Security: snap(t, signer(1), snapshot.SecurityLane, 3, specs...)}
	got, err := read(written(t, b))
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, b)
}

// A file that cannot be written says so.
func TestWriteFails(t *testing.T) {
	b := whole(t, signer(1))
	size := len(written(t, b))
	for room := range size {
		if err := bundle.Write(&narrow{room}, b); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("with room for %d of %d bytes: %v", room, size, err)
		}
	}
}

// narrow takes so many bytes.
type narrow struct{ room int }

func (n *narrow) Write(p []byte) (int, error) {
	if n.room < len(p) {
		return 0, io.ErrShortWrite
	}
	n.room -= len(p)
	return len(p), nil
}

// What stands in a file is hostile input: it is read within bounds, and nothing that
// was not signed comes out of it, whatever sums up.
func FuzzRead(f *testing.F) {
	both := whole(f, signer(1))
	for _, file := range [][]byte{alone(f, both.Policy), written(f, both), with(written(f, both), section("more", nil))} {
		f.Add(file[:len(file)-sha256.Size])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		got, err := read(append(b, sum[:]...))
		if err != nil {
			return
		}
		if p := got.Policy; p != nil && p.Set().Root() != both.Policy.Set().Root() {
			t.Error("holds what nobody has signed")
		}
		if s := got.Security; s != nil && s.Set().Root() != both.Security.Set().Root() {
			t.Error("holds revocations that nobody has signed")
		}
	})
}
