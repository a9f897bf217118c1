package registry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// begin is the time from which those of the tests below count, in minutes.
var begin = time.Now().Add(-time.Hour).UTC()

func minute(n int) time.Time { return begin.Add(time.Duration(n) * time.Minute) }

// process is a proxy process that signs, but for a nil key.
type process struct {
	*registry.Session
	key *proof.Key
}

// process registers and opens a session, as link does.
func (l *lab) process(r *replica, id, instance string, k *proof.Key) process {
	l.Helper()
	reg := registry.Registration{SPIFFEID: id, Instance: instance, StartedAt: begin}
	if k != nil {
		reg.AckKey = k.Public()
	}
	if _, err := r.Register(reg); err != nil {
		l.Fatal(err)
	}
	return process{open(l, r, id, instance), k}
}

func newKey(t testing.TB) *proof.Key {
	t.Helper()
	k, err := proof.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// acks acknowledges a snapshot that is in force since a minute.
func (p process) acks(s *snapshot.Snapshot, since int, change ...func(*proxyv1.Ack)) {
	ack := ackOf(s, change...)
	if p.key != nil {
		p.key.Sign(ack, s.Head().Environment, minute(since), minute(since))
	}
	p.Acked(ack, s)
}

// status is "enforcing/late/away/kept out" of aws, and each proxy with since when.
func (l *lab) status(r *replica, revision snapshot.Revision) string {
	l.Helper()
	all, err := r.Status(l.Context(), map[string]snapshot.Revision{"aws": revision})
	if err != nil {
		l.Fatal(err)
	}
	e := all[0]
	text := fmt.Sprintf("%d/%d/%d/%d", e.GetEnforcing(), e.GetLate(), e.GetAway(), e.GetKeptOut())
	for _, p := range e.GetProxies() {
		text += " [" + p.GetId()[strings.LastIndexByte(p.GetId(), '/')+1:]
		if p.GetSince() != nil {
			text += fmt.Sprintf(" since %d", int(p.GetSince().AsTime().Sub(begin).Minutes()))
		}
		if p.GetOrBefore() {
			text += " or before"
		}
		if p.GetSigned() {
			text += " signed"
		}
		if p.GetReason() != "" {
			text += " " + p.GetReason()
		}
		text += "]"
	}
	return text
}

// is waits until the status is as it should be: records are written a moment later.
func (l *lab) is(r *replica, revision snapshot.Revision, want string) {
	l.Helper()
	got := ""
	l.Cleanup(func() {
		if l.Failed() {
			l.Logf("the last status was %s", got)
		}
	})
	eventually(l, want, func() bool { got = l.status(r, revision); return got == want })
}

func TestStatus(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	six, seven, eight := at(t, 6, "p"), at(t, 7, "p", "q"), at(t, 8, "p", "q")
	a, b := l.process(r, one, "a", newKey(t)), l.process(r, two, "b", nil)
	defer b.Close()
	l.is(r, 7, "0/2/0/0 [one#a has not acknowledged anything yet] [two#b has not acknowledged anything yet]")

	a.acks(six, 10)
	b.Refused(&proxyv1.Refusal{Reason: "root_mismatch", Detail: "12"})
	l.is(r, 7, "0/2/0/0 [one#a is at revision 6] [two#b refused an update: root_mismatch: 12]")
	a.acks(seven, 11)
	a.acks(eight, 12)
	a.acks(eight, 13) // said again, when it is on disk
	b.acks(seven, 0, rejecting(seven, "q"))
	l.is(r, 7, "1/1/0/0 [two#b rejected 1 resources, the first is Policy/shop/q: too new] [one#a since 11 signed]")
	l.is(r, 6, "1/1/0/0 [two#b rejected 1 resources, the first is Policy/shop/q: too new] [one#a since 10 signed]")
	l.is(r, 3, "1/1/0/0 [two#b rejected 1 resources, the first is Policy/shop/q: too new] [one#a since 10 or before signed]")

	// One of a build that does not sign: its word counts from when it came.
	b.acks(eight, 0)
	l.is(r, 7, "2/0/0/0 [one#a since 11 signed] [two#b since 60 or before]")

	// What a proxy enforced before it drifted says nothing of what it enforces since.
	a.acks(eight, 20, func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) })
	l.is(r, 7, "1/1/0/0 [one#a drift: what it enforces is not what it received] [two#b since 60 or before]")
	a.acks(eight, 21)
	l.is(r, 8, "2/0/0/0 [one#a since 21 signed] [two#b since 60]")

	a.Close()
	l.is(r, 8, "1/0/1/0 [one#a is not connected; it did enforce it, at revision 8] [two#b since 60]")
	l.is(r, 9, "0/1/1/0 [two#b is at revision 8] [one#a is not connected; then it was at revision 8]")
	rule(t, r, one, func(r *storage.Ruling) { r.Quarantined, r.Reason = true, "odd traffic" })
	l.is(r, 8, "1/0/0/1 [one#a is quarantined: odd traffic] [two#b since 60]")
}

