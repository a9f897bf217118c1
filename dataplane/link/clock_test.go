package link_test

import (
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// hands are a clock that the test moves.
type hands struct{ at atomic.Int64 }

func newHands() *hands {
	h := &hands{}
	h.at.Store(time.Now().UnixNano())
	return h
}

func (h *hands) now() time.Time           { return time.Unix(0, h.at.Load()) }
func (h *hands) advance(by time.Duration) { h.at.Add(int64(by)) }

// The configuration age counts from the newest statement that confirms what is
// enforced, and from nothing else.
func TestConfigurationAge(t *testing.T) {
	h := newHands()
	began := h.now()
	enforced := at(t, 10, map[string]string{"a": "1"})
	later := at(t, 11, map[string]string{"a": "2"})
	elsewhere := place{"gcp-prod", 1, 10, 1}.sign(t, docs(t, map[string]string{"a": "1"}))
	fork := at(t, 10, map[string]string{"a": "evil"})
	ago := func(s *snapshot.Snapshot, d time.Duration) *proxyv1.SignedFreshness {
		return freshness(t, s.Head(), began.Add(-d))
	}
	foreign := ago(enforced, 0)
	foreign.Signature = ago(elsewhere, 0).GetSignature()
	for _, c := range []struct {
		name    string
		said    []*proxyv1.SignedFreshness
		age     time.Duration // negative: unknown
		refused float64
	}{
		{"nothing was said", nil, -1, 0},
		{"it is the newest", []*proxyv1.SignedFreshness{ago(enforced, 0)}, 0, 0},
		{"it was, a while ago", []*proxyv1.SignedFreshness{ago(enforced, 7*time.Minute)}, 7 * time.Minute, 0},
		{"what came before it was", []*proxyv1.SignedFreshness{ago(at(t, 9, nil), time.Minute)}, time.Minute, 0},
		{"something later is the newest", []*proxyv1.SignedFreshness{ago(enforced, time.Minute), ago(later, 0)}, time.Minute, 0},
		{"an older statement comes again", []*proxyv1.SignedFreshness{ago(enforced, time.Minute), ago(enforced, time.Hour)}, time.Minute, 0},
		{"another snapshot at this revision", []*proxyv1.SignedFreshness{ago(enforced, time.Minute), ago(fork, 0)}, time.Minute, 1},
		{"of another environment", []*proxyv1.SignedFreshness{ago(elsewhere, 0)}, -1, 1},
		{"not signed", []*proxyv1.SignedFreshness{foreign}, -1, 1},
		{"a clock ahead of ours", []*proxyv1.SignedFreshness{ago(enforced, -90*time.Second)}, 0, 0},
		{"from the future", []*proxyv1.SignedFreshness{ago(enforced, -3*time.Minute)}, -1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, e := newLab(t), newTable()
			k, _ := l.start(t, e, func(cfg *link.Config) { cfg.Now = h.now })
			v := l.stream(t)
			v.push(t, nil, enforced)
			v.persisted(t, 10)
			for _, f := range c.said {
				v.confirm(f)
			}
			// What was sent before an update was taken before it is acknowledged.
			v.push(t, enforced, enforced)
			age, known := k.Age()
			if known != (c.age >= 0) || known && age != c.age {
				t.Errorf("age is %s, %t; want %s", age, known, c.age)
			}
			if got := l.metric(t, "sallyport_link_refusals_total"); got != c.refused {
				t.Errorf("refused %v statements, want %v", got, c.refused)
			}
		})
	}
}

func TestAgeGrowsAndIsReported(t *testing.T) {
	l, e, h := newLab(t), newTable(), newHands()
	k, _ := l.start(t, e, func(c *link.Config) { c.Now, c.Heartbeat = h.now, 5*time.Millisecond })
	v := l.stream(t)
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"})
	v.push(t, nil, one)
	v.confirm(freshness(t, one.Head(), h.now()))
	eventually(t, "an age", func() bool { _, known := k.Age(); return known })
	h.advance(42 * time.Second)
	hear(t, v, func(m *proxyv1.StreamRequest) (struct{}, bool) {
		return struct{}{}, m.GetHeartbeat().GetConfigurationAge().AsDuration() == 42*time.Second
	})
	// A statement about what is not enforced yet counts as soon as it is.
	v.confirm(freshness(t, two.Head(), h.now()))
	v.push(t, one, two)
	if age, known := k.Age(); !known || age != 0 {
		t.Errorf("age is %s, %t; want 0", age, known)
	}
}

// A restart does not make a snapshot any fresher, nor does it make it stale.
func TestAgeSurvivesRestart(t *testing.T) {
	l, h := newLab(t), newHands()
	clock := func(c *link.Config) { c.Now = h.now }
	_, stop := l.start(t, newTable(), clock)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	v.push(t, nil, one)
	v.persisted(t, 10)
	v.confirm(freshness(t, one.Head(), h.now()))
	v.push(t, one, one)
	stop() // what is due is written before it ends
	h.advance(time.Hour)
	k, stop := l.start(t, newTable(), clock, alone)
	l.settled(t)
	if age, known := k.Age(); !known || age != time.Hour {
		t.Errorf("age is %s, %t; want 1h", age, known)
	}
	stop()

	// A statement that somebody wrote there himself says nothing.
	forged := freshness(t, one.Head(), h.now())
	forged.Signature[0] ^= 1
	b, err := proto.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	l.write(t, "freshness", link.Sealed(b))
	k, _ = l.start(t, newTable(), clock, alone)
	l.settled(t)
	if age, known := k.Age(); known {
		t.Errorf("believes a forged statement: age is %s", age)
	}
}
