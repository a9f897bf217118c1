package revocation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func TestRevoked(t *testing.T) {
	issued := func(ago time.Duration) func(*policy.Principal) {
		return func(p *policy.Principal) { p.IssuedAt = noon.Add(-ago) }
	}
	untold := func(p *policy.Principal) { p.IssuedAt = time.Time{} }
	from := func(issuer string) func(*policy.Principal) { return func(p *policy.Principal) { p.Issuer = issuer } }
	token := func(id string) func(*policy.Principal) { return func(p *policy.Principal) { p.TokenID = id } }
	session := func(id string) func(*policy.Principal) { return func(p *policy.Principal) { p.Session = id } }
	beside := func(id string) func(*policy.Principal) { return func(p *policy.Principal) { p.SPIFFEID = id } }
	withKey := func(id string) func(*policy.Principal) { return func(p *policy.Principal) { p.KeyID = id } }
	named := func(id string) func(*policy.Principal) { return func(p *policy.Principal) { p.ID = id } }

	with := func(others ...*policy.Principal) func(*policy.Principal) {
		return func(p *policy.Principal) {
			p.Beside = others
			for _, other := range others {
				p.SPIFFEID, p.KeyID = p.SPIFFEID+other.SPIFFEID, p.KeyID+other.KeyID
			}
		}
	}
	terminal := func(p *policy.Principal) {
		p.ID, p.Issuer, p.TokenID, p.Session = "pos-7", "https://pki.example", "", ""
	}

	type check struct {
		who     *policy.Principal
		revoked bool
	}
	cut := func(p *policy.Principal) check { return check{p, true} }
	pass := func(p *policy.Principal) check { return check{p, false} }
	for _, c := range []struct {
		revocation string
		checks     []check
	}{
		{`token: {issuer: "https://login.example", id: t-1}`, []check{
			cut(alice()), cut(alice(untold)), cut(alice(named("bob"))),
			pass(alice(token("t-2"))), pass(alice(token("t-1x"))), pass(alice(token(""))), pass(alice(from(other))),
			pass(alice(token(""), session("t-1"))), pass(workload("t-1")), pass(key("t-1")),
		}},
		{`subject: {issuer: "https://login.example", id: alice}`, []check{
			cut(alice()), cut(alice(token("t-2"), session("s-2"))), cut(alice(token(""), session(""), untold)),
			pass(alice(named("bob"))), pass(alice(named("Alice"))), pass(alice(from(other))), pass(alice(from(""))), pass(workload("alice")),
		}},
		{`session: {issuer: "https://login.example", id: s-1}`, []check{
			cut(alice()), cut(alice(token("t-2"))),
			pass(alice(session("s-2"))), pass(alice(session(""))), pass(alice(from(other))), pass(alice(session(""), token("s-1"))),
		}},
		{`key: k-1`, []check{
			cut(key("k-1")), cut(alice(withKey("k-1"))),
			pass(key("k-2")), pass(alice()), pass(alice(named("k-1"))),
		}},
		{`spiffeId: "spiffe://prod.example/ns/shop/web"`, []check{
			cut(workload(web)), cut(alice(beside(web))),
			pass(workload(web + "2")), pass(workload(web + "/a")), pass(workload("spiffe://prod.example/ns/shop")), pass(alice()),
		}},
		{`issuer: "https://login.example", issuedBefore: "2026-01-31T11:30:00Z"`, []check{
			cut(alice()), cut(alice(named("bob"), token(""))), cut(alice(untold)),
			pass(alice(issued(30 * time.Minute))), pass(alice(issued(29 * time.Minute))), pass(alice(from(other))), pass(workload(web)),
		}},
		{`everyone: true, issuedBefore: "2026-01-31T11:30:00Z"`, []check{
			cut(alice()), cut(alice(from(other))), cut(workload(web)), cut(key("k-1")), cut(alice(untold)),
			pass(alice(issued(30 * time.Minute))),
			pass(nil), pass(&policy.Principal{}), pass(&policy.Principal{ID: "alice", Issuer: login, TokenID: "t-1"}),
		}},
		{`subject: {issuer: "https://login.example", id: alice}, issuedBefore: "2026-01-31T11:30:00Z"`, []check{
			cut(alice()), cut(alice(issued(30*time.Minute + 1))), cut(alice(untold)), pass(alice(issued(30 * time.Minute))), pass(alice(issued(0))),
		}},
		// Each credential that was proven, in any order, is enough.
		{`subject: {issuer: "https://pki.example", id: pos-7}`, []check{
			cut(alice(terminal)), cut(alice(with(alice(terminal)))), cut(alice(with(key("k-1"), alice(terminal)))),
			cut(key("k-1", with(alice(terminal)))),
			pass(alice(with(alice(terminal, named("pos-8"))))), pass(alice(with(alice(terminal, from(other))))),
			pass(alice(named("pos-7"), with(alice(terminal, named("pos-8"))))),
		}},
		{`issuer: "https://pki.example", issuedBefore: "2026-01-31T11:30:00Z"`, []check{
			cut(alice(issued(0), with(alice(terminal)))), pass(alice(with(alice(terminal, issued(0))))),
		}},
		{`session: {issuer: "https://login.example", id: s-9}`, []check{
			cut(key("k-1", with(alice(session("s-9"))))), pass(key("k-1", with(alice(), alice(session(""))))),
		}},
		{`spiffeId: "spiffe://prod.example/ns/shop/web", issuedBefore: "2026-01-31T11:30:00Z"`, []check{
			cut(alice(issued(0), with(workload(web)))), cut(alice(issued(0), with(key("k-1"), workload(web)))), pass(alice(with(key("k-1")))),
		}},
		{`spiffeId: "spiffe://prod.example/ns/shop/web", issuedBefore: "2026-01-31T10:59:00Z"`, []check{
			pass(alice(with(workload(web)))), pass(alice(untold, with(workload(web)))),
		}},
		{`key: k-1, issuedBefore: "2026-01-31T10:59:00Z"`, []check{
			pass(alice(untold, with(key("k-1")))), pass(key("k-1", with(workload(web)))),
		}},
		{`key: k-1, issuedBefore: "2026-01-31T11:30:00Z"`, []check{
			cut(alice(issued(0), with(workload(web), key("k-1")))), cut(key("k-1", with(workload(web)))),
		}},
		// When a certificate was made of which no more is known than its ID is not.
		{`spiffeId: "spiffe://prod.example/ns/shop/web", issuedBefore: "2026-01-31T10:00:00Z"`, []check{
			pass(workload(web)), cut(alice(beside(web))),
		}},
		{`key: k-1, issuedBefore: "2026-01-31T10:00:00Z"`, []check{
			pass(key("k-1")), cut(alice(withKey("k-1"))),
		}},
		{`key: k-1, expiresAt: "2026-01-31T12:00:00.000000001Z"`, []check{cut(key("k-1"))}},
		{`key: k-1, expiresAt: "2026-01-31T12:00:00Z"`, []check{pass(key("k-1"))}},
		{`key: k-1, expiresAt: "2026-01-31T11:00:00Z"`, []check{pass(key("k-1"))}},
	} {
		set := compiled(t, "stolen: "+c.revocation, `noise: subject: {issuer: "https://login.example", id: mallory}`)
		checkRoot(t, set)
		for _, k := range c.checks {
			name, revoked := set.Revoked(k.who, noon)
			if revoked != k.revoked || revoked && name != "stolen" {
				t.Errorf("%s: %+v: revoked is %t by %q", c.revocation, k.who, revoked, name)
			}
		}
	}
}

