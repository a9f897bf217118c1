package api_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

type digests = map[resource.Key]snapshot.Digest

// asked is a proxy that answers what it is asked with what it has.
type asked struct {
	policy   digests
	security digests // nil: its build does not know that it is asked for that
	// at is the revision, or sequence, that it says for the nth question of a lane.
	at func(security bool, n int) int64
}

// answers answers until the test ends.
func (a asked) answers(t *testing.T, s *registry.Session) {
	t.Helper()
	run(t, func(ctx context.Context) error {
		n := map[bool]int{}
		for {
			select {
			case <-ctx.Done():
				return nil
			case ask := <-s.Asked():
				s.Inspected(&proxyv1.Inspection{Id: ask.GetId() - 1, Epoch: 1, Revision: 1}) // of nobody
				s.Inspected(a.inspection(ask, n[ask.GetSecurity()]))
				n[ask.GetSecurity()]++
			}
		}
	})
}

func (a asked) inspection(ask *proxyv1.Inspect, n int) *proxyv1.Inspection {
	m := &proxyv1.Inspection{Id: ask.GetId(), Epoch: 1}
	has := a.policy
	if ask.GetSecurity() && a.security != nil {
		m.Security, has = true, a.security
	}
	m.Revision = a.at(m.GetSecurity(), n)
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

const verifiedID = "spiffe://prod.example/proxy/aws/1"

// verifiable gives a world something to verify, and returns what a proxy of aws should
// have.
func (w *world) verifiable(t *testing.T) (policy, security digests) {
	t.Helper()
	w.apply(t, shop)
	w.apply(t, `{apiVersion: sallyport/v1, kind: Enrollment, metadata: {name: aws}, spec: {spiffeId: "spiffe://prod.example/proxy/aws/**", environment: aws}}`)
	w.apply(t, `{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: stolen}, spec: {key: ci, reason: stolen}}`)
	state := func(lane string, at snapshot.Revision) digests {
		has := digests{}
		for _, v := range must(w.store.EnvironmentState(t.Context(), lane, at)) {
			has[v.Key] = v.Digest
		}
		return has
	}
	policy, security = state("aws", 1), state(snapshot.SecurityLane, 2)
	if len(policy) < 2 || len(security) != 1 {
		t.Fatalf("there is nothing to lose: %v, %v", policy, security)
	}
	return policy, security
}

// follows has the registry of a world know the enrollments.
func (w *world) follows(t *testing.T) {
	t.Helper()
	run(t, w.known.Run)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !w.known.Ready() {
		<-tick.C
	}
}

// connect has a proxy have its stream at a world.
func (w *world) connect(t *testing.T, instance string) *registry.Session {
	t.Helper()
	a, err := w.known.Admit(verifiedID)
	if err != nil {
		t.Fatal(err)
	}
	s := must(w.known.Open(registry.Registration{SPIFFEID: verifiedID, Instance: instance}, a))
	t.Cleanup(s.Close)
	return s
}

// verify says what came of it, in a line.
func (w *world) verify(t *testing.T, id string) (string, error) {
	t.Helper()
	res, err := w.fleet(t, viewer).Verify(t.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: id}))
	if err != nil {
		return "", err
	}
	return verifiedLine(res.Msg), nil
}

func verifiedLine(m *adminv1.VerifyResponse) string {
	text := fmt.Sprintf("%d of %s@%d %d@%d", m.GetDocuments(), m.GetEnvironment(), m.GetRevision(), m.GetSecurityDocuments(), m.GetSequence())
	for _, d := range m.GetDeviations() {
		text += " " + strings.TrimPrefix(d.GetType().String(), "DEVIATION_TYPE_") + " " + d.GetKind() + "/" + d.GetNamespace() + "/" + d.GetName()
	}
	return text
}

