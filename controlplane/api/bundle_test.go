package api_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

var signer = snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))

// published is what is published of an environment.
type published struct {
	snapshot  *snapshot.Snapshot
	freshness *proxyv1.SignedFreshness
}

// publish makes documents of some size the newest of an environment, confirmed at a
// time unless that is zero.
func publish(t testing.TB, environment string, revision snapshot.Revision, documents int, confirmed time.Time) (p published) {
	t.Helper()
	var entries []snapshot.Entry
	for i := range documents {
		b := must(proto.Marshal(&resourcev1.Document{Kind: "Policy", Namespace: "shop", Name: fmt.Sprint("p", i), Spec: bytes.Repeat([]byte{7}, 50<<10)}))
		entries = append(entries, must(snapshot.NewEntry(b)))
	}
	set := snapshot.NewSet(entries...)
	head := must(signer.SignHead(snapshot.Statement{Epoch: 2, Environment: environment, Revision: revision, Root: set.Root(), Documents: set.Len()}))
	p.snapshot = must(snapshot.Assemble(head, set))
	if !confirmed.IsZero() {
		p.freshness = must(signer.SignFreshness(snapshot.Freshness{
			Epoch: 2, Environment: environment, Revision: revision, HeadDigest: head.Digest(), IssuedAt: confirmed,
		}))
	}
	return p
}

// export returns a bundle as it was sent.
func (w *world) export(t testing.TB, as identity.ID, environment string) (file []byte, about *adminv1.Exported, err error) {
	t.Helper()
	client := adminv1connect.NewBundleServiceClient(w.client(t, as), w.url)
	stream, err := client.Export(t.Context(), connect.NewRequest(&adminv1.ExportRequest{Environment: environment}))
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		if len(stream.Msg().GetData()) > 300<<10 {
			t.Errorf("a message has %d bytes", len(stream.Msg().GetData()))
		}
		file = append(file, stream.Msg().GetData()...)
		if a := stream.Msg().GetAbout(); a != nil {
			about = a
		}
	}
	return file, about, stream.Err()
}

// What is exported is what is published, of both lanes, and proves itself.
func TestExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	then := time.Now().Add(-time.Minute)
	w.published = map[string]published{
		"aws":                 publish(t, "aws", 7, 40, time.Now()),
		"gcp":                 publish(t, "gcp", 5, 0, time.Time{}),
		snapshot.SecurityLane: publish(t, snapshot.SecurityLane, 3, 2, then),
	}
	file, about, err := w.export(t, viewer, "aws")
	if err != nil {
		t.Fatal(explain(err))
	}
	if about.GetEpoch() != 2 || about.GetRevision() != 7 || about.GetSecuritySequence() != 3 || !about.GetConfirmedAt().AsTime().Equal(then) {
		t.Errorf("it is about %v", about)
	}
	b, err := bundle.Read(bytes.NewReader(file), signer.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]published{"aws": {b.Policy, b.Freshness}, snapshot.SecurityLane: {b.Security, b.SecurityFreshness}} {
		if want := w.published[name]; got.snapshot.Head().Digest() != want.snapshot.Head().Digest() || !proto.Equal(got.freshness, want.freshness) {
			t.Errorf("of %s it has %v", name, got)
		}
	}
	if _, about, err = w.export(t, viewer, "gcp"); err != nil || about.GetConfirmedAt() != nil {
		t.Errorf("what was never confirmed: %v, %v", about, err)
	}
}

func TestExportsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.published = map[string]published{"aws": publish(t, "aws", 7, 1, time.Now())}
	for _, c := range []struct {
		as          identity.ID
		environment string
		code        connect.Code
		says        string
	}{
		{nobody, "aws", connect.CodeUnauthenticated, "prove who you are"},
		{proxy, "aws", connect.CodePermissionDenied, "not allowed"},
		{viewer, "", connect.CodeInvalidArgument, "environment: value is required"},
		{viewer, "azure", connect.CodeNotFound, `nothing is published of an environment "azure"`},
		{viewer, snapshot.SecurityLane, connect.CodeNotFound, "nothing is published"},
		{viewer, "aws", connect.CodeUnavailable, "of the security lane yet"},
	} {
		file, _, err := w.export(t, c.as, c.environment)
		if connect.CodeOf(err) != c.code || !strings.Contains(explain(err), c.says) || len(file) > 0 {
			t.Errorf("%s of %q: %d bytes, %v", c.as, c.environment, len(file), explain(err))
		}
	}
}
