package registry_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/registry"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// rule has an operator rule something through a replica.
func rule(t testing.TB, r *replica, subject string, revise func(*storage.Ruling)) {
	t.Helper()
	e := storage.AuditEntry{Caller: "alice", Action: "/Rule", Allowed: true}
	if err := r.Rule(t.Context(), subject, e, func(ruling storage.Ruling, _ int) (storage.Ruling, error) {
		ruling.Caller, ruling.At = "alice", time.Now()
		revise(&ruling)
		return ruling, nil
	}); err != nil {
		t.Fatal(err)
	}
}

func approve(r *storage.Ruling)    { r.Approval = storage.Approved }
func refuse(r *storage.Ruling)     { r.Approval = storage.Refused }
func quarantine(r *storage.Ruling) { r.Quarantined = true }
func release(r *storage.Ruling)    { r.Quarantined = false }

func register(t testing.TB, r *replica, id string) error {
	t.Helper()
	_, err := r.Register(registry.Registration{SPIFFEID: id, Instance: "i", Build: "1.0"})
	return err
}

// What operators rule through one replica holds at the others.
func TestStanding(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(
		enroll(t, "automatic", one, "aws"),
		enrollWith(t, "manual", &resourcev1.Enrollment{SpiffeId: two, Environment: "aws", Approval: resourcev1.Approval_APPROVAL_MANUAL}),
	)
	a, b := l.ready("a"), l.ready("b")
	admitted := func(what, id string, want bool) {
		t.Helper()
		for _, r := range []*replica{a, b} {
			eventually(t, what, func() bool {
				got, err := r.Admit(id)
				return (err == nil) == want && (err == nil || errors.Is(err, registry.ErrNotAdmitted) && got.Changed != nil)
			})
		}
	}
	standing := func(id string, want adminv1.Standing) {
		t.Helper()
		if got := l.proxy(a, id, "i").GetStanding(); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	admitted("at once", one, true)
	admitted("not before it is approved", two, false)
	_ = register(t, a, one)
	if err := register(t, a, two); !errors.Is(err, registry.ErrNotAdmitted) || errors.Is(err, registry.ErrBarred) {
		t.Errorf("got %v", err)
	}
	standing(one, adminv1.Standing_STANDING_UNSPECIFIED)
	standing(two, adminv1.Standing_STANDING_AWAITING_APPROVAL)
	if got := l.proxy(a, two, "i").GetConnection(); got != adminv1.Connection_CONNECTION_PENDING {
		t.Errorf("it is %s", got)
	}

	rule(t, a, two, approve)
	admitted("approved", two, true)
	standing(two, adminv1.Standing_STANDING_APPROVED)
	rule(t, b, two, quarantine)
	admitted("quarantined", two, false)
	if err := register(t, a, two); !errors.Is(err, registry.ErrBarred) {
		t.Errorf("got %v", err)
	}
	standing(two, adminv1.Standing_STANDING_QUARANTINED)
	rule(t, a, two, release)
	admitted("as before", two, true)

	rule(t, a, one, refuse) // whatever its Enrollment says
	admitted("refused", one, false)
	standing(one, adminv1.Standing_STANDING_REFUSED)
	if p := l.proxy(a, one, "i"); p.GetStandingRuling().GetCaller() != "alice" {
		t.Errorf("it was %v", p.GetStandingRuling())
	}
	a.stop()
	b.stop()
	c := l.ready("c")
	if _, err := c.Admit(one); !errors.Is(err, registry.ErrBarred) {
		t.Errorf("a replica that was started later says %v", err)
	}
	rule(t, c, one, approve)
	if _, err := c.Admit(one); err != nil {
		t.Errorf("approved: %v", err)
	}
}

// One enrollment that wants approval is enough, beside others that do not.
func TestManualGoesFirst(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(
		enroll(t, "a", "spiffe://prod.example/proxy/aws/*", "aws"),
		enrollWith(t, "b", &resourcev1.Enrollment{SpiffeId: one, Environment: "aws", Approval: resourcev1.Approval_APPROVAL_MANUAL}),
		enroll(t, "c", "spiffe://prod.example/proxy/**", "aws"),
	)
	r := l.ready("a")
	if _, err := r.Admit(one); !errors.Is(err, registry.ErrNotAdmitted) {
		t.Errorf("got %v", err)
	}
	l.admitted(r, two, "aws")
}

// Nothing is recorded of whom operators keep out: it could fill the list, and
// would look as if it were listened to.
func TestBarredAreNotHeard(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	s := open(t, r, one, "i")
	rule(t, r, one, quarantine)
	<-s.Told()
	s.Close()
	before := l.proxy(r, one, "i")
	if before.GetConnection() != adminv1.Connection_CONNECTION_LOST || before.GetEnvironment() != "aws" {
		t.Errorf("it is %v", before)
	}
	l.clock.advance(time.Second)
	for _, instance := range []string{"i", "j"} {
		if _, err := r.Register(registry.Registration{SPIFFEID: one, Instance: instance}); !errors.Is(err, registry.ErrBarred) {
			t.Errorf("got %v", err)
		}
	}
	if after := l.proxy(r, one, "i"); !after.GetLastSeenAt().AsTime().Equal(before.GetLastSeenAt().AsTime()) || r.Known() != 1 {
		t.Errorf("%d are known, and it is %v", r.Known(), after)
	}
}

// A stream that is being opened while its SPIFFE ID is quarantined is not.
func TestQuarantineBetweenAdmitAndOpen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", one, "aws"))
	r := l.ready("a")
	a, err := r.Admit(one)
	if err != nil {
		t.Fatal(err)
	}
	rule(t, r, one, quarantine)
	if _, err := r.Open(registry.Registration{SPIFFEID: one, Instance: "i"}, a); !errors.Is(err, registry.ErrBarred) {
		t.Errorf("got %v", err)
	}
}