// Several revocations of one subject hold each for itself.
func TestRevokedTwice(t *testing.T) {
	set := compiled(t,
		`b: key: k-1, expiresAt: "2026-01-31T13:00:00Z"`,
		`a: key: k-1, expiresAt: "2026-01-31T12:30:00Z"`,
		`c: key: k-1, issuedBefore: "2026-01-31T10:00:00Z"`,
	)
	for at, want := range map[time.Duration]string{0: "a", 29 * time.Minute: "a", 30 * time.Minute: "b", time.Hour: "", 2 * time.Hour: ""} {
		if name, revoked := set.Revoked(key("k-1"), noon.Add(at)); name != want || revoked != (want != "") {
			t.Errorf("at noon and %s: revoked is %t by %q, want %q", at, revoked, name, want)
		}
	}
}

// Without a state nobody passes who could have been revoked.
func TestNoSet(t *testing.T) {
	var none *revocation.Set
	if _, revoked := none.Revoked(alice(), noon); !revoked {
		t.Error("without a set alice passes")
	}
	if _, revoked := none.Revoked(nil, noon); revoked {
		t.Error("who proved nothing is revoked")
	}
	if none.Snapshot() != nil || none.Rejects() != nil || !none.Head().IsZero() || none.EnforcedRoot() != (*snapshot.Set)(nil).Root() {
		t.Error("no set is something")
	}
	empty := revocation.Compile(nil, snap(t, 1, nil))
	checkRoot(t, empty)
	if _, revoked := empty.Revoked(alice(), noon); revoked || empty.Unavailable() != "" {
		t.Error("an empty set revokes alice")
	}
}

