package stream

import (
	"fmt"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// readmit ends the stream unless the proxy still belongs where it is. It
// returns what is closed when that may have changed again.
func (t *talk) readmit() (<-chan struct{}, error) {
	a, err := t.registry.Admit(string(t.id))
	switch {
	case err != nil:
		return nil, public(err)
	case a.Environment != t.environment:
		return nil, fmt.Errorf("the proxy now belongs to environment %s", a.Environment)
	}
	t.session.Admitted(a)
	return a.Changed, nil
}

// direct tells the proxy whether it is to drain, if it says otherwise.
func (t *talk) direct() error {
	draining := t.session.Draining()
	if t.draining.Swap(draining) == draining {
		return nil
	}
	directive := &proxyv1.Directive{Directive: &proxyv1.Directive_Drain{Drain: &proxyv1.Drain{Draining: draining}}}
	return t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: directive}})
}

// verify ends the stream unless the proxy would still be let in.
func (t *talk) verify() (<-chan struct{}, error) {
	if t.recheck != nil {
		if err := t.recheck(t.tls); err != nil {
			return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the certificate would not be taken any more: %w", err))
		}
	}
	return t.readmit()
}

// renewIn returns when the proxy is asked to connect again, with the certificate
// that it will have by then: thousands that were started together would else be cut
// off together.
func (t *talk) renewIn() time.Duration {
	life := time.Until(t.expires)
	if life < shortestLife {
		return life // when the stream ends
	}
	return life*7/10 + rand.N(life/5) //nolint:gosec // spreads load, hides nothing
}

// move asks the proxy to connect again, here or elsewhere, at a random time within d.
func (t *talk) move(d time.Duration) error {
	directive := &proxyv1.Directive{Directive: &proxyv1.Directive_Reconnect{Reconnect: &proxyv1.Reconnect{Within: durationpb.New(d)}}}
	return t.say(&proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: directive}})
}
