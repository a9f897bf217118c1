package registry_test

import (
	"testing"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// A drift raises the alarm once, in either lane, and says when it is over.
func TestDriftIsAlarmed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("a")
	l.admitted(r, one, "aws")
	a, b := open(t, r, one, "a"), open(t, r, two, "b")
	defer b.Close()
	six, seven, cut := at(t, 6, "p"), at(t, 7, "p", "q"), of(t, "@security", 2, "r")
	lies := func(ack *proxyv1.Ack) { ack.EnforcedRoot = make([]byte, 32) }
	const begins, ends = "level=ERROR msg=\"proxy enforces something else than what was signed\"", "proxy enforces what was signed again"
	says := func(what string, drifting, begun float64, ended int) {
		t.Helper()
		if got := metric(t, r.metrics, "sallyport_drifting_proxies"); got != drifting {
			t.Errorf("%s: %v proxies drift, want %v", what, got, drifting)
		}
		if got := metric(t, r.metrics, "sallyport_drifts_total"); got != begun || r.log.count(begins) != int(begun) {
			t.Errorf("%s: %v drifts, want %v, and the log is\n%s", what, got, begun, r.log)
		}
		if got := r.log.count(ends); got != ended {
			t.Errorf("%s: said %d times that it is over, want %d", what, got, ended)
		}
	}

	a.Acked(ackOf(six), six)
	b.Acked(ackOf(six, rejecting(six, "p")), six)
	says("enforced, and with rejects", 0, 0, 0)
	a.Acked(ackOf(six, lies), six)
	says("it drifts", 1, 1, 0)
	a.Acked(ackOf(seven, lies), seven)
	says("it still does", 1, 1, 0)
	a.Security().Acked(ackOf(cut, lies), cut)
	says("in the other lane as well", 1, 2, 0)
	a.Acked(ackOf(seven), seven)
	says("over in one lane", 1, 2, 1)
	a.Security().Acked(ackOf(cut), cut)
	says("over", 0, 2, 2)
	b.Acked(ackOf(seven, lies), nil)
	says("nobody knows yet", 0, 2, 2)
	if got := b.Judged(ackOf(seven, lies), seven); got != adminv1.Enforcement_ENFORCEMENT_DRIFT {
		t.Errorf("judged %v", got)
	}
	says("judged later", 1, 3, 2)
	a.Acked(ackOf(seven, lies), seven)
	says("both", 2, 4, 2)
	a.Close()
	says("who leaves is lost, and does not drift here", 1, 4, 2)
}