// What is not understood is rejected by name, and nobody is to pass.
func TestRejects(t *testing.T) {
	good := document(t, "good", `key: k-1`)
	respec := func(edit func(*resourcev1.Revocation)) []byte {
		return respecced(t, document(t, "bad", `key: k-2`), edit)
	}
	whole := func(edit func(*resourcev1.Document)) []byte { return edited(t, document(t, "bad", `key: k-2`), edit) }
	for name, c := range map[string]struct {
		document []byte
		reason   string
	}{
		"a field of a newer build":     {whole(func(d *resourcev1.Document) { d.Spec = append(d.Spec, newer()...) }), "not known"},
		"an envelope of a newer build": {whole(func(d *resourcev1.Document) { d.ProtoReflect().SetUnknown(newer()) }), "not known"},
		"a kind of a newer build":      {whole(func(d *resourcev1.Document) { d.Kind = "DevicePosture" }), "kind is not known"},
		"a target of a newer build":    {respec(func(r *resourcev1.Revocation) { r.Target = nil; r.ProtoReflect().SetUnknown(newer()) }), "not known"},
		"no target":                    {respec(func(r *resourcev1.Revocation) { r.Target = nil }), "give one of token"},
		"everyone, but false":          {respec(func(r *resourcev1.Revocation) { r.Target = &resourcev1.Revocation_Everyone{} }), "everyone"},
		"everyone, since ever": {respec(func(r *resourcev1.Revocation) {
			r.Target = &resourcev1.Revocation_Everyone{Everyone: true}
		}), "needs issued_before"},
		"a time that is none": {respec(func(r *resourcev1.Revocation) { r.ExpiresAt = &timestamppb.Timestamp{Nanos: -1} }), "expiresAt"},
		"no spec":             {whole(func(d *resourcev1.Document) { d.Spec = []byte{0xff} }), "spec"},
		"in a namespace":      {whole(func(d *resourcev1.Document) { d.Namespace = "shop" }), "namespace"},
		"another kind": {whole(func(d *resourcev1.Document) {
			d.Kind, d.Spec = "Environment", nil
		}), "does not belong into the security lane"},
	} {
		set := revocation.Compile(nil, snap(t, 1, [][]byte{good, c.document}))
		checkRoot(t, set)
		if len(set.Rejects()) != 1 || !strings.Contains(set.Rejects()[0].Reason, c.reason) || set.Rejects()[0].Key.Name != "bad" {
			t.Errorf("%s: rejects are %v, want %q", name, set.Rejects(), c.reason)
			continue
		}
		if !strings.HasSuffix(set.Unavailable(), set.Rejects()[0].Reason) {
			t.Errorf("%s: unavailable is %q", name, set.Unavailable())
		}
		if _, revoked := set.Revoked(key("k-1"), noon); !revoked {
			t.Errorf("%s: what is understood beside it does not hold", name)
		}
		after := revocation.Compile(set, snap(t, 2, [][]byte{good}))
		checkRoot(t, after)
		if after.Unavailable() != "" {
			t.Errorf("%s: when it is gone: %s", name, after.Unavailable())
		}
	}
}

