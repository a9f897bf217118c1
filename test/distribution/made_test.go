package distribution_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

var update = flag.Bool("update", false, "write the example anew")

var issued = time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)

// repeatable signs with a key on P-256 as if there were no chance.
type repeatable struct{ *ecdsa.PrivateKey }

func (k repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.PrivateKey.Sign(nil, digest, opts)
}

// maker makes the example with what the control plane signs with.
type maker struct {
	*testing.T
	pinned, second *snapshot.Signer
	out            *example
	messages       int
}

// The example is what this build makes.
func TestExampleIsMadeByThisBuild(t *testing.T) {
	m := newMaker(t)
	seventh, ninth := m.story()
	same(t, exampleFile, m.out.text())
	var lastGood, whole bytes.Buffer
	if err := bundle.WriteSnapshot(&lastGood, seventh); err != nil {
		t.Fatal(err)
	}
	err := bundle.Write(&whole, &bundle.Bundle{
		KeySets: m.keySets().GetSets(), Policy: ninth, Freshness: m.fresh(m.second, ninth, 20),
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "last-good", lastGood.Bytes())
	same(t, "bundle", whole.Bytes())
}

func same(t *testing.T, name string, made []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), made, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(file(t, name), made) {
		t.Errorf("%s is not what is made now: other proxies would not read it", name)
	}
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	scalar, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), slices.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &maker{
		T: t, out: &example{},
		pinned: snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize))),
		second: snapshot.NewSigner(repeatable{scalar}),
	}
}

// story makes the example: two snapshots, and the stream between them.
func (m *maker) story() (seventh, ninth *snapshot.Snapshot) {
	m.key("pinned", m.pinned)
	m.key("second", m.second)
	environment := m.document("environment", &resourcev1.Document{Kind: "Environment", Name: "demo", Reach: resourcev1.Reach_REACH_ENVIRONMENT}, nil)
	brokers := m.set("brokers", "", "b-1")
	partners := m.set("partners", "", "p-1")
	again := m.set("partners", "_9", "p-1", "p-2")
	staff := m.set("staff", "", "s-1")

	security := m.snapshot(m.pinned, "security", snapshot.Statement{Epoch: 1, Environment: snapshot.SecurityLane, Revision: 1}, snapshot.NewSet())
	set := snapshot.NewSet(environment, brokers, partners)
	seventh = m.snapshot(m.pinned, "7", snapshot.Statement{Epoch: 1, Environment: "demo", Revision: 7}, set)
	next := set.With([]snapshot.Entry{again, staff}, []resource.Key{brokers.Key})
	ninth = m.snapshot(m.second, "9", snapshot.Statement{Epoch: 1, Environment: "demo", Revision: 9, Previous: seventh.Head().Digest()}, next)
	m.out.add("root_empty", m.root(security))
	m.out.add("root_7", m.root(seventh))
	m.out.add("root_9", m.root(ninth))
	for b := range set.Buckets() {
		m.out.add("bucket_"+strconv.Itoa(b.Index), b.Digest[:])
	}

	m.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Security{Security: m.whole(security)}})
	for _, part := range inTwo(m.whole(seventh)) {
		m.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Update{Update: part}})
	}
	m.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Freshness{Freshness: m.fresh(m.pinned, seventh, 0)}})
	m.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_KeySets{KeySets: m.keySets()}})
	for part := range snapshot.Updates(seventh, ninth) {
		m.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Update{Update: part}})
	}
	m.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Freshness{Freshness: m.fresh(m.second, ninth, 20)}})
	m.out.add("key_set_1", m.keySets().GetSets()[0].GetSet())
	m.out.add("freshness_9", m.fresh(m.second, ninth, 20).GetStatement())
	m.ack("security", security)
	m.ack("7", seventh)
	m.ack("9", ninth)
	return seventh, ninth
}

func (m *maker) key(name string, s *snapshot.Signer) {
	id := s.Public().ID()
	m.out.add(name+"_key", s.Public().DER())
	m.out.add(name+"_key_id", id[:])
}

func (m *maker) set(name, of string, ids ...string) snapshot.Entry {
	return m.document(name+of, &resourcev1.Document{
		Kind: "Set", Namespace: "shop", Name: name, Reach: resourcev1.Reach_REACH_REFERENCES,
	}, &resourcev1.Set{Ids: ids})
}

func (m *maker) document(name string, d *resourcev1.Document, spec proto.Message) snapshot.Entry {
	m.Helper()
	if spec != nil {
		d.Spec = m.marshal(spec)
	}
	e, err := snapshot.NewEntry(m.marshal(d))
	if err != nil {
		m.Fatal(err)
	}
	if _, err := resource.ParseDocument(e.Document); err != nil {
		m.Fatal(err)
	}
	m.out.add("document_"+name, e.Document)
	m.out.add("digest_"+name, e.Digest[:])
	if !strings.HasSuffix(name, "_9") {
		m.out.add("key_"+name, keyDigest([]byte(d.GetKind()), []byte(d.GetNamespace()), []byte(d.GetName())))
	}
	return e
}

func (m *maker) marshal(p proto.Message) []byte {
	m.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		m.Fatal(err)
	}
	return b
}

func (m *maker) root(s *snapshot.Snapshot) []byte {
	root := s.Set().Root()
	return root[:]
}