// A ruling wakes the sessions that it is about, on whatever replica, and no others.
func TestRulingsReachSessions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	a, b := l.ready("a"), l.ready("b")
	first, second, other := open(t, b, one, "1"), open(t, b, one, "2"), open(t, b, two, "1")
	quiet := func(s *registry.Session) {
		t.Helper()
		select {
		case <-s.Told():
			t.Error("one was told whom it is not about")
		default:
		}
	}
	rule(t, a, one, approve)
	<-first.Told()
	<-second.Told()
	quiet(other)
	rule(t, a, one+"#2", func(r *storage.Ruling) { r.Draining = true })
	<-second.Told()
	if !second.Draining() || first.Draining() {
		t.Error("another is to drain")
	}
	quiet(first)
	rule(t, a, one+"#2", func(r *storage.Ruling) { r.Draining = false })
	<-second.Told()
	if second.Draining() {
		t.Error("it is to drain still")
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", "spiffe://prod.example/proxy/aws/*", "aws"))
	a, b := l.ready("a"), l.ready("b")
	s := open(t, a, one, "i")
	id := registry.ProxyID(one, "i")
	forget := func(r *replica, want error) {
		t.Helper()
		if err := r.Forget(t.Context(), id, storage.AuditEntry{Caller: "alice", Action: "/Forget"}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	forget(a, storage.ErrHeard)
	eventually(t, "it is saved", func() bool { _, err := l.store.Proxy(t.Context(), id); return err == nil })
	forget(b, storage.ErrHeard)
	rule(t, b, string(id), func(r *storage.Ruling) { r.Labels = map[string]string{"tier": "gold"} })
	s.Close()
	eventually(t, "it is saved as lost", func() bool { p, err := l.store.Proxy(t.Context(), id); return err == nil && p.Replica == "" })
	forget(b, storage.ErrHeard)
	l.clock.advance(registry.ForgetAfter + time.Second)
	forget(b, nil)
	forget(b, storage.ErrNotFound)
	for _, r := range []*replica{a, b} {
		eventually(t, "nothing is known of it", func() bool { return l.proxy(r, one, "i") == nil })
	}
	_ = register(t, a, one)
	eventually(t, "it is back as a new one", func() bool { return len(l.proxy(a, one, "i").GetOperatorLabels()) == 0 })
}

// Where a proxy is, operators know best, then its Enrollment, then the proxy.
func TestPlace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", one, "aws", "cloud=aws"), enroll(t, "f", two, "aws"))
	r := l.ready("a")
	began := time.Now().Add(-time.Hour)
	for _, id := range []string{one, two} {
		if _, err := r.Register(registry.Registration{SPIFFEID: id, Instance: "i", Cloud: "moon", Region: "crater", StartedAt: began}); err != nil {
			t.Fatal(err)
		}
	}
	place := func(id, cloud, region string, claimed bool) {
		t.Helper()
		p := l.proxy(r, id, "i")
		if got := p.GetPlace(); got.GetCloud() != cloud || got.GetRegion() != region || got.GetClaimed() != claimed || !p.GetStartedAt().AsTime().Equal(began) {
			t.Errorf("%s is in %v, since %v", id, got, p.GetStartedAt().AsTime())
		}
	}
	place(one, "aws", "crater", true)
	place(two, "moon", "crater", true)
	rule(t, r, one+"#i", func(r *storage.Ruling) { r.Labels = map[string]string{"region": "eu-central-1"} })
	place(one, "aws", "eu-central-1", false)
}

func TestLoad(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "e", one, "aws"))
	r := l.ready("a")
	s := open(t, r, one, "i")
	began := time.Now()
	beat := func(after time.Duration, requests int64, busy time.Duration) *adminv1.Load {
		s.Beat(&proxyv1.Heartbeat{
			SentAt: timestamppb.New(began.Add(after)), Requests: requests, OpenRequests: 7, Draining: true,
			ProcessorTime: durationpb.New(busy), Processors: 4,
		})
		return l.proxy(r, one, "i").GetLoad()
	}
	if got := beat(0, 1000, time.Minute); got != nil {
		t.Errorf("after one heartbeat: %v", got)
	}
	got := beat(10*time.Second, 1500, 70*time.Second)
	if got.GetRequestsPerSecond() != 50 || got.GetOpenRequests() != 7 || got.GetProcessorShare() != 0.25 {
		t.Errorf("got %v", got)
	}
	for what, h := range map[string]struct {
		after    time.Duration
		requests int64
		busy     time.Duration
	}{
		"back in time":   {-time.Second, 2000, 80 * time.Second},
		"fewer requests": {time.Second, -1, 80 * time.Second},
		"less work":      {time.Second, 1, -time.Second},
		"no time":        {0, 1, 1},
	} {
		beat(time.Hour, 1500, time.Hour)
		if got := beat(time.Hour+h.after, 1500+h.requests, time.Hour+h.busy); got != nil {
			t.Errorf("%s: %v", what, got)
		}
	}
	if !l.proxy(r, one, "i").GetDraining() {
		t.Error("it drains")
	}
}
