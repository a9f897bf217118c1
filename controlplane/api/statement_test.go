package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// head signs that of aws at a revision, and keeps it as the publisher does.
func (w *world) head(t testing.TB, revision snapshot.Revision) snapshot.Head {
	t.Helper()
	h := must(signer.SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: revision, Root: snapshot.Digest{byte(revision)}}))
	term := must(w.store.BeginTerm(t.Context(), "test"))
	if err := w.store.SaveHeads(t.Context(), term, []snapshot.Head{h}); err != nil {
		t.Fatal(err)
	}
	return h
}

// laneHead signs that of the security lane at its first sequence, and keeps it.
func (w *world) laneHead(t testing.TB) snapshot.Head {
	t.Helper()
	h := must(signer.SignHead(snapshot.Statement{Epoch: 1, Environment: snapshot.SecurityLane, Revision: 1, Root: snapshot.Digest{1}}))
	term := must(w.store.BeginTerm(t.Context(), "test"))
	if err := w.store.SaveHeads(t.Context(), term, []snapshot.Head{h}); err != nil {
		t.Fatal(err)
	}
	return h
}

// cuttingOff has a proxy have signed that it enforces heads of both lanes.
func cuttingOff(policy, security snapshot.Head) func(*adminv1.Proxy) {
	k := must(proof.NewKey())
	since := time.Now().Add(-time.Hour)
	say := func(h snapshot.Head) *adminv1.Proof {
		digest := h.Digest()
		ack := &proxyv1.Ack{Epoch: int64(h.Epoch), Revision: int64(h.Revision), HeadDigest: digest[:], EnforcedRoot: h.Root[:]}
		k.Sign(ack, h.Environment, since, since)
		return &adminv1.Proof{
			Epoch: ack.GetEpoch(), Revision: ack.GetRevision(), EnforcedAt: timestamppb.New(since),
			Statement: ack.GetStatement(), Signature: ack.GetSignature(),
		}
	}
	return func(p *adminv1.Proxy) {
		p.AckKey, p.Proofs, p.SecurityProof = k.Public(), []*adminv1.Proof{say(policy)}, say(security)
	}
}

// proven has a proxy have signed that it enforces a head, since an hour.
func proven(t testing.TB, h snapshot.Head) func(*adminv1.Proxy) {
	t.Helper()
	k := must(proof.NewKey())
	digest, since := h.Digest(), time.Now().Add(-time.Hour)
	ack := &proxyv1.Ack{Epoch: int64(h.Epoch), Revision: int64(h.Revision), HeadDigest: digest[:], EnforcedRoot: h.Root[:]}
	k.Sign(ack, h.Environment, since, since)
	return func(p *adminv1.Proxy) {
		p.AckKey = k.Public()
		p.Proofs = []*adminv1.Proof{{
			Epoch: ack.GetEpoch(), Revision: ack.GetRevision(), EnforcedAt: timestamppb.New(since),
			Statement: ack.GetStatement(), Signature: ack.GetSignature(),
		}}
	}
}

func TestExportStatement(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("only", "aws"))
	export := func(environment string, revision int64) (*adminv1.ExportStatementResponse, error) {
		res, err := w.fleet(t, viewer).ExportStatement(t.Context(), connect.NewRequest(&adminv1.ExportStatementRequest{Environment: environment, Revision: revision}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	if _, err := export("aws", 1); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("nothing is signed yet: %v", err)
	}
	first, second, security := w.head(t, 1), w.head(t, 2), w.laneHead(t)
	forged := must(signer.SignHead(snapshot.Statement{Epoch: 1, Environment: snapshot.SecurityLane, Revision: 1, Root: snapshot.Digest{2}}))
	for instance, change := range map[string]func(*adminv1.Proxy){
		"a": proven(t, first), "b": proven(t, second), "unsigned": func(*adminv1.Proxy) {},
		"away": func(p *adminv1.Proxy) { proven(t, second)(p); lost(p) },
		"c":    cuttingOff(second, security), "d": cuttingOff(second, forged),
		"another": proven(t, must(signer.SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: 2}))),
	} {
		w.proxy(t, "aws", instance, 2, adminv1.Enforcement_ENFORCEMENT_ENFORCED, change)
	}
	for revision, want := range map[int64]string{1: "a@1 b@2 c@2/1 d@2", 2: "b@2 c@2/1 d@2", 0: "b@2 c@2/1 d@2"} {
		m, err := export("aws", revision)
		if err != nil {
			t.Fatal(err)
		}
		s, err := proof.Read(m.GetStatement(), signer.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range s.Proxies {
			text := fmt.Sprintf("%s@%d", p.ID[strings.IndexByte(p.ID, '#')+1:], p.Revision)
			if p.Security.Revision > 0 {
				text += fmt.Sprintf("/%d", p.Security.Revision)
			}
			got = append(got, text)
		}
		if text := strings.Join(got, " "); text != want || int(m.GetProxies()) != len(got) || s.Others != 7-len(got) || int(m.GetOthers()) != s.Others {
			t.Errorf("revision %d is enforced by %s and not by %d, want %s", revision, text, s.Others, want)
		}
	}
	if _, err := export("azure", 0); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("of no environment: %v", err)
	}
}
