package api_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// answering is a proxy that answers what it is asked with what it has.
func answering(t *testing.T, s *registry.Session, has map[resource.Key]snapshot.Digest, at func(asked int) int64) {
	t.Helper()
	run(t, func(ctx context.Context) error {
		for asked := 0; ; asked++ {
			select {
			case <-ctx.Done():
				return nil
			case ask := <-s.Asked():
				s.Inspected(&proxyv1.Inspection{Id: ask.GetId() - 1, Epoch: 1, Revision: 1}) // of nobody
				s.Inspected(inspection(ask, has, at(asked)))
			}
		}
	})
}

func inspection(ask *proxyv1.Inspect, has map[resource.Key]snapshot.Digest, at int64) *proxyv1.Inspection {
	m := &proxyv1.Inspection{Id: ask.GetId(), Epoch: 1, Revision: at}
	set := snapshot.SetOf(maps.All(has))
	for i := range snapshot.BucketCount {
		d := set.BucketDigest(i)
		m.Buckets = append(m.Buckets, d[:]...)
	}
	for b := range set.Buckets() {
		for _, e := range b.Entries {
			if slices.Contains(ask.GetBuckets(), uint32(b.Index)) {
				m.Documents = append(m.Documents, &proxyv1.DocumentDigest{
					Key: &proxyv1.DocumentKey{Kind: string(e.Key.Kind), Namespace: e.Key.Namespace, Name: e.Key.Name}, Digest: e.Digest[:],
				})
			}
		}
	}
	return m
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, `{apiVersion: sallyport/v1, kind: Enrollment, metadata: {name: aws}, spec: {spiffeId: "spiffe://prod.example/proxy/aws/**", environment: aws}}`)
	truth := map[resource.Key]snapshot.Digest{}
	for _, v := range must(w.store.EnvironmentState(t.Context(), "aws", 1)) {
		truth[v.Key] = v.Digest
	}
	var some resource.Key
	for k := range truth {
		if k.Kind != resource.KindEnvironment {
			some = k
		}
	}
	if some.Name == "" {
		t.Fatal("there is nothing to lose")
	}
	run(t, w.known.Run)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !w.known.Ready() {
		<-tick.C
	}
	verify := func(id string) (string, error) {
		res, err := w.fleet(t, viewer).Verify(t.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: id}))
		if err != nil {
			return "", err
		}
		text := fmt.Sprintf("%d of %s@%d", res.Msg.GetDocuments(), res.Msg.GetEnvironment(), res.Msg.GetRevision())
		for _, d := range res.Msg.GetDeviations() {
			text += " " + strings.TrimPrefix(d.GetType().String(), "DEVIATION_TYPE_") + " " + d.GetKind() + "/" + d.GetNamespace() + "/" + d.GetName()
		}
		return text, nil
	}
	const id = "spiffe://prod.example/proxy/aws/1"
	all := fmt.Sprintf("%d of aws@1", len(truth))
	still := func(int) int64 { return 1 }
	for name, c := range map[string]struct {
		change func(map[resource.Key]snapshot.Digest)
		at     func(int) int64
		code   connect.Code // 0: none
		want   string
	}{
		"as it should be": {func(map[resource.Key]snapshot.Digest) {}, still, 0, all},
		"one is lost":     {func(m map[resource.Key]snapshot.Digest) { delete(m, some) }, still, 0, all + " MISSING " + some.String()},
		"one is another":  {func(m map[resource.Key]snapshot.Digest) { m[some] = snapshot.Digest{1} }, still, 0, all + " DIFFERENT " + some.String()},
		"one too many": {func(m map[resource.Key]snapshot.Digest) {
			m[resource.Key{Kind: "Policy", Namespace: "shop", Name: "stray"}] = snapshot.Digest{1}
		},
			still, 0, all + " EXTRA Policy/shop/stray"},
		"it enforces nothing": {func(map[resource.Key]snapshot.Digest) {}, func(int) int64 { return 0 }, connect.CodeFailedPrecondition, ""},
		"it moves on":         {func(m map[resource.Key]snapshot.Digest) { delete(m, some) }, func(asked int) int64 { return int64(asked + 1) }, connect.CodeAborted, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := w.known.Admit(id)
			if err != nil {
				t.Fatal(err)
			}
			s := must(w.known.Open(registry.Registration{SPIFFEID: id, Instance: "i"}, a))
			defer s.Close()
			has := maps.Clone(truth)
			c.change(has)
			answering(t, s, has, c.at)
			got, err := verify(id + "#i")
			if got != c.want || (err == nil) != (c.code == 0) || err != nil && connect.CodeOf(err) != c.code {
				t.Errorf("got %q and %v, want %q", got, err, c.want)
			}
		})
	}
	if _, err := verify(id + "#i"); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("of one that is not connected here: %v", err)
	}
	if _, err := verify(id + "#j"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("of none: %v", err)
	}
}
