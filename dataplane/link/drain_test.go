package link_test

import (
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// drain tells the proxy whether to drain.
func (v *conversation) drain(to bool) {
	v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: &proxyv1.Directive{
		Directive: &proxyv1.Directive_Drain{Drain: &proxyv1.Drain{Draining: to}},
	}}}
}

// A drain holds over streams until it is taken back, and every heartbeat says so.
func TestDrain(t *testing.T) {
	l, e := newLab(t), newTable()
	var draining atomic.Bool
	var told atomic.Int64
	l.start(t, e, func(c *link.Config) {
		c.Drain = func(to bool) { draining.Store(to); told.Add(1) }
		c.Load = func() link.Load {
			return link.Load{Requests: 100, OpenRequests: 3, ProcessorTime: time.Second, Processors: 2}
		}
	})
	v := l.stream(t)
	h := v.heartbeat(t)
	if h.GetDraining() || h.GetRequests() != 100 || h.GetOpenRequests() != 3 || h.GetProcessorTime().AsDuration() != time.Second || h.GetProcessors() != 2 {
		t.Errorf("it says %v", h)
	}
	v.drain(true)
	v.drain(true)
	if !v.heartbeat(t).GetDraining() || !draining.Load() {
		t.Error("it does not drain")
	}
	v.end()
	v = l.stream(t)
	if !v.heartbeat(t).GetDraining() {
		t.Error("it has forgotten")
	}
	v.drain(false)
	if v.heartbeat(t).GetDraining() || draining.Load() || told.Load() != 2 {
		t.Errorf("it was told %d times", told.Load())
	}
}

// A process that cannot drain does not say that it does.
func TestDrainOfWhoCannot(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	v.heartbeat(t)
	v.drain(true)
	e.bind()
	if v.heartbeat(t).GetDraining() {
		t.Error("it says that it drains")
	}
}

// A control plane that goes on in a protocol that this build did not offer is left.
func TestLaterProtocolThanOffered(t *testing.T) {
	l, e := newLab(t), newTable()
	l.control.mu.Lock()
	l.control.answer = &proxyv1.RegisterResponse{
		Admission: proxyv1.Admission_ADMISSION_ADMITTED, Environment: env, ProtocolVersion: int32(snapshot.NewestProtocol) + 1,
	}
	l.control.mu.Unlock()
	k, _ := l.start(t, e)
	eventually(t, "two registrations", func() bool { return len(l.control.registered()) >= 2 })
	if len(l.control.streams) > 0 || k.Enforcing() {
		t.Error("it went on")
	}
	l.control.admit(env) // another, which answers as one of protocol 1 does
	one := at(t, 10, map[string]string{"a": "1"})
	wantProof(t, l.stream(t).push(t, nil, one), one)
}

func TestRefusedByAnOperator(t *testing.T) {
	l, e := newLab(t), newTable()
	l.control.mu.Lock()
	l.control.answer = &proxyv1.RegisterResponse{
		Admission: proxyv1.Admission_ADMISSION_REFUSED, RetryAfter: durationpb.New(200 * time.Millisecond),
	}
	l.control.mu.Unlock()
	l.start(t, e, func(c *link.Config) { c.Cloud, c.Region = "aws", "eu-central-1" })
	eventually(t, "three registrations", func() bool { return len(l.control.registered()) >= 3 })
	l.control.mu.Lock()
	gap := l.control.at[1].Sub(l.control.at[0])
	l.control.mu.Unlock()
	if gap < 90*time.Millisecond {
		t.Errorf("asked again after %s, told were 200ms", gap)
	}
	if m := l.control.registered()[0]; m.GetCloud() != "aws" || m.GetRegion() != "eu-central-1" || time.Since(m.GetStartedAt().AsTime()) > patience {
		t.Errorf("it said %v", m)
	}
	l.control.admit(env) // released
	one := at(t, 10, map[string]string{"a": "1"})
	wantProof(t, l.stream(t).push(t, nil, one), one)
}
