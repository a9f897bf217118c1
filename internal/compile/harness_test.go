package compile_test

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

const environment = "aws"

// failer is what testing and rapid have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// documents returns the documents of resources in YAML.
func documents(t failer, text string) [][]byte {
	t.Helper()
	all, problems := resource.ParseYAML([]byte(text))
	var documents [][]byte
	for _, l := range all {
		p, found := resource.Decode(l.Resource)
		problems.Join(l.Index, found)
		if found.Total > 0 {
			continue
		}
		b, err := resource.Encode(p)
		if err != nil {
			t.Fatalf("%v", err)
		}
		documents = append(documents, b)
	}
	for _, p := range problems.Kept {
		t.Fatalf("%s", p)
	}
	return documents
}

// snap is the signed snapshot of documents.
func snap(t failer, revision int, documents [][]byte) *snapshot.Snapshot {
	t.Helper()
	var entries []snapshot.Entry
	for _, b := range documents {
		e, err := snapshot.NewEntry(b)
		if err != nil {
			t.Fatalf("%v", err)
		}
		entries = append(entries, e)
	}
	return assemble(t, revision, snapshot.NewSet(entries...))
}

func assemble(t failer, revision int, set *snapshot.Set) *snapshot.Snapshot {
	t.Helper()
	signer := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	head, err := signer.SignHead(snapshot.Statement{
		Epoch: 1, Environment: environment, Revision: snapshot.Revision(revision), Root: set.Root(), Documents: set.Len(),
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

// spoil returns a document as a newer build might have written it.
func spoil(t failer, document []byte, edit func(*resourcev1.Document)) []byte {
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

// newer is a field that this build does not know.
func newer() []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), "from a newer build")
}

func newField(d *resourcev1.Document)    { d.Spec = append(d.Spec, newer()...) }
func newEnvelope(d *resourcev1.Document) { d.ProtoReflect().SetUnknown(newer()) }
func noSpec(d *resourcev1.Document)      { d.Spec = []byte{0xff} }

// named returns the place of a document, by kind/namespace/name.
func named(t failer, documents [][]byte, name string) int {
	t.Helper()
	for i, b := range documents {
		e, err := resource.ParseEnvelope(b)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if e.Key.String() == name {
			return i
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// rejected is what a table rejects.
func rejected(table *compile.Table) []resource.Key {
	var keys []resource.Key
	for _, r := range table.Rejects() {
		keys = append(keys, r.Key)
	}
	return keys
}

// checkRoot fails unless the table enforces all that it did not reject.
func checkRoot(t failer, table *compile.Table) {
	t.Helper()
	if got, want := table.EnforcedRoot(), table.Snapshot().Set().Without(rejected(table)); got != want {
		t.Fatalf("enforced root %s, want %s: rejects %v", got.Short(), want.Short(), table.Rejects())
	}
}

// req is a request of a principal, as in "GET shop.example /orders ann".
// Principals are "-" for nobody, a workload by its ID, or a user of provider
// shop/login whose group is the name.
type req string

// answer is what a proxy would do by the table.
func (r req) answer(table *compile.Table) string {
	f := strings.Fields(string(r))
	route, _ := table.Match(ask(f[0], f[1], f[2]))
	switch {
	case route == nil:
		return "no route"
	case route.Unavailable != "":
		return "unavailable"
	}
	var p *policy.Principal
	switch who := f[3]; {
	case who == "-":
		if !route.Authentication.GetAnonymous() {
			return "unauthenticated"
		}
	case strings.HasPrefix(who, "spiffe://"):
		if !route.Authentication.GetClientCertificates() {
			return "unauthenticated"
		}
		p = &policy.Principal{Kind: policy.Workload, ID: who, SPIFFEID: who}
	default:
		takes := func(p *compile.Provider) bool { return p.Key.Namespace+"/"+p.Key.Name == "shop/login" }
		if !slices.ContainsFunc(route.Providers, takes) {
			return "unauthenticated"
		}
		p = &policy.Principal{Kind: policy.User, ID: who, Groups: []string{who}, Provider: "shop/login"}
	}
	d := table.Policies().Decide(&policy.Input{
		Principal: p, Method: f[0], Host: f[1], Path: f[2], Route: route.ID(), RouteLabels: route.Labels,
	})
	if d.Allow {
		return "allowed by " + d.Policy
	}
	return string(d.Reason)
}

func (r req) allowed(table *compile.Table) bool {
	return strings.HasPrefix(r.answer(table), "allowed")
}

// answers are those of many requests, one a line.
func answers(table *compile.Table, requests []req) string {
	var b strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&b, "%s: %s\n", r, r.answer(table))
	}
	return b.String()
}

func fail(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got\n%swant\n%s", what, got, want)
	}
}

// ask is a request without header and query.
func ask(method, host, path string) *request.Canonical {
	return &request.Canonical{Method: method, Host: host, Target: path, Path: path}
}
