package api_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// rollback goes back, or ends the test.
func (w *world) rollback(t testing.TB, req *adminv1.RollbackRequest) *adminv1.RollbackResponse {
	t.Helper()
	res, err := w.config(t, admin).Rollback(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(explain(err))
	}
	return res.Msg
}

// state is what the fleet holds at a revision, without the revisions that gave it.
func (w *world) state(t testing.TB, at snapshot.Revision) string {
	t.Helper()
	versions, _, err := w.store.List(t.Context(), storage.Filter{At: at, Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, v := range versions {
		lines = append(lines, fmt.Sprintf("%s %v %s", v.Key, v.Scope, v.Digest))
	}
	return strings.Join(lines, "\n")
}

// changes shows what became of resources.
func changes(all []*adminv1.Change) string {
	var words []string
	for _, c := range all {
		words = append(words, strings.TrimPrefix(c.GetType().String(), "CHANGE_TYPE_")+" "+keyName(c.GetKey()))
	}
	return strings.Join(words, ", ")
}

func TestRollback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("orders")+"\n---\n"+upstream("more"))
	w.remove(t, "Policy/shop/reads-orders")

	dry := w.rollback(t, &adminv1.RollbackRequest{ToRevision: 1, DryRun: true})
	const want = "CREATED Policy/shop/reads-orders, DELETED Upstream/shop/more, REPLACED Upstream/shop/orders"
	if changes(dry.GetChanges()) != want || dry.GetRevision() != 3 || len(dry.GetResources()) != 3 || fmt.Sprint(dry.GetEnvironments()) != "[aws gcp]" ||
		!strings.Contains(fields(dry.GetResources()[2].GetFields()), `"orders.internal:443"`) {
		t.Errorf("dry run: %v", dry)
	}
	done := w.rollback(t, &adminv1.RollbackRequest{ToRevision: 1, Message: "orders were slow", ExpectedRevision: proto.Int64(3)})
	if changes(done.GetChanges()) != want || done.GetRevision() != 4 || len(done.GetResources()) != 0 || fmt.Sprint(done.GetEnvironments()) != "[aws gcp]" {
		t.Errorf("went back: %v", done)
	}
	if w.state(t, 4) != w.state(t, 1) {
		t.Errorf("revision 4 holds\n%s\nand 1\n%s", w.state(t, 4), w.state(t, 1))
	}
	if r := must(w.store.Revisions(t.Context(), 0, 1))[0]; r.Message != "back to revision 1: orders were slow" || r.Changes != 3 || r.Caller != string(admin) {
		t.Errorf("the history says %v", r)
	}
	// And forward again, and nowhere.
	if w.rollback(t, &adminv1.RollbackRequest{ToRevision: 3}); w.state(t, 5) != w.state(t, 3) {
		t.Error("revision 5 is not like 3")
	}
	for _, to := range []int64{5, 3} {
		if same := w.rollback(t, &adminv1.RollbackRequest{ToRevision: to}); same.GetRevision() != 5 || len(same.GetChanges()) != 0 {
			t.Errorf("to where it is: %v", same)
		}
	}
}

func TestRollbackThatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, denials(5, ""))
	for name, c := range map[string]struct {
		caller string
		req    *adminv1.RollbackRequest
		code   connect.Code
		want   string
	}{
		"removes too much":   {string(admin), &adminv1.RollbackRequest{ToRevision: 1}, connect.CodeFailedPrecondition, "would lose 5 of its 6 resources of kind Policy"},
		"not there yet":      {string(admin), &adminv1.RollbackRequest{ToRevision: 3}, connect.CodeNotFound, "there is no revision 3 yet"},
		"to nothing":         {string(admin), &adminv1.RollbackRequest{}, connect.CodeInvalidArgument, "to_revision"},
		"not as expected":    {string(admin), &adminv1.RollbackRequest{ToRevision: 1, ExpectedRevision: proto.Int64(1)}, connect.CodeAborted, "not at the expected 1"},
		"by who may not":     {string(viewer), &adminv1.RollbackRequest{ToRevision: 1}, connect.CodePermissionDenied, "not allowed"},
		"by who may not dry": {string(viewer), &adminv1.RollbackRequest{ToRevision: 1, DryRun: true}, connect.CodePermissionDenied, "not allowed"},
	} {
		who := admin
		if c.caller == string(viewer) {
			who = viewer
		}
		_, err := w.config(t, who).Rollback(t.Context(), connect.NewRequest(c.req))
		if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s", name, explain(err))
		}
	}
	if p := must(w.store.Position(t.Context())); p.Revision != 2 {
		t.Errorf("the fleet is at revision %d", p.Revision)
	}
	// Each of them that could be told apart from noise is in the audit.
	var said []string
	for _, e := range must(w.store.Entries(t.Context(), 2, 100)) {
		said = append(said, fmt.Sprint(e.Allowed, " ", e.Detail))
	}
	for _, want := range []string{"true refused: failed_precondition: back to revision 1", "true refused: aborted: back to revision 1", "false not allowed"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("the audit does not say %q:\n%s", want, strings.Join(said, "\n"))
		}
	}
	if done := w.rollback(t, &adminv1.RollbackRequest{ToRevision: 1, AllowRemovals: true}); w.state(t, 3) != w.state(t, 1) || done.GetRevision() != 3 {
		t.Error("with removals allowed it did not go back")
	}
}

