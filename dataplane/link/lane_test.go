package link_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// sequence is the security lane of our fleet at a sequence.
func sequence(t testing.TB, n snapshot.Revision, contents map[string]string) *snapshot.Snapshot {
	t.Helper()
	return place{snapshot.SecurityLane, 1, n, 1}.sign(t, docs(t, contents))
}

// Both lanes are enforced, proven and kept, each for itself.
func TestLanesAreApart(t *testing.T) {
	l, policy, security := newLab(t), newTable(), newTable()
	k, stop := l.start(t, policy, secured(security))
	v := l.stream(t)
	if h := v.hello(t); h.GetCurrent() != nil || h.GetSecurity() != nil {
		t.Errorf("hello of a new proxy is %v", h)
	}
	first := sequence(t, 1, nil)
	ack := v.secure(t, nil, first)
	wantProof(t, ack, first)
	if k.Enforcing() || !k.Secured() {
		t.Errorf("enforcing %t, secured %t", k.Enforcing(), k.Secured())
	}
	one := at(t, 700, map[string]string{"a": "1"})
	wantProof(t, v.push(t, nil, one), one)
	second := sequence(t, 2, map[string]string{"stolen": "1"})
	wantProof(t, v.secure(t, first, second), second)
	policy.wantEnforced(t, one)
	security.wantEnforced(t, second)
	v.securityAck(t, second, 2)
	v.persisted(t, 700)
	for name, want := range map[string]float64{
		"sallyport_security_sequence": 2, "sallyport_security_persisted_sequence": 2, "sallyport_security_epoch": 1,
		"sallyport_snapshot_revision": 700, "sallyport_snapshot_persisted_revision": 700,
	} {
		if got := l.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	v.end()
	v = l.stream(t)
	h := v.hello(t)
	wantProof(t, h.GetCurrent(), one)
	wantProof(t, h.GetSecurity(), second)
	if h.GetSecurity().GetPersistedRevision() != 2 {
		t.Errorf("hello says %v", h.GetSecurity())
	}
	stop()

	// Without a control plane both are there again.
	policy, security = newTable(), newTable()
	k, _ = l.start(t, policy, secured(security), alone)
	l.settled(t)
	policy.wantEnforced(t, one)
	security.wantEnforced(t, second)
	if !k.Enforcing() || !k.Secured() {
		t.Errorf("after a restart: enforcing %t, secured %t", k.Enforcing(), k.Secured())
	}
}

// The security lane is of every environment: it stays when the proxy moves.
func TestSecurityLaneOutlivesAMove(t *testing.T) {
	l, security := newLab(t), newTable()
	l.start(t, newTable(), secured(security))
	v := l.stream(t)
	first := sequence(t, 1, nil)
	v.secure(t, nil, first)
	v.push(t, nil, at(t, 100, map[string]string{"a": "aws"}))
	l.control.admit("gcp-prod")
	v.end()
	v = l.stream(t)
	h := v.hello(t)
	wantProof(t, h.GetSecurity(), first)
	if h.GetCurrent() != nil {
		t.Errorf("says of the new environment that it enforces %v", h.GetCurrent())
	}
	second := sequence(t, 2, map[string]string{"stolen": "1"})
	wantProof(t, v.secure(t, first, second), second)
}

// What is not the newest of the security lane, signed and whole, is refused
// there, by its own words, and what is meant for a lane is good for no other.
func TestHostileSecurityUpdatesAreRefused(t *testing.T) {
	now, next := map[string]string{"a": "1"}, map[string]string{"a": "2"}
	base := sequence(t, 10, now)
	full := func(p place) []*proxyv1.Update {
		return slices.Collect(snapshot.Updates(nil, p.sign(t, docs(t, next))))
	}
	tampered := proto.CloneOf(slices.Collect(snapshot.Updates(base, sequence(t, 11, next)))[0])
	tampered.Documents = nil
	for _, c := range []struct {
		name, reason string
		parts        []*proxyv1.Update
	}{
		{"a revocation left out", "root_mismatch", []*proxyv1.Update{tampered}},
		{"signed with another key", "bad_signature", full(place{snapshot.SecurityLane, 1, 11, 2})},
		{"an older sequence", "older_revision", full(place{snapshot.SecurityLane, 1, 9, 1})},
		{"another state at the same sequence", "fork", full(place{snapshot.SecurityLane, 1, 10, 1})},
		{"a snapshot of our environment", "wrong_environment", full(place{env, 1, 11, 1})},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, security := newLab(t), newTable()
			l.start(t, newTable(), secured(security))
			v := l.stream(t)
			v.secure(t, nil, base)
			v.sendSecurity(c.parts...)
			if r := v.securityRefusal(t); r.GetReason() != c.reason {
				t.Errorf("refused with %v, want %s", r, c.reason)
			}
			security.wantEnforced(t, base)
			good := sequence(t, 12, next)
			wantProof(t, v.secure(t, base, good), good)
		})
	}
	l, policy := newLab(t), newTable()
	l.start(t, policy)
	v := l.stream(t)
	v.send(full(place{snapshot.SecurityLane, 1, 11, 1})...)
	if r := v.refusal(t); r.GetReason() != "wrong_environment" {
		t.Errorf("as policy it was refused with %v", r)
	}
	policy.wantEnforced(t, nil)
}

