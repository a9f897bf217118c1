package link_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// What a proxy acknowledges is signed with the key that it registers with, in both
// lanes, and says since when that is in force, however often it is said again.
func TestAcksAreSigned(t *testing.T) {
	began := time.Now()
	l, e := newLab(t), newTable()
	_, stop := l.start(t, e)
	v := l.stream(t)
	key := l.control.registered()[0].GetAckKey()
	open := func(environment string, a *proxyv1.Ack) proof.Said {
		t.Helper()
		said, err := proof.OpenAck(key, environment, a)
		if err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		if said.Since.Before(began) || said.At.Before(said.Since) || said.At.After(time.Now()) {
			t.Errorf("%+v: the times are wrong", said)
		}
		return said
	}
	s := at(t, 10, map[string]string{"a": "1"})
	cuts := place{snapshot.SecurityLane, 1, 3, 1}.sign(t, docs(t, map[string]string{"b": "1"}))
	if said := open(snapshot.SecurityLane, v.secure(t, nil, cuts)); !said.Enforces(cuts.Head()) {
		t.Errorf("of the security lane it says %+v", said)
	}
	first := open(env, v.push(t, nil, s))
	v.persisted(t, 10)
	again := open(env, v.acked)
	if !first.Enforces(s.Head()) || !again.Enforces(s.Head()) || !again.Since.Equal(first.Since) {
		t.Errorf("it says %+v, and then %+v", first, again)
	}

	if !again.At.Equal(first.At) {
		t.Error("what is on disk was signed, though nothing else is in force")
	}

	// On another stream it says the same, with the same key.
	v.end()
	v = l.stream(t)
	if said := open(env, v.hello(t).GetCurrent()); !said.Since.Equal(first.Since) {
		t.Errorf("on another stream it says %+v", said)
	}
	// Another process has another key, and enforces what it does since it began.
	stop()
	_, _ = l.start(t, newTable())
	v = l.stream(t)
	registered := l.control.registered()
	if other := registered[len(registered)-1].GetAckKey(); len(other) != 32 || bytes.Equal(other, key) {
		t.Errorf("a process that is started again registers with %x", other)
	} else {
		key = other
	}
	if said := open(env, v.hello(t).GetCurrent()); !said.Since.After(first.Since) || !said.Enforces(s.Head()) {
		t.Errorf("a process that is started again says %+v", said)
	}
}