const trusting = `
{apiVersion: sallyport/v1, kind: ApiKey, metadata: {namespace: shop, name: export}, spec: {secrets: [%s]}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: login}, spec: {issuer: "https://%s.example", jwksUrl: "https://login.example/keys", audiences: [shop]}}
---
{apiVersion: sallyport/v1, kind: Enrollment, metadata: {name: aws}, spec: {spiffeId: "spiffe://prod.example/%s/**", environment: aws}}
---
{apiVersion: sallyport/v1, kind: TrustDomain, metadata: {name: partner}, spec: {trustDomain: partner.example, bundleFile: "/%s"}}
---
{apiVersion: sallyport/v1, kind: Grant, metadata: {namespace: shop, name: night}, spec: {routes: {names: [orders]}, principals: [{spiffe: "spiffe://prod.example/%s"}], notBefore: "%[8]s", notAfter: "%[7]s", reason: fix, approver: "%[6]s"}}
`

// whom is trusting with the secrets of a key, the approver of an hour's grant, and a
// name in all that is trusted.
func whom(secrets, name, approver string) string {
	now := time.Now().UTC()
	return fmt.Sprintf(trusting, secrets, name, name, name, name, approver, now.Add(time.Hour).Format(time.RFC3339), now.Format(time.RFC3339))
}

func secret(id string) string {
	return fmt.Sprintf(`{id: %s, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, createdAt: "2026-11-26T08:00:00Z"}`, id)
}

// Whom to trust does not come back by itself: not what was deleted, and not what
// was replaced. Who approved a grant does not bring it back either.
func TestRollbackDoesNotRestoreTrust(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, whom(secret("AAAABBBBCCCC")+", "+secret("AAAABBBBDDDD"), "a", "somebody"))
	w.apply(t, whom(secret("AAAABBBBDDDD"), "b", "somebody"))
	w.apply(t, whom(secret("AAAABBBBDDDD"), "b", "somebody else"))
	reasons := func(to int64, trust bool) string {
		_, err := w.config(t, admin).Rollback(t.Context(), connect.NewRequest(&adminv1.RollbackRequest{ToRevision: to, RestoreTrust: trust, DryRun: true}))
		var all []string
		for _, p := range problems(err).GetProblems() {
			all = append(all, p.GetResource()+" "+p.GetReason())
		}
		return strings.Join(all, "\n")
	}
	const restored = `ApiKey/shop/export restores_trust
Enrollment/aws restores_trust
Grant/shop/night restores_trust
IdentityProvider/shop/login restores_trust
TrustDomain/partner restores_trust`
	if got := reasons(2, false); got != restored {
		t.Errorf("replaced: %s", got)
	}
	if got := reasons(2, true); got != "" {
		t.Errorf("replaced, and trusted: %s", got)
	}
	w.remove(t, "ApiKey/shop/export", "Enrollment/aws", "Grant/shop/night", "IdentityProvider/shop/login", "TrustDomain/partner")
	if got := reasons(4, false); got != restored {
		t.Errorf("deleted: %s", got)
	}
	// Taking trust away again is not restoring it.
	w.rollback(t, &adminv1.RollbackRequest{ToRevision: 2, RestoreTrust: true})
	if got := reasons(5, false); got != "" {
		t.Errorf("taken away: %s", got)
	}
}

