package proof_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// fleet has two proxies, one of which is ahead.
func fleet() (proof.Claim, proof.Witnessed) {
	root := signer(1)
	seven, eight := head(7, root), head(8, root)
	w := proof.Witnessed{Heads: []*proxyv1.SignedHead{seven.Signed(), eight.Signed()}}
	for i, h := range []snapshot.Head{seven, eight} {
		k, a := must(proof.NewKey()), ackOf(h)
		k.Sign(a, "aws", since, later)
		w.Proxies = append(w.Proxies, &distributionv1.ProvenProxy{
			Id: "spiffe://prod.example/proxy/aws#" + string(rune('a'+i)), AckKey: k.Public(), Statement: a.GetStatement(), Signature: a.GetSignature(),
		})
	}
	secure(&w, 1, snapshot.SecurityLane)
	return proof.Claim{Environment: "aws", Position: seven.Position(), At: later, Others: 1}, w
}

// secure has a proxy, with a new key, say that it enforces sequence 3 of a lane.
func secure(w *proof.Witnessed, i int, lane string) {
	k, p := must(proof.NewKey()), w.Proxies[i]
	policy, security := ackOf(head(snapshot.Revision(7+i), signer(1))), ackOf(laneHead(3, signer(1)))
	k.Sign(policy, "aws", since, later)
	k.Sign(security, lane, since.Add(time.Second), later)
	p.AckKey, p.Statement, p.Signature = k.Public(), policy.GetStatement(), policy.GetSignature()
	p.SecurityStatement, p.SecuritySignature = security.GetStatement(), security.GetSignature()
	w.SecurityHeads = []*proxyv1.SignedHead{laneHead(3, signer(1)).Signed()}
}

// laneHead is that of the security lane at a sequence.
func laneHead(sequence snapshot.Revision, by *snapshot.Signer) snapshot.Head {
	return must(by.SignHead(snapshot.Statement{Epoch: 1, Environment: snapshot.SecurityLane, Revision: sequence, Root: snapshot.Digest{byte(sequence)}}))
}

func TestStatements(t *testing.T) {
	t.Parallel()
	c, w := fleet()
	file := must(proof.Write(c, w, signer(1)))
	s, err := proof.Read(file, signer(1).Verifier())
	if err != nil {
		t.Fatal(err)
	}
	if s.Environment != "aws" || s.Revision != 7 || s.Others != 1 || !s.At.Equal(later) || s.Generation != 0 || len(s.Proxies) != 2 {
		t.Errorf("it says %+v", s)
	}
	if p := s.Proxies[1]; p.ID != "spiffe://prod.example/proxy/aws#b" || p.Revision != 8 || !p.Since.Equal(since) {
		t.Errorf("of the second proxy it says %+v", p)
	} else if p.Security.Revision != 3 || !p.Security.Since.Equal(since.Add(time.Second)) {
		t.Errorf("of its security lane it says %+v", p.Security)
	}
	if p := s.Proxies[0]; !p.Security.Since.IsZero() {
		t.Errorf("of the first, which has said nothing of it, it says %+v", p.Security)
	}
}

// The keys of the fleet are replaced: a head that a retired key signed is still what
// proxies enforce, but who they are is for the keys of today to say.
func TestStatementsAfterKeysWereReplaced(t *testing.T) {
	t.Parallel()
	root, second := signer(1), signer(2)
	both := must(root.SignKeySet(snapshot.KeySet{}, root.Public(), second.Public()))
	only := must(second.SignKeySet(both, second.Public()))
	c, w := fleet()
	w.KeySets = []*proxyv1.SignedKeySet{both.Signed(), only.Signed()}
	s, err := proof.Read(must(proof.Write(c, w, second)), root.Verifier())
	if err != nil || s.Generation != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := proof.Read(must(proof.Write(c, w, root)), root.Verifier()); !errors.Is(err, snapshot.ErrRetired) {
		t.Errorf("a statement of a retired key: %v", err)
	}
	w.KeySets = w.KeySets[1:]
	if _, err := proof.Read(must(proof.Write(c, w, second)), root.Verifier()); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("a statement without what leads to its key: %v", err)
	}
}

