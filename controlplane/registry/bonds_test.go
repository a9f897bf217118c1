package registry_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const replicaID identity.ID = "spiffe://prod.example/control"

// trusting has the replicas of a lab that are started later know whose SVIDs are good.
func (l *lab) trusting() *lab {
	l.Helper()
	l.issuer = newIssuer(l, replicaID.TrustDomain())
	endpoint, err := l.issuer.Listen(replicaID, filepath.Join(l.TempDir(), "s"), 0)
	if err != nil {
		l.Fatal(err)
	}
	run(l, endpoint.Run)
	source, err := identity.New(identity.Config{SocketAddr: endpoint.Addr(), Log: slog.New(slog.DiscardHandler), Now: l.clock.now})
	if err != nil {
		l.Fatal(err)
	}
	run(l, source.Run)
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	if err := source.Wait(ctx); err != nil {
		l.Fatal(err)
	}
	l.svids = source
	return l
}

func newIssuer(t testing.TB, of identity.TrustDomain) *issuer.Issuer {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: of, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// bind has somebody with an SVID for an hour sign that a key is of a process.
func (l *lab) bind(by, id, instance string, k *proof.Key) *proxyv1.KeyBinding {
	l.Helper()
	return bindBy(l, l.issuer, by, id, instance, k)
}

func bindBy(t testing.TB, is *issuer.Issuer, by, id, instance string, k *proof.Key) *proxyv1.KeyBinding {
	t.Helper()
	cert, err := is.Issue(identity.ID(by), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proof.Bind(proof.Keys{SPIFFEID: id, Instance: instance, Ack: k.Public()}, identity.SVID{ID: identity.ID(by), Certificate: &cert})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An edge that has keys of its own signs what it likes with them, in the name of a
// proxy: it is recorded, and proves nothing. Where it cannot be a build of before, it is
// an alarm.
func TestEdgesHaveNoKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	honest, evil, s, lane := newKey(t), newKey(t), at(t, 7, "a"), of(t, snapshot.SecurityLane, 3, "x")
	liar := newIssuer(t, replicaID.TrustDomain())
	const alarm = "an edge told of keys that are not those"
	for name, c := range map[string]struct {
		key    *proof.Key
		change func(*registry.Told)
		doubt  string // none when empty
		alarm  bool
	}{
		"honest":                 {honest, func(*registry.Told) {}, "", false},
		"a build of before":      {honest, func(t *registry.Told) { t.Binding, t.Status.ProtocolVersion = nil, 2 }, "its build does not prove it", false},
		"an edge of before":      {honest, func(t *registry.Told) { t.Binding = nil }, "the edge does not hand on its proof", false},
		"the proof of the proxy": {evil, func(t *registry.Told) { t.Binding = l.bind(one, one, t.Instance, honest) }, "another key", true},
		"of another process":     {honest, func(t *registry.Told) { t.Binding = l.bind(one, one, "b", honest) }, "another process", true},
		"of another proxy":       {honest, func(t *registry.Told) { t.Binding = l.bind(two, two, t.Instance, honest) }, "another process", true},
		"by another proxy":       {evil, func(t *registry.Told) { t.Binding = l.bind(two, one, t.Instance, evil) }, "svid of " + two, true},
		"by the edge":            {evil, func(t *registry.Told) { t.Binding = l.bind("spiffe://prod.example/edge", one, t.Instance, evil) }, "svid of spiffe://prod.example/edge", true},
		"by another authority":   {evil, func(t *registry.Told) { t.Binding = bindBy(l, liar, one, one, t.Instance, evil) }, "verify leaf certificate", true},
		"by nobody":              {evil, func(t *registry.Told) { t.Binding = &proxyv1.KeyBinding{} }, "empty", true},
		"of who is gone":         {evil, func(t *registry.Told) { t.Binding, t.Connected = &proxyv1.KeyBinding{}, false }, "empty", false},
	} {
		before, instance := r.log.count(alarm), strings.ReplaceAll(name, " ", "-")
		lies := func(t *registry.Told) {
			t.SecurityAck = ackOf(lane)
			c.key.Sign(t.SecurityAck, snapshot.SecurityLane, minute(1), minute(1))
			t.Status.Proofs = []*adminv1.Proof{{Epoch: 1, Revision: 7, Statement: t.Ack.GetStatement(), Signature: t.Ack.GetSignature()}}
			t.Status.AckKeyDoubt = "none of its business"
		}
		if _, err := r.Report(t.Context(), "near", []registry.Told{l.told(one, instance, c.key, s, lies, c.change)}, knows(s, lane)); err != nil {
			t.Fatal(err)
		}
		p := l.proxy(r, one, instance)
		enforces := p.GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_ENFORCED
		secure := p.GetSecurity().GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_ENFORCED
		proven := len(p.GetProofs()) == 1 && p.GetSecurityProof() != nil
		if good := c.doubt == ""; enforces != good || secure != good || proven != good || !good && (len(p.GetProofs()) > 0 || p.GetSecurityProof() != nil) {
			t.Errorf("%s: %v", name, p)
		}
		if p.GetRevision() != 7 || !strings.Contains(p.GetAckKeyDoubt(), c.doubt) || (c.doubt == "") != (p.GetAckKeyDoubt() == "") {
			t.Errorf("%s: it is at %d, and in doubt is %q", name, p.GetRevision(), p.GetAckKeyDoubt())
		}
		if got := r.log.count(alarm) > before; got != c.alarm {
			t.Errorf("%s: there is an alarm: %v", name, got)
		}
	}
}

// Who has not proven its key is late, with the reason, and not in a statement. What it
// says against itself counts.
func TestDoubtedKeysAreNamed(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	s := at(t, 7, "p", "q")
	before := func(t *registry.Told) { t.Binding, t.Status.ProtocolVersion = nil, 2 }
	k := newKey(t)
	rejects := func(told *registry.Told) {
		before(told)
		told.Ack = ackOf(s, rejecting(s, "q"))
		k.Sign(told.Ack, "aws", minute(1), minute(1))
	}
	if _, err := r.Report(t.Context(), "near", []registry.Told{
		l.told(one, "a", newKey(t), s, before), l.told(one, "b", newKey(t), s), l.told(one, "c", k, s, rejects),
	}, knows(s)); err != nil {
		t.Fatal(err)
	}
	l.is(r, 7, "1/2/0/0 [one#a it is not known that its key is its own: its build does not prove it]"+
		" [one#c rejected 1 resources, the first is Policy/shop/q: too new] [one#b since 1 signed]")
	proven, others, err := r.Proven(t.Context(), "aws", 7)
	if err != nil || len(proven) != 1 || proven[0].GetId() != one+"#b" || others != 2 {
		t.Errorf("proven is %v, %d others (%v)", proven, others, err)
	}
}

// A proxy of another trust domain proves its key as long as that is trusted, and any
// proxy for as long as its SVID is good: then it has to come with the next.
func TestBindingsEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t).trusting()
	const theirs = "spiffe://partner.example/proxy/aws/one"
	partner := newIssuer(t, "partner.example")
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"), enroll(t, "partner", theirs, "aws"))
	r := l.ready("full")
	l.admitted(r, one, "aws")
	s, k := at(t, 7, "p"), newKey(t)
	foreign := func(t *registry.Told) { t.Binding = bindBy(l, partner, theirs, theirs, "a", k) }
	told, stranger := l.told(one, "a", k, s), l.told(one, "a", k, s, foreign)
	stranger.SPIFFEID = theirs
	is := func(when string, what registry.Told, doubt string) {
		t.Helper()
		if _, err := r.Report(t.Context(), "near", []registry.Told{what}, knows(s)); err != nil {
			t.Fatal(err)
		}
		if got := l.proxy(r, what.SPIFFEID, "a").GetAckKeyDoubt(); !strings.Contains(got, doubt) || (got == "") != (doubt == "") {
			t.Errorf("%s: in doubt is %q", when, got)
		}
	}
	is("before anybody vouches for it", stranger, "bundle")
	block, _ := pem.Decode(partner.BundlePEM())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	source := l.svids.(*identity.Source)
	federate := func(roots ...*x509.Certificate) {
		t.Helper()
		changed := source.Changed()
		if err := l.issuer.Federate("partner.example", roots...); err != nil {
			t.Fatal(err)
		}
		<-changed
	}
	federate(root)
	is("federated", stranger, "")
	federate()
	l.clock.advance(2 * time.Minute)
	is("not any more", stranger, "bundle")
	is("of our own", told, "")
	l.clock.advance(57 * time.Minute)
	is("before its end", told, "")
	l.clock.advance(3 * time.Minute)
	is("when it has expired", told, "expired")
	cert := l.told(one, "a", k, s, func(t *registry.Told) { t.Binding = told.Binding })
	is("said again", cert, "expired")
}