// still is where a proxy is that is current.
func still(security bool, _ int) int64 {
	if security {
		return 2
	}
	return 1
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	policy, security := w.verifiable(t)
	some := slices.SortedFunc(maps.Keys(policy), resource.Key.Compare)[1]
	revoked := slices.Collect(maps.Keys(security))[0]
	w.follows(t)
	all := fmt.Sprintf("%d of aws@1 1@2", len(policy))
	for name, c := range map[string]struct {
		change func(*asked)
		code   connect.Code // 0: none
		want   string
	}{
		"as it should be": {func(*asked) {}, 0, all},
		"one is lost":     {func(a *asked) { delete(a.policy, some) }, 0, all + " MISSING " + some.String()},
		"one is another":  {func(a *asked) { a.policy[some] = snapshot.Digest{1} }, 0, all + " DIFFERENT " + some.String()},
		"one too many": {func(a *asked) {
			a.policy[resource.Key{Kind: "Policy", Namespace: "shop", Name: "stray"}] = snapshot.Digest{1}
		}, 0, all + " EXTRA Policy/shop/stray"},
		"a revocation is lost": {func(a *asked) { delete(a.security, revoked) }, 0, all + " MISSING Revocation//stolen"},
		"both lanes deviate": {func(a *asked) { a.security[revoked] = snapshot.Digest{1}; delete(a.policy, some) },
			0, all + " DIFFERENT Revocation//stolen MISSING " + some.String()},
		"a build of before": {func(a *asked) { a.security = nil }, 0, fmt.Sprintf("%d of aws@1 0@0", len(policy))},
		"it enforces nothing": {func(a *asked) { a.at = func(security bool, _ int) int64 { return still(security, 0) - 1 } },
			connect.CodeFailedPrecondition, ""},
		"it cuts nobody off": {func(a *asked) {
			a.at = func(security bool, _ int) int64 {
				if security {
					return 0
				}
				return 1
			}
		}, connect.CodeFailedPrecondition, ""},
		"it moves on once": {func(a *asked) {
			delete(a.security, revoked)
			a.at = func(security bool, n int) int64 {
				if security && n == 0 {
					return 1
				}
				return still(security, n)
			}
			a.security[resource.Key{Kind: "Revocation", Name: "other"}] = snapshot.Digest{1}
		}, 0, all + " MISSING Revocation//stolen EXTRA Revocation//other"},
		"it moves on and on": {func(a *asked) {
			delete(a.policy, some)
			a.at = func(security bool, n int) int64 {
				if security {
					return 2
				}
				return int64(n + 1)
			}
		}, connect.CodeAborted, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.connect(t, "i")
			defer s.Close()
			a := asked{maps.Clone(policy), maps.Clone(security), still}
			c.change(&a)
			a.answers(t, s)
			got, err := w.verify(t, verifiedID+"#i")
			if sorted(got) != sorted(c.want) || (err == nil) != (c.code == 0) || err != nil && connect.CodeOf(err) != c.code {
				t.Errorf("got %q and %v, want %q", got, err, c.want)
			}
		})
	}
	if _, err := w.verify(t, verifiedID+"#i"); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("of one that is not connected: %v", err)
	}
	if _, err := w.verify(t, verifiedID+"#j"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("of none: %v", err)
	}
}

// sorted is a line with its words in order: deviations come by bucket.
func sorted(line string) string {
	words := strings.Fields(line)
	slices.Sort(words)
	return strings.Join(words, " ")
}

// Whichever replica is asked, that verifies a proxy which has its stream.
func TestVerifyElsewhere(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	plain := func(s *postgres.Store) api.Store { return s }
	one, two := newReplica(t, dsn, "one", plain), newReplica(t, dsn, "two", plain)
	one.api.TestOnlyInquireWithin(5 * time.Second)
	policy, security := one.verifiable(t)
	one.follows(t)
	two.follows(t)
	s := two.connect(t, "i")
	lost := maps.Clone(security)
	clear(lost)
	asked{policy, lost, still}.answers(t, s)
	known := time.NewTicker(5 * time.Millisecond)
	defer known.Stop()
	var holder string
	for holder == "" { // until the record of its stream is written
		<-known.C
		holder, _ = one.known.Holder(t.Context(), verifiedID+"#i")
	}
	if holder != "two" {
		t.Fatalf("the proxy is at %q", holder)
	}
	want := fmt.Sprintf("%d of aws@1 1@2 MISSING Revocation//stolen", len(policy))
	for name, w := range map[string]*world{"where it is": two, "at the other": one} {
		if got, err := w.verify(t, verifiedID+"#i"); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	two.connect(t, "mute") // it has a stream, and does not say what it has
	for holder = ""; holder == ""; <-known.C {
		holder, _ = one.known.Holder(t.Context(), verifiedID+"#mute")
	}
	if _, err := one.verify(t, verifiedID+"#mute"); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "replica two") {
		t.Errorf("of one that does not answer: %v", err)
	}
}

// behind is an edge with one proxy, that polls at one replica.
type behind struct {
	mu sync.Mutex
	asked
	by      []identity.ID // who tells, one after the other; the last one from then on
	gone    bool          // the proxy is not there any more
	mute    bool          // it does not answer
	waiting atomic.Int64  // questions to one that is mute
}