// A stream that is opened anew is of the same process, unless that has registered with
// another key: then nothing is known of before.
func TestProofsAreOfOneProcess(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r, other := l.ready("a"), l.ready("b")
	l.admitted(r, one, "aws")
	l.admitted(other, one, "aws")
	k, six, seven := newKey(t), at(t, 6, "p"), at(t, 7, "p")
	a := l.process(r, one, "a", k)
	a.acks(six, 10)
	a.acks(seven, 11)
	a.Close()
	a = l.process(r, one, "a", k)
	l.is(r, 6, "0/1/0/0 [one#a has not acknowledged anything yet]")
	a.acks(seven, 11)
	l.is(r, 6, "1/0/0/0 [one#a since 10 signed]")

	// Elsewhere it says since when it enforces what it does.
	moved := l.process(other, one, "a", k)
	moved.acks(seven, 11)
	l.is(other, 7, "1/0/0/0 [one#a since 11 signed]")
	l.is(other, 6, "1/0/0/0 [one#a since 11 or before signed]")
	moved.Close()
	a.Close()

	again := l.process(r, one, "a", newKey(t))
	defer again.Close()
	again.acks(seven, 30)
	l.is(r, 6, "1/0/0/0 [one#a since 30 or before signed]")
}

// A word that another process has signed, or that says something else, is no proof,
// and an alarm. What is enforced is judged all the same.
func TestAcksOfOthersProveNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	six, seven := at(t, 6, "p"), at(t, 7, "p")
	a := l.process(r, one, "a", newKey(t))
	defer a.Close()
	honest := a.key
	a.key = newKey(t)
	a.acks(six, 10)
	l.is(r, 6, "1/0/0/0 [one#a since 60]")
	if proven, others, err := r.Proven(t.Context(), "aws", 6); err != nil || len(proven) != 0 || others != 1 {
		t.Errorf("proven by %v and not by %d, %v", proven, others, err)
	}
	a.acks(seven, 11)
	if n := r.log.count("level=ERROR msg=\"acknowledgement was not signed by the process that registered\""); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
	a.key = honest
	a.acks(seven, 12) // what was taken without its signature is proven now
	l.is(r, 7, "1/0/0/0 [one#a since 12 signed]")
	proven, others, err := r.Proven(t.Context(), "aws", 7)
	if err != nil || len(proven) != 1 || others != 0 {
		t.Fatalf("proven by %v and not by %d, %v", proven, others, err)
	}
	said, err := proof.Open(proven[0].GetAckKey(), proven[0].GetStatement(), proven[0].GetSignature())
	if err != nil || !said.Enforces(seven.Head()) || proven[0].GetId() != one+"#a" {
		t.Errorf("%v: %+v, %v", proven[0], said, err)
	}
}

// However many revisions there are, a few proofs are kept.
func TestProofsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	a := l.process(r, one, "a", newKey(t))
	defer a.Close()
	for i := range 10 {
		a.acks(at(t, snapshot.Revision(i+1), "p"), i)
	}
	l.is(r, 9, "1/0/0/0 [one#a since 8 signed]")
	l.is(r, 2, "1/0/0/0 [one#a since 6 or before signed]")
	if p := l.proxy(r, one, "a"); len(p.GetProofs()) != 4 || p.GetEnforcement() != adminv1.Enforcement_ENFORCEMENT_ENFORCED {
		t.Errorf("has %d proofs", len(p.GetProofs()))
	}
}
