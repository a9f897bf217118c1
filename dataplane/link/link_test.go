package link_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// wantProof fails unless the ack proves that s is enforced.
func wantProof(t *testing.T, ack *proxyv1.Ack, s *snapshot.Snapshot) {
	t.Helper()
	digest, root := s.Head().Digest(), s.Set().Root()
	if ack.GetEpoch() != int64(s.Head().Epoch) || ack.GetRevision() != int64(s.Head().Revision) ||
		!bytes.Equal(ack.GetHeadDigest(), digest[:]) ||
		!bytes.Equal(ack.GetReceivedRoot(), root[:]) || !bytes.Equal(ack.GetEnforcedRoot(), root[:]) {
		t.Errorf("ack is %v, want proof of revision %d, root %s", ack, s.Head().Revision, root.Short())
	}
}

func TestSnapshotAndDeltasAreEnforcedProvenAndKept(t *testing.T) {
	l, e := newLab(t), newTable()
	k, _ := l.start(t, e)
	v := l.stream(t)
	if h := v.hello(t); h.GetCurrent() != nil || h.GetInstance() != "one" {
		t.Errorf("hello of a new proxy is %v", h)
	}
	if r := l.control.registered()[0]; r.GetInstance() != "one" || r.GetBuild() != "test" || r.GetProtocolVersion() != int32(snapshot.NewestProtocol) {
		t.Errorf("registered as %v", r)
	}
	if k.Enforcing() {
		t.Error("enforces before there is a snapshot")
	}
	one := at(t, 10, map[string]string{"a": "1", "b": "1"})
	ack := v.push(t, nil, one)
	wantProof(t, ack, one)
	if ack.GetPersistedRevision() != 0 {
		t.Errorf("first ack says that revision %d is on disk", ack.GetPersistedRevision())
	}
	v.persisted(t, 10)
	two := at(t, 11, map[string]string{"a": "2", "c": "1"})
	wantProof(t, v.push(t, one, two), two)
	e.wantEnforced(t, two)
	v.persisted(t, 11)
	if !k.Enforcing() || l.metric(t, "sallyport_snapshot_revision") != 11 || l.metric(t, "sallyport_snapshot_persisted_revision") != 11 {
		t.Error("metrics do not say revision 11")
	}
}