// Whoever changes a statement, or makes one without the fleet's keys, proves nothing.
func TestStatementsThatProveNothing(t *testing.T) {
	t.Parallel()
	liar := must(proof.NewKey())
	lie := func(w *proof.Witnessed, change func(*proxyv1.Ack), environment string) {
		a := ackOf(head(7, signer(1)), change)
		liar.Sign(a, environment, since, later)
		w.Proxies[0].AckKey, w.Proxies[0].Statement, w.Proxies[0].Signature = liar.Public(), a.GetStatement(), a.GetSignature()
	}
	for name, c := range map[string]struct {
		change func(*proof.Claim, *proof.Witnessed)
		by     byte
		want   string
	}{
		"of another fleet":        {func(*proof.Claim, *proof.Witnessed) {}, 9, "does not sign for the fleet"},
		"a head of another fleet": {func(_ *proof.Claim, w *proof.Witnessed) { w.Heads[0] = head(7, signer(9)).Signed() }, 1, "does not sign for the fleet"},
		"without a head":          {func(_ *proof.Claim, w *proof.Witnessed) { w.Heads = w.Heads[:1] }, 1, "not that it enforces a head"},
		"of an older revision":    {func(c *proof.Claim, _ *proof.Witnessed) { c.Revision = 8 }, 1, "revision 7, which proves nothing here"},
		"of another environment":  {func(c *proof.Claim, _ *proof.Witnessed) { c.Environment = "gcp" }, 1, "of aws at revision 7"},
		"of no environment":       {func(c *proof.Claim, _ *proof.Witnessed) { c.Environment = "" }, 1, "missing or out of range"},
		"a proxy twice":           {func(_ *proof.Claim, w *proof.Witnessed) { w.Proxies[1] = w.Proxies[0] }, 1, "twice, or out of order"},
		"another's word":          {func(_ *proof.Claim, w *proof.Witnessed) { w.Proxies[0].AckKey = w.Proxies[1].GetAckKey() }, 1, "not signed with the key of the process"},
		"a proxy that rejects":    {func(_ *proof.Claim, w *proof.Witnessed) { lie(w, rejecting("p"), "aws") }, 1, "not that it enforces a head"},
		"a proxy that drifts": {func(_ *proof.Claim, w *proof.Witnessed) {
			lie(w, func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) }, "aws")
		}, 1, "not that it enforces a head"},
		"without a head of the security lane":         {func(_ *proof.Claim, w *proof.Witnessed) { w.SecurityHeads = nil }, 1, "not that it enforces a head"},
		"an environment's head for the security lane": {func(_ *proof.Claim, w *proof.Witnessed) { w.SecurityHeads = w.Heads }, 1, "of aws at revision 7"},
		"the environment's word for the security lane": {func(_ *proof.Claim, w *proof.Witnessed) {
			w.Proxies[1].SecurityStatement, w.Proxies[1].SecuritySignature = w.Proxies[1].GetStatement(), w.Proxies[1].GetSignature()
		}, 1, "not that it enforces a head"},
		"another lane's word":          {func(_ *proof.Claim, w *proof.Witnessed) { secure(w, 1, "aws") }, 1, "not that it enforces a head"},
		"half a word":                  {func(_ *proof.Claim, w *proof.Witnessed) { w.Proxies[1].SecurityStatement = nil }, 1, "not signed with the key of the process"},
		"of another environment's own": {func(_ *proof.Claim, w *proof.Witnessed) { lie(w, func(*proxyv1.Ack) {}, "gcp") }, 1, "not that it enforces a head"},
	} {
		claim, w := fleet()
		c.change(&claim, &w)
		if s, err := proof.Read(must(proof.Write(claim, w, signer(c.by))), signer(1).Verifier()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

// A statement with any bit changed, or cut anywhere, is none.
func TestDamagedStatements(t *testing.T) {
	t.Parallel()
	c, w := fleet()
	file := must(proof.Write(c, w, signer(1)))
	for i := range file {
		damaged := slices.Clone(file)
		damaged[i] ^= 1 << (i % 8)
		if s, err := proof.Read(damaged, signer(1).Verifier()); err == nil {
			t.Fatalf("byte %d is another: %+v", i, s)
		}
		if s, err := proof.Read(file[:i], signer(1).Verifier()); err == nil {
			t.Fatalf("it ends after %d bytes: %+v", i, s)
		}
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(slices.Clone(file), 99, protowire.VarintType), 1)
	if _, err := proof.Read(unknown, signer(1).Verifier()); err == nil {
		t.Error("a field that nobody knows is passed over")
	}
}

// Who takes the roster of one statement to another changes what is signed.
func TestAnothersKeyIsNotTaken(t *testing.T) {
	t.Parallel()
	c, w := fleet()
	file := must(proof.Write(c, w, signer(1)))
	const magic = "sallyport statement v1\n"
	var m distributionv1.EnforcedStatement
	if err := proto.Unmarshal(file[len(magic):], &m); err != nil {
		t.Fatal(err)
	}
	k, a := must(proof.NewKey()), ackOf(head(7, signer(1)))
	k.Sign(a, "aws", since, later)
	m.Proxies[0].AckKey, m.Proxies[0].Statement, m.Proxies[0].Signature = k.Public(), a.GetStatement(), a.GetSignature()
	forged := append([]byte(magic), must(proto.Marshal(&m))...)
	if _, err := proof.Read(forged, signer(1).Verifier()); err == nil || !strings.Contains(err.Error(), "other keys") {
		t.Errorf("got %v", err)
	}
}
