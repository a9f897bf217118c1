package stream_test

import (
	"math"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// rule has an operator rule something through another replica.
func (l *lab) rule(subject string, revise func(*storage.Ruling)) {
	l.Helper()
	e := storage.AuditEntry{Caller: "alice", Action: "/Rule", Allowed: true}
	if err := l.database.Rule(l.Context(), subject, e, func(r storage.Ruling, _ int) (storage.Ruling, error) {
		r.At = time.Now()
		revise(&r)
		return r, nil
	}); err != nil {
		l.Fatal(err)
	}
}

// A proxy that another replica is told to quarantine loses its stream at once, and
// is heard by nobody any more. Others go on.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	l.publish(aws(t, 1, documents{"a": "1"}))
	c := l.client(awsID, time.Hour)
	bad, other := l.stream(c, "i", nil), l.connect(gcpID, "i", nil)
	bad.updated(1, nil)
	bad.ack()
	l.enforcement(awsID, "i", adminv1.Enforcement_ENFORCEMENT_ENFORCED)

	began := time.Now()
	l.rule(string(awsID), func(r *storage.Ruling) { r.Quarantined = true })
	bad.over(connect.CodePermissionDenied, "refused or quarantined")
	took := time.Since(began)
	t.Logf("figure quarantine_cut %d us", took.Microseconds())
	if took > 4*time.Second { // else it had waited until rulings are read anyway
		t.Errorf("it was cut after %s", took)
	}
	if p := l.known(awsID, "i"); p.GetStanding() != adminv1.Standing_STANDING_QUARANTINED || p.GetConnection() != adminv1.Connection_CONNECTION_LOST || p.GetEnvironment() != "aws" {
		t.Errorf("it is known as %v", p)
	}
	l.refuses(c, awsID)
	other.beat()
	eventually(t, "the other is heard", func() bool { return l.known(gcpID, "i").GetClockSkew() == nil })

	l.rule(string(awsID), func(r *storage.Ruling) { r.Quarantined = false })
	eventually(t, "it is admitted", func() bool { return l.registers(c) == proxyv1.Admission_ADMISSION_ADMITTED })
	l.stream(c, "i", nil).updated(1, nil)
}

// registers returns what a proxy is answered.
func (l *lab) registers(c *client) proxyv1.Admission {
	l.Helper()
	res, err := c.Register(l.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "i", ProtocolVersion: int32(snapshot.NewestProtocol)}))
	if err != nil {
		l.Fatal(err)
	}
	return res.Msg.GetAdmission()
}

// refuses fails unless a connection that is open gets nothing any more.
func (l *lab) refuses(c *client, id identity.ID) {
	l.Helper()
	if got := l.registers(c); got != proxyv1.Admission_ADMISSION_REFUSED {
		l.Errorf("%s registers as %s", id, got)
	}
	l.stream(c, "i", nil).over(connect.CodePermissionDenied, "refused or quarantined")
	_, err := c.Logout(l.Context(), connect.NewRequest(&proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_LogoutToken{LogoutToken: "t"}}))
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		l.Errorf("a logout of %s: %v", id, err)
	}
}

// What is spoken is the lower of both protocols. A proxy that does not know the word
// for refused is told to wait, and gets as little.
func TestOlderAndNewerProxies(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	c := l.client(awsID, time.Hour)
	newest := int32(snapshot.NewestProtocol)
	register := func(version int32, admission proxyv1.Admission, spoken int32) {
		t.Helper()
		res, err := c.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "i", ProtocolVersion: version}))
		if err != nil || res.Msg.GetAdmission() != admission || res.Msg.GetProtocolVersion() != spoken {
			t.Errorf("protocol %d: %v (%v)", version, res, err)
		}
	}
	eventually(t, "it is admitted", func() bool { return l.registers(c) == proxyv1.Admission_ADMISSION_ADMITTED })
	for version, spoken := range map[int32]int32{1: 1, newest: newest, newest + 1: newest, math.MaxInt32: newest} {
		register(version, proxyv1.Admission_ADMISSION_ADMITTED, spoken)
		p := l.known(awsID, "i")
		if lacks := len(p.GetLacks()) > 0; p.GetProtocolVersion() != version || lacks != (version < newest) {
			t.Errorf("protocol %d is known as %v", version, p)
		}
	}
	l.rule(string(awsID), func(r *storage.Ruling) { r.Quarantined = true })
	eventually(t, "it is refused", func() bool { return l.registers(c) == proxyv1.Admission_ADMISSION_REFUSED })
	register(1, proxyv1.Admission_ADMISSION_PENDING, 1)
	register(newest+1, proxyv1.Admission_ADMISSION_REFUSED, newest)
	l.stream(c, "i", nil).over(connect.CodePermissionDenied, "refused or quarantined")
}

// A drain is a level: a proxy is told until it says so, over whatever streams.
func TestDrainDirective(t *testing.T) {
	t.Parallel()
	l := newLab(t, patient)
	p := l.connect(awsID, "i", nil)
	eventually(t, "it is known", func() bool { return l.known(awsID, "i") != nil })
	subject := string(awsID) + "#i"
	drain := func(to bool) { l.rule(subject, func(r *storage.Ruling) { r.Draining = to }) }
	told := func(p *proxy, want bool) {
		t.Helper()
		d := p.next().GetDirective().GetDrain()
		if d == nil || d.GetDraining() != want {
			t.Fatalf("it was told %v", d)
		}
	}
	beat := func(p *proxy, draining bool) {
		p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Heartbeat{Heartbeat: &proxyv1.Heartbeat{Draining: draining}}})
	}
	drain(true)
	told(p, true)
	beat(p, false) // as if it had not heard
	told(p, true)
	beat(p, true)
	eventually(t, "it drains", func() bool { return l.known(awsID, "i").GetDraining() && l.known(awsID, "i").GetDrain() })

	p.cancel()
	drain(false) // while it is away
	p = l.connect(awsID, "i", nil)
	beat(p, true)
	for p.next().GetDirective().GetDrain().GetDraining() { // not everything is known here yet
	}
	beat(p, false)
	eventually(t, "it serves", func() bool { return !l.known(awsID, "i").GetDraining() })
}