// Nothing but the newest snapshot of the environment, signed with the pinned
// key and whole, is enforced; what is refused changes nothing.
func TestHostileUpdatesAreRefused(t *testing.T) {
	now := map[string]string{"a": "1", "b": "1", "c": "1"}
	next := map[string]string{"a": "2", "b": "1", "c": "1"}
	base := at(t, 10, now)
	update := func(from, to *snapshot.Snapshot) []*proxyv1.Update {
		var parts []*proxyv1.Update
		for u := range snapshot.Updates(from, to) {
			parts = append(parts, proto.CloneOf(u))
		}
		return parts
	}
	full := func(p place, contents map[string]string) []*proxyv1.Update {
		return update(nil, p.sign(t, docs(t, contents)))
	}
	tamper := func(change func(*proxyv1.Update)) []*proxyv1.Update {
		counted, err := signer(1).Count(at(t, 11, next))
		if err != nil {
			t.Fatal(err)
		}
		parts := update(base, counted)
		change(parts[0])
		return parts
	}
	for _, c := range []struct {
		name   string
		reason string
		parts  []*proxyv1.Update
	}{
		{"a bit of a document flipped", "root_mismatch", tamper(func(u *proxyv1.Update) { d := u.Documents[0]; d[len(d)-1] ^= 1 })},
		{"a document left out", "root_mismatch", tamper(func(u *proxyv1.Update) { u.Documents = nil })},
		{"a removal added", "root_mismatch", tamper(func(u *proxyv1.Update) {
			u.Removed = []*proxyv1.DocumentKey{{Kind: "Policy", Namespace: "shop", Name: "b"}}
		})},
		{"a bit of the head flipped", "bad_signature", tamper(func(u *proxyv1.Update) { u.Head.Head[2] ^= 1 })},
		{"no signature", "bad_signature", tamper(func(u *proxyv1.Update) { u.Head.Signature = nil })},
		{"a count that the signer did not make", "bad_signature", tamper(func(u *proxyv1.Update) { u.Head.Counts[len(u.Head.Counts)-1]++ })},
		{"counts of more than there is", "count_mismatch", tamper(func(u *proxyv1.Update) { recount(u.GetHead(), 4) })},
		{"counts of less than there is", "count_mismatch", tamper(func(u *proxyv1.Update) { recount(u.GetHead(), 2) })},
		{"signed with another key", "bad_signature", full(place{env, 1, 11, 2}, next)},
		{"built on something else", "base_mismatch", update(at(t, 9, next), at(t, 11, next))},
		{"an older revision", "older_revision", full(place{env, 1, 9, 1}, now)},
		{"an older epoch", "older_revision", full(place{env, 0 + 1, 9, 1}, next)},
		{"another snapshot at the same revision", "fork", full(place{env, 1, 10, 1}, next)},
		{"of another environment", "wrong_environment", full(place{"gcp-prod", 1, 11, 1}, next)},
		{"of another environment, built on ours", "wrong_environment", update(base, place{"gcp-prod", 1, 11, 1}.sign(t, docs(t, next)))},
		{"rubbish for a document", "malformed", tamper(func(u *proxyv1.Update) { u.Documents = [][]byte{{0xff}} })},
		{"a document that is too large", "too_large", tamper(func(u *proxyv1.Update) {
			b, err := proto.Marshal(&resourcev1.Document{Kind: "Policy", Namespace: "shop", Name: "a", Spec: make([]byte, resource.MaxDocument)})
			if err != nil {
				t.Fatal(err)
			}
			u.Documents = [][]byte{b}
		})},
		{"rubbish in the first of three parts", "malformed", append([]*proxyv1.Update{
			{Documents: [][]byte{{0xff}}}, {Documents: [][]byte{{0xff}}}}, full(place{env, 1, 11, 1}, next)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, e := newLab(t), newTable()
			l.start(t, e)
			v := l.stream(t)
			v.push(t, nil, base)
			v.send(c.parts...)
			if r := v.refusal(t); r.GetReason() != c.reason || r.GetDetail() == "" {
				t.Errorf("refused with %v, want %s", r, c.reason)
			}
			e.wantEnforced(t, base)
			if got := l.metric(t, "sallyport_link_refusals_total"); got != 1 {
				t.Errorf("counted %v refusals, want 1", got)
			}
			good := at(t, 12, map[string]string{"a": "3", "b": "1", "c": "1"})
			wantProof(t, v.push(t, base, good), good)
			if e.swapped() != 2 {
				t.Errorf("swapped %d times, want 2", e.swapped())
			}
		})
	}
}

// recount has the fleet's key say how many policies there are.
func recount(h *proxyv1.SignedHead, policies int64) {
	digest := sha256.Sum256(h.GetHead())
	h.Counts, _ = proto.Marshal(&proxyv1.Counts{HeadDigest: digest[:], Kinds: []*proxyv1.KindCount{{Kind: "Policy", Documents: policies}}})
	h.CountsSignature = ed25519.Sign(ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize)), append([]byte("sallyport counts v1\x00"), h.GetCounts()...))
}

// An epoch begins a new history: its revisions may start anywhere, and nothing
// of the former one is taken afterwards.
func TestNewEpochEndsTheOld(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	v.push(t, nil, at(t, 10, map[string]string{"a": "1"}))
	v.persisted(t, 10)
	recovered := place{env, 2, 7, 1}.sign(t, docs(t, map[string]string{"a": "2"}))
	wantProof(t, v.push(t, nil, recovered), recovered)
	v.send(slices.Collect(snapshot.Updates(nil, at(t, 11, map[string]string{"a": "3"})))...)
	if r := v.refusal(t); r.GetReason() != "older_revision" {
		t.Errorf("refused with %v", r)
	}
	e.wantEnforced(t, recovered)
}

