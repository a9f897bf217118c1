package e2e_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// What proxies have signed proves to whoever has the root key alone that they enforce
// a revision, and since when.
func TestStatementProvesItself(t *testing.T) {
	f := start(t)
	aws := f.Members[0]
	began := time.Now()
	revision, err := f.Admin.Apply(t.Context(), policyNamed("stated"), "to be stated")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	root, err := f.RootPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	var s *proof.Statement
	eventually(t, 10*time.Second, func(ctx context.Context) (bool, string) {
		res, err := f.Admin.Fleet.ExportStatement(ctx, connect.NewRequest(&adminv1.ExportStatementRequest{Environment: aws.Environment, Revision: revision}))
		if err != nil {
			return false, err.Error()
		}
		if s, err = proof.Read(res.Msg.GetStatement(), snapshot.NewVerifier(root)); err != nil {
			t.Fatal(err)
		}
		return len(s.Proxies) == 1, "nobody has proven it"
	})
	p := s.Proxies[0]
	if s.Environment != aws.Environment || int64(p.Revision) != revision || s.Others != 0 ||
		p.Since.Before(began) || p.Since.After(p.At) || p.At.After(time.Now()) {
		t.Errorf("it says %+v", s)
	}
	verified, err := f.Admin.Fleet.Verify(t.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: p.ID}))
	if err != nil || verified.Msg.GetRevision() != revision || verified.Msg.GetDocuments() == 0 || len(verified.Msg.GetDeviations()) > 0 {
		t.Errorf("compared document by document it is %v, %v", verified, err)
	}
	res, err := f.Admin.Fleet.Status(t.Context(), connect.NewRequest(&adminv1.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range res.Msg.GetEnvironments() {
		if e.GetEnforcing() != 1 || !e.GetProxies()[0].GetSigned() {
			t.Errorf("the status is %v", e)
		}
	}
}
