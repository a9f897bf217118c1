package api_test

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

func TestAnnotateRevision(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("more"))
	annotate := func(req *adminv1.AnnotateRevisionRequest) (*adminv1.Revision, error) {
		res, err := w.config(t, admin).AnnotateRevision(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetRevision(), nil
	}
	first, err := annotate(&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: map[string]string{"release": "v4", "good": ""}, Note: new("before the sale")})
	if err != nil || fmt.Sprint(first.GetLabels()) != "map[good: release:v4]" || first.GetNote() != "before the sale" || first.GetRevision() != 1 || first.GetForgotten() {
		t.Errorf("%v, %v", first, err)
	}
	again, err := annotate(&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: map[string]string{"release": "v5"}, RemoveLabels: []string{"good", "gone"}})
	if err != nil || fmt.Sprint(again.GetLabels()) != "map[release:v5]" || again.GetNote() != "before the sale" {
		t.Errorf("%v, %v", again, err)
	}
	if _, err := annotate(&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: map[string]string{"release": "v5"}}); err != nil {
		t.Error(err)
	}
	if none, err := annotate(&adminv1.AnnotateRevisionRequest{Revision: 2, Note: new("")}); err != nil || none.GetNote() != "" {
		t.Errorf("%v, %v", none, err)
	}
	if p := must(w.store.Position(t.Context())); p.Revision != 2 {
		t.Errorf("saying something made revision %d", p.Revision)
	}
	found, err := w.config(t, viewer).ListRevisions(t.Context(), connect.NewRequest(&adminv1.ListRevisionsRequest{Labels: map[string]string{"release": "v5"}}))
	if err != nil || len(found.Msg.GetRevisions()) != 1 || found.Msg.GetRevisions()[0].GetRevision() != 1 {
		t.Errorf("%v, %v", found, err)
	}
	var audit []string
	for _, e := range must(w.store.Entries(t.Context(), 2, 10)) {
		audit = append(audit, e.Caller+" "+e.Detail)
	}
	if want := string(admin) + ` revision 1: good=, release=v4, note "before the sale"` + "\n" + string(admin) + " revision 1: release=v5, good-, gone-"; strings.Join(audit, "\n") != want {
		t.Errorf("the audit says\n%s\nwant\n%s", strings.Join(audit, "\n"), want)
	}

	many := map[string]string{}
	for i := range 32 {
		many[fmt.Sprintf("l%d", i)] = "x"
	}
	for name, c := range map[string]struct {
		req  *adminv1.AnnotateRevisionRequest
		code connect.Code
	}{
		"not yet":         {&adminv1.AnnotateRevisionRequest{Revision: 3}, connect.CodeNotFound},
		"none":            {&adminv1.AnnotateRevisionRequest{}, connect.CodeInvalidArgument},
		"a bad name":      {&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: map[string]string{"-a": "b"}}, connect.CodeInvalidArgument},
		"a bad value":     {&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: map[string]string{"a": "b c"}}, connect.CodeInvalidArgument},
		"too many labels": {&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: many}, connect.CodeFailedPrecondition},
		"too long a note": {&adminv1.AnnotateRevisionRequest{Revision: 1, Note: new(strings.Repeat("a", 4097))}, connect.CodeInvalidArgument},
	} {
		if _, err := annotate(c.req); connect.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if _, err := w.config(t, viewer).AnnotateRevision(t.Context(), connect.NewRequest(&adminv1.AnnotateRevisionRequest{Revision: 1})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Error(err)
	}
}

// What is not kept any more cannot be read nor gone back to, and whoever asks is told
// where history begins.
func TestForgottenRevisions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("orders"))
	w.apply(t, upstream("more"))
	w.apply(t, shop)
	w.apply(t, upstream("orders"))
	must(w.config(t, admin).AnnotateRevision(t.Context(), connect.NewRequest(&adminv1.AnnotateRevisionRequest{Revision: 1, Labels: map[string]string{"keep": ""}})))
	w.forget(t)
	config := w.config(t, admin)
	for name, call := range map[string]func(at int64) error{
		"get": func(at int64) error {
			_, err := config.Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: parseKey("Upstream/shop/orders"), Revision: at}))
			return err
		},
		"list": func(at int64) error {
			_, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{Revision: at}))
			return err
		},
		"diff": func(at int64) error {
			_, err := config.Diff(t.Context(), connect.NewRequest(&adminv1.DiffRequest{From: new(at)}))
			return err
		},
		"rollback": func(at int64) error {
			_, err := config.Rollback(t.Context(), connect.NewRequest(&adminv1.RollbackRequest{ToRevision: at, DryRun: true}))
			return err
		},
	} {
		for at, forgotten := range map[int64]bool{1: false, 2: true, 4: true, 5: false} {
			err := call(at)
			want := fmt.Sprintf("the state at revision %d is not kept any more: history begins at revision 5", at)
			if !forgotten && err != nil || forgotten && (connect.CodeOf(err) != connect.CodeOutOfRange || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s at %d: %v", name, at, err)
			}
		}
	}
	res := must(config.ListVersions(t.Context(), connect.NewRequest(&adminv1.ListVersionsRequest{Key: parseKey("Upstream/shop/orders")})))
	var got []string
	for _, v := range res.Msg.GetVersions() {
		got = append(got, fmt.Sprint(v.GetRevision(), " ", strings.TrimPrefix(v.GetType().String(), "CHANGE_TYPE_"), " ", len(v.GetFields())))
	}
	if strings.Join(got, ", ") != "5 UNSPECIFIED 0, 1 UNSPECIFIED 0" {
		t.Errorf("versions: %s", strings.Join(got, ", "))
	}
	revisions := must(config.ListRevisions(t.Context(), connect.NewRequest(&adminv1.ListRevisionsRequest{}))).Msg.GetRevisions()
	if len(revisions) != 5 || !revisions[1].GetForgotten() || revisions[4].GetForgotten() {
		t.Errorf("revisions: %v", revisions)
	}
}

// forget makes history begin as late as it may. Nothing has to be published any more.
func (w *world) forget(t testing.TB) {
	t.Helper()
	term, err := w.store.BeginTerm(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	w.publishAll(t, term)
	if _, err := w.store.TrimHistory(t.Context(), term, time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	for n := 1; n > 0; {
		if n, err = w.store.CollectVersions(t.Context(), term, 100); err != nil {
			t.Fatal(err)
		}
	}
}

// publishAll signs the newest revision of every environment.
func (w *world) publishAll(t testing.TB, term storage.Term) {
	t.Helper()
	signer := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	var heads []snapshot.Head
	for _, h := range must(w.store.Heads(t.Context())) {
		heads = append(heads, must(signer.SignHead(snapshot.Statement{Epoch: 1, Environment: h.Environment, Revision: h.Revision})))
	}
	if err := w.store.SaveHeads(t.Context(), term, heads); err != nil {
		t.Fatal(err)
	}
}