// A message is bounded before it is read.
func TestOversizedMessageCutsTheStream(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	v.push(t, nil, one)
	v.send(&proxyv1.Update{Documents: [][]byte{make([]byte, snapshot.MaxPart+65<<10)}})
	again := l.stream(t)
	current := again.hello(t).GetCurrent()
	wantProof(t, current, one)
	if !proto.Equal(current.GetHead(), one.Head().Signed()) {
		t.Errorf("says hello with the head %v, want what was signed", current.GetHead())
	}
	e.wantEnforced(t, one)
	if l.metric(t, "sallyport_link_refusals_total") != 1 {
		t.Error("was not counted")
	}
}

// There is no ack while the swap has not happened, however long that takes, and
// the proxy does not seem dead meanwhile.
func TestNoAckBeforeTheSwap(t *testing.T) {
	l, e := newLab(t), newTable()
	e.hold = make(chan struct{})
	l.start(t, e, func(c *link.Config) { c.Heartbeat, c.Silence = 5*time.Millisecond, 50*time.Millisecond })
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	v.send(slices.Collect(snapshot.Updates(nil, one))...)
	for range 40 {
		hear(t, v, func(m *proxyv1.StreamRequest) (struct{}, bool) {
			if m.GetAck() != nil {
				t.Fatal("acknowledged before the swap")
			}
			return struct{}{}, m.GetHeartbeat() != nil
		})
	}
	close(e.hold)
	wantProof(t, v.ack(t), one)
}

// What the proxy rejects goes into the ack by name, and however many there are,
// the ack can be sent.
func TestRejectsAreNamed(t *testing.T) {
	l, e := newLab(t), newTable()
	e.rejects = []resource.Reject{{Key: resource.Key{Kind: "Policy", Namespace: "shop", Name: "a"}, Reason: "unknown field\xff 7"}}
	l.start(t, e)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	ack := v.push(t, nil, one)
	if got := ack.GetRejects(); len(got) != 1 || got[0].GetKey().GetName() != "a" || got[0].GetReason() != "unknown field 7" {
		t.Errorf("rejects are %v", got)
	}
	e.mu.Lock()
	e.rejects = slices.Repeat([]resource.Reject{{Key: e.rejects[0].Key, Reason: strings.Repeat("x", 2000)}}, 30_000)
	e.mu.Unlock()
	ack = v.push(t, one, at(t, 11, map[string]string{"a": "2"}))
	if n := len(ack.GetRejects()); n == 0 || proto.Size(ack) > 4<<20 {
		t.Errorf("ack has %d rejects and %d bytes", n, proto.Size(ack))
	}
}

func TestReconnectContinuesWhereItWas(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	v.push(t, nil, one)
	v.persisted(t, 10)
	v.end()
	v = l.stream(t)
	current := v.hello(t).GetCurrent()
	wantProof(t, current, one)
	if current.GetPersistedRevision() != 10 || e.swapped() != 1 {
		t.Errorf("persisted revision %d after %d swaps", current.GetPersistedRevision(), e.swapped())
	}
	two := at(t, 11, map[string]string{"a": "2"})
	wantProof(t, v.push(t, one, two), two)
}

// Half an update is none.
func TestDisconnectAmidAnUpdate(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1", "b": "1"})
	v.push(t, nil, one)
	root := one.Set().Root()
	v.send(&proxyv1.Update{BaseRoot: root[:], Removed: []*proxyv1.DocumentKey{{Kind: "Policy", Namespace: "shop", Name: "b"}}})
	v.end()
	v = l.stream(t)
	wantProof(t, v.hello(t).GetCurrent(), one)
	two := at(t, 11, map[string]string{"a": "2", "b": "1"})
	wantProof(t, v.push(t, one, two), two)
	e.wantEnforced(t, two)
}

func TestPendingUntilEnrolled(t *testing.T) {
	l, e := newLab(t), newTable()
	l.control.mu.Lock()
	l.control.answer = &proxyv1.RegisterResponse{
		Admission: proxyv1.Admission_ADMISSION_PENDING, RetryAfter: durationpb.New(300 * time.Millisecond),
	}
	l.control.mu.Unlock()
	l.start(t, e)
	eventually(t, "three registrations", func() bool { return len(l.control.registered()) >= 3 })
	l.control.admit(env)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	wantProof(t, v.push(t, nil, one), one)
	if l.metric(t, "sallyport_link_attempts_total") < 3 {
		t.Error("attempts were not counted")
	}
	if gap := l.control.at[1].Sub(l.control.at[0]); gap < 140*time.Millisecond {
		t.Errorf("asked again after %s, told were 300ms", gap)
	}
}

