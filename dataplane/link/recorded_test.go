package link_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// before holds what the build of before wrote and said: see its README.
const before = "testdata/protocol-1"

// recorded returns the messages of a file.
func recorded[M any, P interface {
	*M
	proto.Message
}](t *testing.T, name string) []P {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(before, name))
	if err != nil {
		t.Fatal(err)
	}
	var all []P
	for r := bytes.NewReader(b); ; {
		m := P(new(M))
		err := protodelim.UnmarshalFrom(r, m)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(m.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%s: %v has fields that are not known any more", name, m)
		}
		all = append(all, m)
	}
}

// recordedSnapshots are what the recordings are about.
func recordedSnapshots(t *testing.T) (security, one, two *snapshot.Snapshot) {
	t.Helper()
	security = place{snapshot.SecurityLane, 1, 3, 1}.sign(t, docs(t, map[string]string{"r": "1"}))
	return security, at(t, 10, map[string]string{"a": "1", "b": "1"}), at(t, 11, map[string]string{"a": "2", "c": "1"})
}

// A proxy goes on with what the build of before left on the disk, without a control
// plane, and takes nothing older from one.
func TestStateOfTheBuildOfBefore(t *testing.T) {
	cut, one, two := recordedSnapshots(t)
	l, e, security := newLab(t), newTable(), newTable()
	if err := os.CopyFS(l.dir, os.DirFS(before+"/state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k, stop := l.start(t, e, alone, secured(security))
	l.settled(t)
	e.wantEnforced(t, two)
	security.wantEnforced(t, cut)
	if _, known := k.Age(); !known {
		t.Error("its age is not known")
	}
	if damaged := l.metric(t, "sallyport_last_good_damaged_total"); damaged != 0 {
		t.Errorf("%v files are damaged", damaged)
	}
	stop()

	l.start(t, newTable(), secured(newTable()))
	v := l.stream(t)
	hello := v.hello(t)
	wantProof(t, hello.GetCurrent(), two)
	if hello.GetSecurity().GetRevision() != 3 || hello.GetCurrent().GetPersistedRevision() != 11 {
		t.Errorf("it begins with %v", hello)
	}
	for part := range snapshot.Updates(nil, one) {
		v.send(part)
	}
	if r := v.refusal(t); r.GetReason() != "older_revision" {
		t.Errorf("what is older was refused with %v", r)
	}
}

// What a control plane of before sends leads to what a proxy of before made of it, and
// both say the same of it.
func TestStreamOfTheControlPlaneOfBefore(t *testing.T) {
	cut, _, two := recordedSnapshots(t)
	l, e, security := newLab(t), newTable(), newTable()
	k, _ := l.start(t, e, secured(security))
	v := l.stream(t)
	all := recorded[proxyv1.StreamResponse](t, "from-control-plane.bin")
	goodbye := all[len(all)-1]
	for _, m := range all[:len(all)-1] {
		v.tell <- m
	}
	said := map[int64]*proxyv1.Ack{}
	refused := hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Refusal, bool) {
		if a := m.GetAck(); a != nil {
			said[a.GetRevision()] = a
		}
		return m.GetRefusal(), m.GetRefusal() != nil
	})
	e.wantEnforced(t, two)
	security.wantEnforced(t, cut)
	if _, known := k.Age(); !known {
		t.Error("its age is not known")
	}
	compared := 0
	for _, m := range recorded[proxyv1.StreamRequest](t, "from-proxy.bin") {
		if r := m.GetRefusal(); r != nil && (r.GetReason() != refused.GetReason() || r.GetRevision() != refused.GetRevision()) {
			t.Errorf("it refuses %v, and of before %v", refused, r)
		}
		a := m.GetAck()
		if a == nil || said[a.GetRevision()] == nil {
			continue
		}
		compared++
		now := proto.CloneOf(said[a.GetRevision()])
		now.PersistedRevision = a.GetPersistedRevision() // the disk comes when it comes
		now.Statement, now.Signature = nil, nil          // nobody signed before
		if !proto.Equal(now, a) {
			t.Errorf("it acknowledges %v, and of before %v", now, a)
		}
	}
	if compared == 0 {
		t.Error("no acknowledgement was compared")
	}
	v.tell <- goodbye
	select {
	case <-v.gone:
	case <-time.After(patience):
		t.Errorf("it does not do as it is told: %v", goodbye)
	}
}

// What a proxy of before says is what the rules of today allow.
func TestWhatAProxyOfBeforeSays(t *testing.T) {
	all := recorded[proxyv1.RegisterRequest](t, "register.bin")
	if len(all) != 1 || all[0].GetProtocolVersion() != int32(snapshot.FirstProtocol) {
		t.Fatalf("it registers with %v", all)
	}
	if err := protovalidate.Validate(all[0]); err != nil {
		t.Error(err)
	}
	kinds := map[string]bool{}
	for _, m := range recorded[proxyv1.StreamRequest](t, "from-proxy.bin") {
		if err := protovalidate.Validate(m); err != nil {
			t.Errorf("%v: %v", m, err)
		}
		message := m.ProtoReflect()
		kinds[string(message.WhichOneof(message.Descriptor().Oneofs().ByName("message")).Name())] = true
	}
	for _, want := range []string{"hello", "ack", "security_ack", "refusal", "heartbeat"} {
		if !kinds[want] {
			t.Errorf("no %s was recorded", want)
		}
	}
}
