package stream_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// A proxy that comes with more than is known here has to prove it, by the head
// that was signed: what it says alone, or what others have signed, is passed
// over.
func TestWhatProxiesShow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	now := aws(t, 5, documents{"a": "1"})
	l.publish(now)
	l.served("aws", 5)
	with := func(s *snapshot.Snapshot, change ...func(*proxyv1.SignedHead)) *proxyv1.Ack {
		head := proto.CloneOf(s.Head().Signed())
		for _, f := range change {
			f(head)
		}
		return ackOf(s, func(a *proxyv1.Ack) { a.Head = head })
	}
	gcp := statement{"gcp", 9, ours}.of(t, nil)
	next := aws(t, 9, documents{"a": "2"})
	for _, c := range []struct {
		what              string
		current, security *proxyv1.Ack
		want              string // after the name of the proxy; empty for nothing
	}{
		{what: "nothing"},
		{what: "what is served", current: with(now)},
		{what: "an older one", current: with(aws(t, 3, nil)), want: "aws@3"},
		{what: "a later one without proof", current: ackOf(next)},
		{what: "a later one that was changed", current: with(next, func(h *proxyv1.SignedHead) { h.Head[len(h.GetHead())-1] ^= 1 })},
		{what: "a later one that another has signed", current: with(statement{"aws", 9, signer(9)}.of(t, nil))},
		{what: "one of another environment", current: with(gcp)},
		{what: "one of the security lane", current: with(security(t, 9, nil))},
		{what: "a later one", current: with(next), want: "aws@9"},
		{what: "another one of the same revision", current: with(aws(t, 5, documents{"a": "2"})), want: "aws@5"},
		{what: "a later one of the security lane", security: with(security(t, 7, nil)), want: "@security@7"},
	} {
		connected := l.log.count("proxy connected")
		p := l.begin(l.client(awsID, time.Hour), &proxyv1.Hello{Instance: "i", Current: c.current, Security: c.security}, nil)
		eventually(t, "it is connected", func() bool { return l.log.count("proxy connected") > connected })
		got := ""
		select {
		case got = <-l.shown:
		default:
		}
		want := c.want
		if want != "" {
			want = string(awsID) + "#i " + want
		}
		if got != want {
			t.Errorf("%s: shown %q, want %q", c.what, got, want)
		}
		p.cancel()
	}
}