// Only the answer to a registration moves a proxy to another environment, and
// each has a history of its own.
func TestMoveToAnotherEnvironment(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	aws := at(t, 100, map[string]string{"a": "aws"})
	v.push(t, nil, aws)
	v.persisted(t, 100)

	l.control.admit("gcp-prod")
	v.end()
	v = l.stream(t)
	if h := v.hello(t); h.GetCurrent() != nil {
		t.Errorf("says of the new environment that it enforces %v", h.GetCurrent())
	}
	e.wantEnforced(t, aws)
	gcp := place{"gcp-prod", 1, 7, 1}.sign(t, docs(t, map[string]string{"a": "gcp"}))
	ack := v.push(t, nil, gcp)
	wantProof(t, ack, gcp)
	if p := ack.GetPersistedRevision(); p != 0 && p != 7 {
		t.Errorf("says that revision %d of the new environment is on disk", p)
	}

	l.control.admit(env)
	v.end()
	v = l.stream(t)
	v.send(slices.Collect(snapshot.Updates(nil, at(t, 99, map[string]string{"a": "old"})))...)
	if r := v.refusal(t); r.GetReason() != "older_revision" {
		t.Errorf("refused with %v", r)
	}
	wantProof(t, v.push(t, nil, aws), aws)
}

// A control plane with another identity is not spoken to.
func TestImpostorIsNotSpokenTo(t *testing.T) {
	l, e := newLab(t), newTable()
	impostor := l.newControl(t, "spiffe://prod.example/sallyport/control2")
	l.start(t, e, func(c *link.Config) { c.ControlPlanes = []string{impostor.url} })
	eventually(t, "three attempts", func() bool { return l.metric(t, "sallyport_link_attempts_total") >= 3 })
	if n := len(impostor.registered()); n != 0 {
		t.Errorf("registered %d times with an impostor", n)
	}
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	l, e := newLab(t), newTable()
	other := l.newControl(t, controlID)
	l.start(t, e, func(c *link.Config) {
		c.ControlPlanes = []string{"https://127.0.0.1:1", l.control.url, other.url}
	})
	seen := map[*control]bool{}
	for len(seen) < 2 {
		select {
		case v := <-l.control.streams:
			seen[l.control] = true
			v.end()
		case v := <-other.streams:
			seen[other] = true
			v.end()
		case <-time.After(patience):
			t.Fatal("not every replica was tried")
		}
	}
}

// A control plane that says nothing is left, without a word from the network.
func TestSilenceCutsTheStream(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e, func(c *link.Config) { c.Silence = 50 * time.Millisecond })
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	v.push(t, nil, one)
	wantProof(t, l.stream(t).hello(t).GetCurrent(), one)
}

func TestDirectiveMovesTheProxy(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	one := at(t, 10, map[string]string{"a": "1"})
	v.push(t, nil, one)
	move := &proxyv1.Directive{Directive: &proxyv1.Directive_Reconnect{Reconnect: &proxyv1.Reconnect{Within: durationpb.New(time.Millisecond)}}}
	v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Directive{Directive: move}}
	wantProof(t, l.stream(t).hello(t).GetCurrent(), one)
	select {
	case <-v.gone:
	case <-time.After(patience):
		t.Error("the former stream is still open")
	}
}

func TestHeartbeats(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	h := v.heartbeat(t)
	if since := time.Since(h.GetSentAt().AsTime()); since < 0 || since > patience {
		t.Errorf("sent %s ago", since)
	}
	if h.GetConfigurationAge() != nil || !h.GetIdentityExpiresAt().AsTime().Equal(l.source.Expiry()) {
		t.Errorf("heartbeat of a new proxy is %v", h)
	}
	e.bind(link.Listener{Namespace: "edge", Name: "https", Address: "[::]:443"},
		link.Listener{Namespace: "edge", Name: "alt", Err: "address already in use"})
	got := v.heartbeat(t).GetListeners()
	if len(got) != 2 || got[0].GetAddress() != "[::]:443" || got[0].GetNamespace() != "edge" || got[0].GetName() != "https" ||
		got[1].GetError() != "address already in use" {
		t.Errorf("listeners are %v", got)
	}
}

