package revocation_test

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// failer is what testing and rapid have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

const (
	login = "https://login.example"
	other = "https://other.example"
	web   = "spiffe://prod.example/ns/shop/web"
)

// noon is when everything is asked that is not told otherwise.
var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// alice came with a token an hour before noon.
func alice(change ...func(*policy.Principal)) *policy.Principal {
	p := &policy.Principal{
		Kind: policy.User, ID: "alice", Issuer: login, AuthenticatedBy: "jwt",
		TokenID: "t-1", Session: "s-1", IssuedAt: noon.Add(-time.Hour),
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// workload came with a certificate that was made an hour before noon.
func workload(id string) *policy.Principal {
	return &policy.Principal{Kind: policy.Workload, ID: id, SPIFFEID: id, AuthenticatedBy: "x509-svid", IssuedAt: noon.Add(-time.Hour)}
}

// key came with an API key that was made an hour before noon.
func key(id string, change ...func(*policy.Principal)) *policy.Principal {
	p := &policy.Principal{Kind: policy.Key, ID: id, KeyID: id, IssuedAt: noon.Add(-time.Hour)}
	for _, c := range change {
		c(p)
	}
	return p
}

// document is the Revocation of a name, with a spec in YAML.
func document(t failer, name, spec string) []byte {
	t.Helper()
	return documentOf(t, "Revocation", name, spec)
}

func documentOf(t failer, kind, name, spec string) []byte {
	t.Helper()
	text := fmt.Sprintf("{apiVersion: sallyport/v1, kind: %s, metadata: {name: %s}, spec: {%s}}", kind, name, spec)
	all, problems := resource.ParseYAML([]byte(text))
	for _, l := range all {
		p, found := resource.Decode(l.Resource)
		problems.Join(l.Index, found)
		if found.Total == 0 {
			b, err := resource.Encode(p)
			if err != nil {
				t.Fatalf("%v", err)
			}
			return b
		}
	}
	t.Fatalf("%s: %v", text, problems.Kept)
	return nil
}

// documents are those of revocations, each as in "name: spec".
func documents(t failer, revocations ...string) (all [][]byte) {
	t.Helper()
	for _, r := range revocations {
		name, spec, _ := strings.Cut(r, ": ")
		all = append(all, document(t, name, spec))
	}
	return all
}

// snap is the signed snapshot of documents.
func snap(t failer, sequence int, documents [][]byte) *snapshot.Snapshot {
	t.Helper()
	entries := make([]snapshot.Entry, len(documents))
	for i, b := range documents {
		e, err := snapshot.NewEntry(b)
		if err != nil {
			t.Fatalf("%v", err)
		}
		entries[i] = e
	}
	return assemble(t, sequence, snapshot.NewSet(entries...))
}

func assemble(t failer, sequence int, set *snapshot.Set) *snapshot.Snapshot {
	t.Helper()
	signer := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	head, err := signer.SignHead(snapshot.Statement{
		Epoch: 1, Environment: snapshot.SecurityLane, Revision: snapshot.Revision(sequence), Root: set.Root(), Documents: set.Len(),
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

func compiled(t failer, revocations ...string) *revocation.Set {
	t.Helper()
	return revocation.Compile(nil, snap(t, 1, documents(t, revocations...)))
}

// checkRoot fails unless the set enforces all that it did not reject.
func checkRoot(t failer, s *revocation.Set) {
	t.Helper()
	var rejected []resource.Key
	for _, r := range s.Rejects() {
		rejected = append(rejected, r.Key)
	}
	if got, want := s.EnforcedRoot(), s.Snapshot().Set().Without(rejected); got != want {
		t.Fatalf("enforced root %s, want %s: rejects %v", got.Short(), want.Short(), s.Rejects())
	}
	if got, want := snapshot.Root(s.Live()), s.EnforcedRoot(); got != want {
		t.Fatalf("what lives has root %s, want %s", got.Short(), want.Short())
	}
}

// edited returns a document as another build might have written it.
func edited(t failer, document []byte, edit func(*resourcev1.Document)) []byte {
	t.Helper()
	var d resourcev1.Document
	if err := proto.Unmarshal(document, &d); err != nil {
		t.Fatalf("%v", err)
	}
	edit(&d)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&d)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

// respecced returns a document with another spec.
func respecced(t failer, document []byte, edit func(*resourcev1.Revocation)) []byte {
	t.Helper()
	return edited(t, document, func(d *resourcev1.Document) {
		var spec resourcev1.Revocation
		if err := proto.Unmarshal(d.GetSpec(), &spec); err != nil {
			t.Fatalf("%v", err)
		}
		edit(&spec)
		b, err := proto.Marshal(&spec)
		if err != nil {
			t.Fatalf("%v", err)
		}
		d.Spec = b
	})
}

// newer is a field that this build does not know.
func newer() []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), "from a newer build")
}