// What a faulty build lost or left cannot hide: the root that it acknowledges
// with is another one.
func TestEnforcedRootShowsFaults(t *testing.T) {
	set := compiled(t, `a: key: k-1`, `b: key: k-1, issuedBefore: "2026-01-31T10:00:00Z"`, `c: key: k-2`, `d: everyone: true, issuedBefore: "2026-01-31T10:00:00Z"`)
	checkRoot(t, set)
	for _, name := range []string{"a", "b", "c", "d"} {
		want := set.Snapshot().Set().Without([]resource.Key{{Kind: resource.KindRevocation, Name: name}})
		if got := set.Lose(name).EnforcedRoot(); got != want {
			t.Errorf("root without %s is %s, want %s", name, got.Short(), want.Short())
		}
	}
	next := revocation.Compile(set, snap(t, 2, documents(t, `a: key: k-1`, `c: key: k-3`)))
	checkRoot(t, next)
	if root := next.KeepIndexes(set).EnforcedRoot(); root != set.Head().Root {
		t.Errorf("root with the revocations before is %s", root.Short())
	}
}

func TestRevokedDoesNotAllocate(t *testing.T) {
	set := compiled(t, everyKind...)
	p := alice(func(p *policy.Principal) { p.SPIFFEID, p.KeyID = web, "k-9" })
	if n := testing.AllocsPerRun(1000, func() { set.Revoked(p, noon) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// everyKind cuts off nobody but mallory, by all that there is.
var everyKind = []string{
	`token: token: {issuer: "https://login.example", id: t-9}`,
	`subject: subject: {issuer: "https://login.example", id: mallory}`,
	`session: session: {issuer: "https://login.example", id: s-9}`,
	`key: key: k-7`,
	`spiffe: spiffeId: "spiffe://prod.example/mallory"`,
	`issuer: issuer: "https://mallory.example", issuedBefore: "2026-01-31T10:00:00Z"`,
	`everyone: everyone: true, issuedBefore: "2026-01-31T10:00:00Z"`,
}

// large is so many revocations, half of tokens and half of subjects.
func large(t failer, n int) []snapshot.Entry {
	t.Helper()
	entries := make([]snapshot.Entry, n)
	for i := range entries {
		spec := &resourcev1.Revocation{ExpiresAt: timestamppb.New(noon.Add(time.Hour)), Reason: "stolen"}
		if i%2 == 0 {
			spec.Target = &resourcev1.Revocation_Token{Token: &resourcev1.RevokedToken{Issuer: login, Id: fmt.Sprintf("token-%d", i)}}
		} else {
			spec.Target = &resourcev1.Revocation_Subject{Subject: &resourcev1.RevokedSubject{Issuer: login, Id: fmt.Sprintf("user-%d", i)}}
		}
		b, err := resource.Encode(resource.Parsed{Key: resource.Key{Kind: resource.KindRevocation, Name: fmt.Sprintf("r-%d", i)}, Spec: spec})
		if err != nil {
			t.Fatalf("%v", err)
		}
		if entries[i], err = snapshot.NewEntry(b); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return entries
}
