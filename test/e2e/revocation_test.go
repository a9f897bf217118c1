package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// Who is revoked is cut off by both proxies, with proof; stays so when a proxy
// restarts while there is no control plane; and is let in again when the
// revocation is deleted.
func TestRevocation(t *testing.T) {
	f := start(t)
	const alice, bob = "alice", "bob"
	answers := func(when, ofAlice string) {
		t.Helper()
		for _, m := range f.Members {
			for subject, want := range map[string]string{alice: ofAlice, bob: "200"} {
				if got := asks(t, f, m, subject); got != want {
					t.Errorf("%s, %s asks %s: %s, want %s", when, subject, m.Name, got, want)
				}
			}
		}
	}
	answers("before", "200")
	sequence, err := f.Admin.Revoke(t.Context(), revocationOf(f, "alice-left", alice), "alice has left")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Revoked(t.Context(), sequence, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	answers("revoked", "401 revoked")

	// That of the lane is proven to be on disk; the first snapshot may not be yet.
	eventually(t, 10*time.Second, func(ctx context.Context) (bool, string) {
		p, err := proxyOf(ctx, f, f.Members[0])
		return err == nil && p.GetPersistedRevision() > 0, "no snapshot is on disk"
	})

	if err := f.ControlPlane.Kill(); err != nil {
		t.Fatal(err)
	}
	answers("without a control plane", "401 revoked")
	if err := f.Members[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.Members[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), f.Members[0]); err != nil {
		t.Fatal(err)
	}
	answers("restarted without a control plane", "401 revoked")

	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ControlPlaneReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
	deleted, err := f.Admin.Config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{
		Keys: []*adminv1.Key{{Kind: "Revocation", Name: "alice-left"}}, Message: "alice is back",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Revoked(t.Context(), deleted.Msg.GetSecuritySequence(), f.Environments()...); err != nil {
		t.Fatal(err)
	}
	answers("taken back", "200")
}

// The same of revocations: a proxy that does not put them in force, or loses one,
// cannot prove them, and a wait for proof names it.
func TestBrokenRevocationsShowAsDrift(t *testing.T) {
	f := start(t)
	aws, gcp := f.Members[0], f.Members[1]
	for _, broken := range []string{"gateway.skip-revoke", "revocation.drop"} {
		if err := aws.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := aws.Start(armed(broken)); err != nil {
			t.Fatal(err)
		}
		if err := f.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
		sequence, err := f.Admin.Revoke(t.Context(), revocationOf(f, strings.ReplaceAll(broken, ".", "-"), "mallory"), broken)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, func(ctx context.Context) (bool, string) {
			p, err := proxyOf(ctx, f, aws)
			return err == nil && p.GetSecurity().GetSequence() >= sequence && p.GetSecurity().GetEnforcement() == adminv1.Enforcement_ENFORCEMENT_DRIFT,
				fmt.Sprintf("%s: the lane is %v, %v", broken, p.GetSecurity(), err)
		})
		if err := f.Admin.Revoked(t.Context(), sequence, gcp.Environment); err != nil {
			t.Errorf("%s: the other proxy: %v", broken, err)
		}
		waiting, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := f.Admin.Revoked(waiting, sequence, aws.Environment); err == nil {
			t.Errorf("%s: the wait for proof ended as if there were one", broken)
		}
		cancel()
	}
}

func revocationOf(f *fleet.Fleet, name, subject string) string {
	return fmt.Sprintf(`apiVersion: sallyport/v1
kind: Revocation
metadata: {name: %s}
spec: {subject: {issuer: %q, id: %s}, reason: test}
`, name, f.Described.TokenIssuer, subject)
}

// asks returns "200", or status and reason of a denial, for a subject of shop.
func asks(t *testing.T, f *fleet.Fleet, m *fleet.Member, subject string) string {
	t.Helper()
	token, err := f.Sign(fleet.TokenRequest{Subject: subject, Groups: []string{"shop"}, Audience: "orders", ExpiresIn: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := f.Send(within(t, 10*time.Second), m, fleet.Request{Method: http.MethodGet, Path: "/v1/orders/7", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status == http.StatusOK {
		return "200"
	}
	_, reason, _ := strings.Cut(string(answer.Body), `"reason":"`)
	reason, _, _ = strings.Cut(reason, `"`)
	return fmt.Sprint(answer.Status, " ", reason)
}

// revoke makes revocations, each of a subject of its own, and remembers the
// sequences that were answered.
func (l *load) revoke(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("r%d", i)
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		sequence, err := l.fleet.Admin.Revoke(one, revocationOf(l.fleet, name, name), "load")
		cancel()
		if err == nil {
			l.mu.Lock()
			l.revoked[name] = sequence
			l.mu.Unlock()
		}
		select { // fewer than of policies, and no busy loop while the control plane is down
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkRevocations compares what was answered with what the security lane
// holds, whose sequences have no gap, and waits for both proxies to prove it.
func checkRevocations(t *testing.T, f *fleet.Fleet, l *load) {
	t.Helper()
	stored := storedOf(t, f, "Revocation")
	lost := 0
	for name, sequence := range l.revoked {
		if stored[name] != sequence {
			t.Errorf("%s was answered with security sequence %d, and is stored at %d", name, sequence, stored[name])
			lost++
		}
	}
	sequences := make([]int64, 0, len(stored))
	for _, sequence := range stored {
		sequences = append(sequences, sequence)
	}
	slices.Sort(sequences)
	for i, sequence := range sequences {
		if sequence != sequences[0]+int64(i) {
			t.Fatalf("security sequence %d follows %d", sequence, sequences[i-1])
		}
	}
	fmt.Printf("figure e2e_revocations_answered %d revocations\nfigure e2e_revocations_lost %d revocations\n", len(l.revoked), lost)
	if len(sequences) == 0 {
		t.Fatal("nothing was revoked")
	}
	last := sequences[len(sequences)-1]
	eventually(t, 2*time.Minute, func(ctx context.Context) (bool, string) {
		err := f.Admin.Revoked(ctx, last, f.Environments()...)
		return err == nil, fmt.Sprintf("security sequence %d is not enforced: %v", last, err)
	})
}