func (b *behind) become(change func(*behind)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

func (b *behind) Here() []string { return []string{"edge near"} }

func (b *behind) Inspect(ctx context.Context, edge string, proxy storage.ProxyID, ask *proxyv1.Inspect) (*proxyv1.Inspection, identity.ID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.gone, edge != "edge near", proxy != verifiedID+"#i":
		return nil, "", registry.ErrElsewhere
	case b.mute:
		b.waiting.Add(1)
		b.mu.Unlock()
		defer b.mu.Lock()
		<-ctx.Done()
		return nil, "", ctx.Err()
	}
	by := b.by[0]
	b.by = b.by[min(1, len(b.by)-1):]
	return b.inspection(ask, 0), by, nil
}

// toldOf records a proxy as an edge does.
func (w *world) toldOf(t *testing.T, instance string) {
	t.Helper()
	id, now := verifiedID+"#"+instance, time.Now()
	if err := w.store.SaveProxies(t.Context(), "edge near", []storage.Proxy{{
		ID: storage.ProxyID(id), SPIFFEID: verifiedID, Instance: instance, Environment: "aws", Replica: "edge near", RegisteredAt: now, LastSeen: now,
		Status: must(proto.Marshal(&adminv1.Proxy{Id: id, Environment: "aws", Connection: adminv1.Connection_CONNECTION_CONNECTED})),
	}}); err != nil {
		t.Fatal(err)
	}
}

// A proxy that is connected to an edge is verified by a replica that the edge asks for
// questions, whichever replica is asked; and it is said that this is the edge's word.
func TestVerifyBehindAnEdge(t *testing.T) {
	const first, second identity.ID = "spiffe://prod.example/edge/1", "spiffe://prod.example/edge/2"
	dsn := storagetest.Postgres(t, postgres.Migrate)
	plain := func(s *postgres.Store) api.Store { return s }
	near := &behind{}
	one, two := newReplica(t, dsn, "one", plain), newReplicaOf(t, dsn, "two", plain, near)
	one.api.TestOnlyInquireWithin(2 * time.Second)
	policy, security := one.verifiable(t)
	some := slices.SortedFunc(maps.Keys(policy), resource.Key.Compare)[1]
	two.follows(t)
	one.toldOf(t, "i")
	all := fmt.Sprintf("%d of aws@1 1@2", len(policy))
	for name, c := range map[string]struct {
		change func(*behind)
		code   connect.Code // 0: none
		want   string
		says   string
	}{
		"as it should be":     {func(*behind) {}, 0, all, string(first)},
		"one is lost":         {func(b *behind) { delete(b.policy, some) }, 0, all + " MISSING " + some.String(), string(first)},
		"it is gone":          {func(b *behind) { b.gone = true }, connect.CodeUnavailable, "", "has gone to another replica"},
		"two edges have told": {func(b *behind) { b.by = []identity.ID{second, first} }, connect.CodeAborted, "", "has moved on"},
	} {
		for where, w := range map[string]*world{"where it is polled": two, "at the other": one} {
			near.become(func(b *behind) {
				b.asked, b.by, b.gone = asked{maps.Clone(policy), maps.Clone(security), still}, []identity.ID{first}, false
				c.change(b)
			})
			res, err := w.fleet(t, viewer).Verify(t.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: verifiedID + "#i"}))
			if err != nil {
				if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s, %s: %v", name, where, err)
				}
			} else if got := verifiedLine(res.Msg); got != c.want || res.Msg.GetToldBy() != c.says {
				t.Errorf("%s, %s: %q, told by %q, want %q", name, where, got, res.Msg.GetToldBy(), c.want)
			}
		}
	}
	near.become(func(b *behind) { b.gone, b.mute = false, true })
	if _, err := one.verify(t, verifiedID+"#i"); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "edge near") {
		t.Errorf("of one that does not answer: %v", err)
	}
}

// However many questions an edge leaves without an answer: proxies that have their stream
// here are verified, whichever replica is asked.
func TestEdgesHoldUpNobodyElse(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	plain := func(s *postgres.Store) api.Store { return s }
	one := newReplica(t, dsn, "one", plain)
	one.api.TestOnlyInquireWithin(5 * time.Second) // a question is given up after ten
	policy, security := one.verifiable(t)
	one.toldOf(t, "i")
	const turns = 8
	for range turns {
		must(one.store.Ask(t.Context(), storage.Inquiry{Replica: "edge near", Proxy: verifiedID + "#i"}))
	}
	near := &behind{mute: true}
	two := newReplicaOf(t, dsn, "two", plain, near)
	two.follows(t)
	s := two.connect(t, "j")
	asked{policy, security, still}.answers(t, s)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for holder := ""; near.waiting.Load() < turns || holder == ""; <-tick.C {
		holder, _ = one.known.Holder(t.Context(), verifiedID+"#j")
	}
	began := time.Now()
	for name, w := range map[string]*world{"where it is": two, "at the other": one} {
		if _, err := w.verify(t, verifiedID+"#j"); err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(began))
		}
	}
}
