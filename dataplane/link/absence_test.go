package link_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/link"
)

// The control plane and the Workload API are away for days, until every SVID has
// expired. What was in force stays so, its ages grow through a restart as well, and
// when both are back the proxy is current again without another.
func TestDaysWithoutAControlPlane(t *testing.T) {
	h := newHands()
	l := newLabAt(t, h.now)
	clock := func(c *link.Config) { c.Now = h.now }
	policy, security := newTable(), newTable()
	k, stop := l.start(t, policy, secured(security), clock)
	v := l.stream(t)
	one, first := at(t, 10, map[string]string{"a": "1"}), sequence(t, 3, map[string]string{"stolen": "1"})
	v.secure(t, nil, first)
	v.securityAck(t, first, 3)
	v.push(t, nil, one)
	v.persisted(t, 10)
	v.confirm(freshness(t, one.Head(), h.now()))
	v.confirm(freshness(t, first.Head(), h.now()))
	ages := func(what string, want time.Duration) {
		t.Helper()
		eventually(t, what, func() bool {
			configuration, known := k.Age()
			revocations, alike := k.SecurityAge()
			return known && alike && configuration == want && revocations == want
		})
	}
	ages("both are confirmed", 0)

	for _, w := range l.workloads {
		w.stop()
	}
	const days = 5 * 24 * time.Hour
	h.advance(days)
	v.end()
	eventually(t, "the identity has expired", func() bool { return !l.source.Ready() })
	policy.wantEnforced(t, one)
	security.wantEnforced(t, first)
	ages("both are of days ago", days)
	stop()
	policy, security = newTable(), newTable()
	k, _ = l.start(t, policy, secured(security), clock)
	eventually(t, "last-good is in force", func() bool { return k.Enforcing() && k.Secured() })
	policy.wantEnforced(t, one)
	security.wantEnforced(t, first)
	ages("both are of days ago after a restart too", days)
	if got := l.metric(t, "sallyport_configuration_age_seconds"); got != days.Seconds() {
		t.Errorf("the age is shown as %v", got)
	}

	for _, w := range l.workloads {
		l.attest(t, w)
	}
	v = l.stream(t)
	hello := v.hello(t)
	wantProof(t, hello.GetCurrent(), one)
	wantProof(t, hello.GetSecurity(), first)
	two := at(t, 11, map[string]string{"a": "2"})
	wantProof(t, v.push(t, one, two), two)
	v.confirm(freshness(t, two.Head(), h.now()))
	v.confirm(freshness(t, first.Head(), h.now()))
	ages("both are confirmed again", 0)
	policy.wantEnforced(t, two)
}
