package link_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// inspect asks a proxy what it enforces.
func (v *conversation) inspect(t testing.TB, id int64, buckets ...uint32) *proxyv1.Inspection {
	t.Helper()
	return v.asks(t, &proxyv1.Inspect{Id: id, Buckets: buckets})
}

func (v *conversation) asks(t testing.TB, ask *proxyv1.Inspect) *proxyv1.Inspection {
	t.Helper()
	v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: &proxyv1.Directive{
		Directive: &proxyv1.Directive_Inspect{Inspect: ask},
	}}}
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Inspection, bool) {
		return m.GetInspection(), m.GetInspection().GetId() == ask.GetId()
	})
}

// What a proxy has lost since it said what it enforces is found document by document.
func TestInspect(t *testing.T) {
	l, e := newLab(t), newTable()
	_, _ = l.start(t, e)
	v := l.stream(t)
	if m := v.inspect(t, 1); m.GetRevision() != 0 || len(m.GetBuckets()) > 0 {
		t.Errorf("before there is anything it says %v", m)
	}
	s := at(t, 10, map[string]string{"a": "1", "b": "1", "c": "1"})
	wantProof(t, v.push(t, nil, s), s)
	lost := resource.Key{Kind: "Policy", Namespace: "shop", Name: "b"}
	var at uint32 // the bucket of what is lost
	for b := range s.Set().Buckets() {
		if slices.ContainsFunc(b.Entries, func(e snapshot.Entry) bool { return e.Key == lost }) {
			at = uint32(b.Index)
		}
	}
	differing := func(m *proxyv1.Inspection) (buckets []int) {
		if m.GetRevision() != 10 || m.GetEpoch() != 1 || len(m.GetBuckets()) != 256*32 {
			t.Fatalf("it says %v", m)
		}
		for i := range 256 {
			if d, _ := snapshot.ParseDigest(m.GetBuckets()[32*i : 32*i+32]); d != s.Set().BucketDigest(i) {
				buckets = append(buckets, i)
			}
		}
		return buckets
	}
	if got := differing(v.inspect(t, 2)); got != nil {
		t.Errorf("nothing is lost, and buckets %v differ", got)
	}
	if m := v.inspect(t, 3, at); len(m.GetBuckets()) > 0 || !slices.ContainsFunc(m.GetDocuments(), func(d *proxyv1.DocumentDigest) bool { return d.GetKey().GetName() == "b" }) {
		t.Errorf("of bucket %d it says %v", at, m)
	}
	e.lose(lost)
	if got := differing(v.inspect(t, 4)); !slices.Equal(got, []int{int(at)}) {
		t.Errorf("buckets %v differ, want %d", got, at)
	}
	if m := v.inspect(t, 5, at); slices.ContainsFunc(m.GetDocuments(), func(d *proxyv1.DocumentDigest) bool { return d.GetKey().GetName() == "b" }) {
		t.Errorf("of bucket %d it says %v", at, m)
	}
}

// Of the security lane it says as much, when it is asked for that.
func TestInspectSecurityLane(t *testing.T) {
	l, security := newLab(t), newTable()
	_, _ = l.start(t, newTable(), secured(security))
	v := l.stream(t)
	s := sequence(t, 3, map[string]string{"stolen": "1", "lost": "1"})
	wantProof(t, v.secure(t, nil, s), s)
	differing := func(m *proxyv1.Inspection) (n int) {
		if m.GetRevision() != 3 || !m.GetSecurity() || len(m.GetBuckets()) != 256*32 {
			t.Fatalf("it says %v", m)
		}
		for i := range 256 {
			if d, _ := snapshot.ParseDigest(m.GetBuckets()[32*i : 32*i+32]); d != s.Set().BucketDigest(i) {
				n++
			}
		}
		return n
	}
	if n := differing(v.asks(t, &proxyv1.Inspect{Id: 1, Security: true})); n != 0 {
		t.Errorf("nothing is lost, and %d buckets differ", n)
	}
	if m := v.inspect(t, 2); m.GetSecurity() || m.GetRevision() != 0 {
		t.Errorf("of its environment, of which it has nothing, it says %v", m)
	}
	security.lose(resource.Key{Kind: "Policy", Namespace: "shop", Name: "lost"})
	if n := differing(v.asks(t, &proxyv1.Inspect{Id: 3, Security: true})); n != 1 {
		t.Errorf("%d buckets differ, want 1", n)
	}
}