// A grant that has run out comes back as it was: it lets nobody in. One that has
// not is not brought back by who approved it.
func TestRollbackAndGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	grant := func(approver string) string {
		all := strings.Split(whom(secret("AAAABBBBCCCC"), "a", approver), "---")
		return all[len(all)-1]
	}
	w.apply(t, grant("somebody"))
	w.remove(t, "Grant/shop/night")
	w.ahead.Store(int64(2 * time.Hour))
	if w.rollback(t, &adminv1.RollbackRequest{ToRevision: 2}); w.state(t, 4) != w.state(t, 2) {
		t.Error("revision 4 is not like 2")
	}
	w.ahead.Store(0)
	w.remove(t, "Grant/shop/night")
	// It was applied by somebody else.
	own := resources(t, grant(string(admin)))[0]
	parsed, _ := resource.Decode(own)
	document := must(resource.Encode(parsed))
	must(w.store.Commit(t.Context(), storage.Commit{Base: 5, Changes: []storage.Change{{
		Key: parsed.Key, Scope: storage.Scope{All: true}, Document: document, Digest: snapshot.DocumentDigest(document),
	}}}, func([]storage.Version) error { return nil }))
	w.remove(t, "Grant/shop/night")
	_, err := w.config(t, admin).Rollback(t.Context(), connect.NewRequest(&adminv1.RollbackRequest{ToRevision: 6, RestoreTrust: true}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || problems(err).GetProblems()[0].GetReason() != "own_approval" {
		t.Error(explain(err))
	}
}

// What a build does not understand, or today's rules refuse, is not brought back,
// and all of it is told.
func TestRollbackIsAdmittedAgain(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t, postgres.Migrate)
	w := newWorldOn(t, dsn)
	w.apply(t, shop)
	w.apply(t, upstream("old")+"\n---\n"+upstream("odd"))
	w.remove(t, "Upstream/shop/old", "Upstream/shop/odd")
	conn := must(pgx.Connect(t.Context(), dsn))
	defer conn.Close(t.Context())
	endless := must(resource.Encode(resource.Parsed{Key: resource.Key{Kind: "Upstream", Namespace: "shop", Name: "old"}, Spec: &resourcev1.Upstream{}}))
	for name, document := range map[string][]byte{"odd": []byte("\xff"), "old": endless} {
		digest := snapshot.DocumentDigest(document)
		must(conn.Exec(t.Context(), `update resource_version set document = $1, digest = $2 where name = $3 and not deleted`, document, digest[:], name))
	}
	_, err := w.config(t, admin).Rollback(t.Context(), connect.NewRequest(&adminv1.RollbackRequest{ToRevision: 2}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || problems(err).GetTotal() < 2 ||
		problems(err).GetProblems()[0].GetReason() != "unknown_field" || problems(err).GetProblems()[1].GetReason() != "required" {
		t.Error(explain(err))
	}
}

// While others write, what was gone back to is what it was, whole.
func TestRollbackWhileOthersWrite(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t, postgres.Migrate)
	worlds := []*world{newWorldOn(t, dsn), newWorldOn(t, dsn)}
	worlds[0].apply(t, shop)
	want := worlds[0].state(t, 1)
	var wg sync.WaitGroup
	for i := range 3 {
		config := worlds[i%2].config(t, admin)
		wg.Go(func() {
			for n := range 20 {
				_, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, upstream(fmt.Sprintf("w%d-%d", i, n)))}))
				if err != nil {
					t.Error(explain(err))
				}
			}
		})
	}
	for i := range 2 {
		config := worlds[i].config(t, admin)
		wg.Go(func() {
			for range 10 {
				res, err := config.Rollback(t.Context(), connect.NewRequest(&adminv1.RollbackRequest{ToRevision: 1, AllowRemovals: true}))
				switch {
				case connect.CodeOf(err) == connect.CodeAborted: // the others were always faster
				case err != nil:
					t.Error(explain(err))
				default:
					if got := worlds[i].state(t, snapshot.Revision(res.Msg.GetRevision())); got != want {
						t.Errorf("revision %d holds\n%s\nwant\n%s", res.Msg.GetRevision(), got, want)
					}
				}
			}
		})
	}
	wg.Wait()
}

// A Rollback takes as many resources as an Apply does. Over more it goes in steps.
func TestRollbackInSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.api.LimitRollback(3)
	w.apply(t, shop)
	w.apply(t, upstream("a")+"\n---\n"+upstream("b"))
	w.apply(t, upstream("c")+"\n---\n"+upstream("d"))
	for _, dry := range []bool{true, false} {
		_, err := w.config(t, admin).Rollback(t.Context(), connect.NewRequest(&adminv1.RollbackRequest{ToRevision: 1, DryRun: dry, AllowRemovals: true}))
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || problems(err).GetProblems()[0].GetReason() != "too_many" {
			t.Error(explain(err))
		}
	}
	w.rollback(t, &adminv1.RollbackRequest{ToRevision: 2})
	if w.rollback(t, &adminv1.RollbackRequest{ToRevision: 1}); w.state(t, 5) != w.state(t, 1) {
		t.Error("revision 5 is not like 1")
	}
}