// snapshot signs a set, with its counts.
func (m *maker) snapshot(by *snapshot.Signer, name string, st snapshot.Statement, set *snapshot.Set) *snapshot.Snapshot {
	m.Helper()
	st.Root, st.Documents = set.Root(), set.Len()
	head, err := by.SignHead(st)
	if err != nil {
		m.Fatal(err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		m.Fatal(err)
	}
	if s, err = by.Count(s); err != nil {
		m.Fatal(err)
	}
	signed, digest := s.Head().Signed(), s.Head().Digest()
	m.out.add("head_"+name, signed.GetHead())
	m.out.add("head_"+name+"_digest", digest[:])
	m.out.add("head_"+name+"_signature", signed.GetSignature())
	m.out.add("counts_"+name, signed.GetCounts())
	m.out.add("counts_"+name+"_signature", signed.GetCountsSignature())
	return s
}

// whole returns a full update in one part.
func (m *maker) whole(s *snapshot.Snapshot) *proxyv1.Update {
	m.Helper()
	parts := slices.Collect(snapshot.Updates(nil, s))
	if len(parts) != 1 {
		m.Fatalf("%d parts", len(parts))
	}
	return parts[0]
}

// inTwo cuts an update within its second document, as large ones are cut.
func inTwo(u *proxyv1.Update) []*proxyv1.Update {
	d := u.GetDocuments()
	return []*proxyv1.Update{
		{Documents: [][]byte{d[0], d[1][:10]}, Unfinished: true},
		{Documents: append([][]byte{d[1][10:]}, d[2:]...), Head: u.GetHead()},
	}
}

func (m *maker) fresh(by *snapshot.Signer, s *snapshot.Snapshot, seconds int) *proxyv1.SignedFreshness {
	m.Helper()
	h := s.Head()
	f, err := by.SignFreshness(snapshot.Freshness{
		Epoch: h.Epoch, Environment: h.Environment, Revision: h.Revision, HeadDigest: h.Digest(),
		IssuedAt: issued.Add(time.Duration(seconds) * time.Second),
	})
	if err != nil {
		m.Fatal(err)
	}
	return f
}

func (m *maker) keySets() *proxyv1.KeySets {
	m.Helper()
	set, err := m.pinned.SignKeySet(snapshot.KeySet{}, m.second.Public())
	if err != nil {
		m.Fatal(err)
	}
	return &proxyv1.KeySets{Sets: []*proxyv1.SignedKeySet{set.Signed()}}
}

func (m *maker) say(r *proxyv1.StreamResponse) {
	m.messages++
	m.out.add("message_"+strconv.Itoa(m.messages), m.marshal(r))
}

func (m *maker) ack(name string, s *snapshot.Snapshot) {
	digest := s.Head().Digest()
	m.out.add("ack_"+name, m.marshal(&proxyv1.Ack{
		Epoch: int64(s.Head().Epoch), Revision: int64(s.Head().Revision), HeadDigest: digest[:],
		ReceivedRoot: m.root(s), EnforcedRoot: m.root(s),
	}))
}

// Proxies of this build take the stream of the example, part by part.
func TestOurProxiesTakeTheExample(t *testing.T) {
	e := parseExample(t, string(file(t, exampleFile)))
	pinned, err := snapshot.ParsePublicKey(e.values["pinned_key"])
	if err != nil {
		t.Fatal(err)
	}
	v := pinned.Verifier()
	var assembly snapshot.Assembly
	var current *snapshot.Snapshot
	for i, b := range e.messages() {
		var r proxyv1.StreamResponse
		err := proto.Unmarshal(b, &r)
		switch {
		case err != nil:
		case r.GetUpdate() != nil:
			var next *snapshot.Snapshot
			if next, err = assembly.Add(v, current, r.GetUpdate()); next != nil {
				current = next
			}
		case r.GetKeySets() != nil:
			_, err = v.Extend(r.GetKeySets().GetSets())
		case r.GetFreshness() != nil:
			_, err = v.VerifyFreshness(r.GetFreshness())
		}
		if err != nil {
			t.Fatalf("message %d: %v", i+1, err)
		}
	}
	digest := current.Head().Digest()
	e.is(t, "head_9_digest", digest[:])
}

// The bounds in the document are those of the code.
func TestBoundsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	for what, bound := range map[string]int{
		"documents of a snapshot": snapshot.MaxDocuments,
		"bytes of these together": snapshot.MaxBytes,
		"bytes of a part":         snapshot.MaxPart,
		"bytes of a document":     resource.MaxDocument,
		"bytes of a Schema":       resource.MaxSchema,
		"bytes of a Set":          resource.MaxSet,
		"keys of a key set":       snapshot.MaxKeys,
		"generations of key sets": snapshot.MaxGenerations,
		"bytes of a file":         bundle.MaxBytes,
		"buckets":                 snapshot.BucketCount,
	} {
		row := regexp.MustCompile(`(?m)^\| ` + what + ` \| ([0-9,]+) `).FindStringSubmatch(string(text))
		if row == nil {
			t.Errorf("nothing is said of the %s", what)
			continue
		}
		if said, err := strconv.Atoi(strings.ReplaceAll(row[1], ",", "")); err != nil || said != bound {
			t.Errorf("%s: the document says %s, the code %d", what, row[1], bound)
		}
	}
}