// A control plane cannot have a proxy take the lane for its environment.
func TestNobodyIsAdmittedToTheLane(t *testing.T) {
	l := newLab(t)
	l.control.admit(snapshot.SecurityLane)
	l.start(t, newTable())
	eventually(t, "two registrations", func() bool { return len(l.control.registered()) >= 2 })
	select {
	case <-l.control.streams:
		t.Error("a stream was opened")
	default:
	}
}

// What is known of revocations has an age of its own.
func TestSecurityAge(t *testing.T) {
	l, h := newLab(t), newHands()
	clock := func(c *link.Config) { c.Now, c.Heartbeat = h.now, 5*time.Millisecond }
	k, stop := l.start(t, newTable(), clock)
	v := l.stream(t)
	first, one := sequence(t, 1, nil), at(t, 10, map[string]string{"a": "1"})
	v.secure(t, nil, first)
	v.securityAck(t, first, 1)
	v.push(t, nil, one)
	v.persisted(t, 10)
	v.confirm(freshness(t, first.Head(), h.now().Add(-time.Minute)))
	v.push(t, one, one)
	age, known := k.SecurityAge()
	if _, policy := k.Age(); !known || age != time.Minute || policy {
		t.Errorf("age is %s, %t; the policy's is known: %t", age, known, policy)
	}
	hear(t, v, func(m *proxyv1.StreamRequest) (struct{}, bool) {
		b := m.GetHeartbeat()
		return struct{}{}, b.GetSecurityAge().AsDuration() == time.Minute && b.GetConfigurationAge() == nil
	})
	// A statement about another state at this sequence confirms nothing.
	v.confirm(freshness(t, sequence(t, 1, map[string]string{"a": "1"}).Head(), h.now()))
	v.confirm(freshness(t, one.Head(), h.now()))
	v.push(t, one, one)
	if age, _ := k.SecurityAge(); age != time.Minute {
		t.Errorf("age is %s after a statement that confirms something else", age)
	}
	if age, known := k.Age(); !known || age != 0 {
		t.Errorf("the policy's age is %s, %t", age, known)
	}
	stop()
	h.advance(time.Hour)
	k, _ = l.start(t, newTable(), clock, alone)
	l.settled(t)
	if age, known := k.SecurityAge(); !known || age != time.Hour+time.Minute {
		t.Errorf("after a restart the age is %s, %t", age, known)
	}
}

// A security state that is damaged, missing, another's or not the newest is none:
// what was revoked since would pass again. Policy goes on, and the control plane
// puts it right.
func TestDamagedSecurityState(t *testing.T) {
	first, second := sequence(t, 1, nil), sequence(t, 2, map[string]string{"stolen": "1"})
	policy := at(t, 10, map[string]string{"a": "1"})
	var older, damaged []byte
	setUp := func(t *testing.T) *lab {
		t.Helper()
		l := newLab(t)
		_, stop := l.start(t, newTable())
		v := l.stream(t)
		v.push(t, nil, policy)
		v.persisted(t, 10)
		v.secure(t, nil, first)
		v.securityAck(t, first, 1)
		older = l.read(t, "security-last-good")
		v.secure(t, first, second)
		v.securityAck(t, second, 2)
		stop()
		if _, err := os.Stat(l.file("security-last-good.previous")); err == nil {
			t.Error("a previous generation is kept")
		}
		damaged = l.read(t, "security-last-good")
		damaged[len(damaged)/2] ^= 1
		return l
	}
	for name, c := range map[string]struct {
		damage  func(t *testing.T, l *lab)
		secured bool
	}{
		"untouched":        {func(*testing.T, *lab) {}, true},
		"the mark is gone": {func(_ *testing.T, l *lab) { _ = os.Remove(l.file("security-high-water-mark")) }, true},
		"a bit flipped":    {func(t *testing.T, l *lab) { t.Helper(); l.write(t, "security-last-good", damaged) }, false},
		"empty":            {func(t *testing.T, l *lab) { t.Helper(); l.write(t, "security-last-good", nil) }, false},
		"gone":             {func(_ *testing.T, l *lab) { _ = os.Remove(l.file("security-last-good")) }, false},
		"of a while ago":   {func(t *testing.T, l *lab) { t.Helper(); l.write(t, "security-last-good", older) }, false},
		"policy in its place": {func(t *testing.T, l *lab) {
			t.Helper()
			l.write(t, "security-last-good", l.read(t, "last-good"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := setUp(t)
			c.damage(t, l)
			table, security := newTable(), newTable()
			k, stop := l.start(t, table, secured(security), alone)
			l.settled(t)
			table.wantEnforced(t, policy)
			if k.Secured() != c.secured {
				t.Errorf("secured: %t", k.Secured())
			}
			if !c.secured {
				security.wantEnforced(t, nil)
			}
			stop()

			security = newTable()
			_, _ = l.start(t, newTable(), secured(security))
			v := l.stream(t)
			v.sendSecurity(slices.Collect(snapshot.Updates(nil, first))...)
			if r := v.securityRefusal(t); r.GetReason() != "older_revision" {
				t.Errorf("what is older was refused with %v", r)
			}
			wantProof(t, v.secure(t, nil, second), second)
			security.wantEnforced(t, second)
		})
	}
}
