package link_test

import (
	"bytes"
	"testing"

	"github.com/sallyport/sallyport/internal/proof"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// The keys of a process are bound to its SVID whenever it registers: to the one that it
// has by then, also when that is renewed while it does.
func TestKeysAreBound(t *testing.T) {
	l, e := newLab(t), newTable()
	replica := l.identify(t, controlID)
	l.control.meanwhile = func() {
		changed := l.cfg.Identity.Changed()
		l.issuer.Rotate()
		<-changed
	}
	_, _ = l.start(t, e)
	v := l.stream(t)
	registered := l.control.registered()
	if len(registered) != 2 {
		t.Fatalf("it has registered %d times", len(registered))
	}
	bound := func(r *proxyv1.RegisterRequest) {
		t.Helper()
		k, err := proof.OpenBinding(r.GetBinding(), replica)
		if err != nil || k.SPIFFEID != string(proxyID) || k.Instance != r.GetInstance() || !bytes.Equal(k.Ack, r.GetAckKey()) || !bytes.Equal(k.Sealing, r.GetSealingKey()) {
			t.Errorf("%+v is bound, %v", k, err)
		}
	}
	bound(registered[0])
	bound(registered[1])
	svid, err := l.cfg.Identity.SVID()
	if err != nil {
		t.Fatal(err)
	}
	if chain := registered[1].GetBinding().GetChain(); !bytes.Equal(chain, svid.Chain()) || bytes.Equal(chain, registered[0].GetBinding().GetChain()) {
		t.Error("they are not bound to the SVID that is new")
	}
	// With another stream they are bound anew, once, while the SVID is the same.
	v.end()
	l.stream(t)
	if registered = l.control.registered(); len(registered) != 3 {
		t.Errorf("it has registered %d times", len(registered))
	}
	bound(registered[2])
}