// The identity may come after the proxy has started.
func TestWaitsForAnIdentity(t *testing.T) {
	l, e := newLab(t), newTable()
	addr, err := identity.SocketAddr(l.dir + "-s")
	if err != nil {
		t.Fatal(err)
	}
	late, err := identity.New(identity.Config{SocketAddr: addr, Log: quiet(), RetryCap: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	run(t, late.Run)
	l.start(t, e, func(c *link.Config) { c.Identity = late })
	endpoint, err := l.issuer.Listen(proxyID, l.dir+"-s", 0)
	if err != nil {
		t.Fatal(err)
	}
	run(t, endpoint.Run)
	one := at(t, 10, map[string]string{"a": "1"})
	wantProof(t, l.stream(t).push(t, nil, one), one)
	if n := l.metric(t, "sallyport_link_attempts_total"); n != 0 {
		t.Errorf("%v attempts failed for want of an identity", n)
	}
}

func TestSettingsOfALink(t *testing.T) {
	l := newLab(t)
	l.cfg.Policy, l.cfg.Security, l.cfg.Listeners = newTable(), newTable(), newTable()
	for name, spoil := range map[string]func(*link.Config){
		"no control plane":        func(c *link.Config) { c.ControlPlanes = nil },
		"plain http":              func(c *link.Config) { c.ControlPlanes = []string{"http://control:7443"} },
		"no port":                 func(c *link.Config) { c.ControlPlanes = []string{"https://control"} },
		"a path":                  func(c *link.Config) { c.ControlPlanes = []string{"https://control:7443/v1"} },
		"a password":              func(c *link.Config) { c.ControlPlanes = []string{"https://a:b@control:7443"} },
		"whoever answers":         func(c *link.Config) { c.ControlPlaneID = "" },
		"a whole trust domain":    func(c *link.Config) { c.ControlPlaneID = "spiffe://prod.example" },
		"no key":                  func(c *link.Config) { c.Verifier = nil },
		"nothing that decides":    func(c *link.Config) { c.Policy = nil },
		"nothing that cuts off":   func(c *link.Config) { c.Security = nil },
		"no listeners":            func(c *link.Config) { c.Listeners = nil },
		"no identity":             func(c *link.Config) { c.Identity = nil },
		"no name":                 func(c *link.Config) { c.Instance = "" },
		"nowhere for its state":   func(c *link.Config) { c.Directory = "" },
		"a heartbeat in the past": func(c *link.Config) { c.Heartbeat = -1 },
	} {
		c := l.cfg
		spoil(&c)
		if _, err := link.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := link.New(l.cfg); err != nil {
		t.Errorf("as it should be: %v", err)
	}
}

// Two processes must not share what they remember.
func TestStateDirectoryIsForOneProcess(t *testing.T) {
	l := newLab(t)
	l.start(t, newTable())
	l.stream(t)
	c := l.cfg
	c.Policy, c.Security, c.Listeners = newTable(), newTable(), newTable()
	second, err := link.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := second.Run(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second process on the same directory: %v", err)
	}
}

func TestWaitsGrowAndSpread(t *testing.T) {
	ceilings, below := link.Waits(10)
	if !below || ceilings[0] != 50*time.Millisecond || ceilings[1] != 100*time.Millisecond || ceilings[9] != 3*time.Second {
		t.Errorf("ceilings are %v, waits below them: %t", ceilings, below)
	}
	for told, bound := range map[time.Duration][2]time.Duration{
		2 * time.Second: {time.Second, 3 * time.Second},
		-time.Hour:      {50 * time.Millisecond, 150 * time.Millisecond},
		time.Hour:       {30 * time.Second, 90 * time.Second},
	} {
		if d := link.Spread(told); d < bound[0] || d > bound[1] {
			t.Errorf("told %s, waits %s", told, d)
		}
	}
}
