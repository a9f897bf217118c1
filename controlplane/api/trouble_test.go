package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestManyWritersLoseNothing(t *testing.T) {
	const writers, each = 20, 25
	w := newWorld(t)
	w.apply(t, shop)
	var wg sync.WaitGroup
	revisions := make(chan int64, writers*each)
	for i := range writers {
		config := w.config(t, admin)
		wg.Go(func() {
			for n := range each {
				// Every writer has resources of its own, and one that all want.
				yaml := upstream(fmt.Sprintf("w%d-%d", i, n)) + "\n---\n" + upstream("shared", []string{"aws", "gcp"}[(i+n)%2])
				res, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, yaml)}))
				if err != nil {
					t.Error(explain(err))
					return
				}
				revisions <- res.Msg.GetRevision()
			}
		})
	}
	wg.Wait()
	close(revisions)
	seen := map[int64]bool{1: true}
	for r := range revisions {
		if seen[r] {
			t.Errorf("revision %d was answered twice", r)
		}
		seen[r] = true
	}
	for r := range int64(writers*each + 1) {
		if !seen[r+1] {
			t.Errorf("revision %d was answered to nobody", r+1)
		}
	}
	list, at, err := w.store.List(t.Context(), storage.Filter{Kind: "Upstream", Limit: 1000})
	if err != nil || at != writers*each+1 || len(list) != writers*each+2 {
		t.Errorf("%d upstreams at revision %d (%v), want %d at %d", len(list), at, err, writers*each+2, writers*each+1)
	}
	entries, err := w.store.Entries(t.Context(), 0, 10_000)
	if err != nil || len(entries) != writers*each+1 {
		t.Errorf("%d audit entries (%v), want %d", len(entries), err, writers*each+1)
	}
}

// Writers who all expect the revision that they have read: of each round one
// wins, and what it wrote is what the others then see.
func TestExpectedRevisionOrdersWriters(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	var wg sync.WaitGroup
	for i := range 8 {
		config := w.config(t, admin)
		wg.Go(func() {
			for n := 0; n < 5; {
				at, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{Kind: "Upstream"}))
				if err != nil {
					t.Error(err)
					return
				}
				known, revision := at.Msg.GetResources(), at.Msg.GetRevision()
				res, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{
					Resources: resources(t, upstream(fmt.Sprintf("u%d", len(known)))), ExpectedRevision: &revision, Message: fmt.Sprint(i),
				}))
				switch {
				case connect.CodeOf(err) == connect.CodeAborted:
				case err != nil || res.Msg.GetRevision() != revision+1:
					t.Errorf("at %d: %v, %v", revision, res, err)
					return
				default:
					n++
				}
			}
		})
	}
	wg.Wait()
	// Nobody has replaced what another had written in between.
	if list, at, err := w.store.List(t.Context(), storage.Filter{Kind: "Upstream", Limit: 1000}); err != nil || len(list) != 41 || at != 41 {
		t.Errorf("%d upstreams at revision %d (%v), want 41 at 41", len(list), at, err)
	}
}

// Two replicas on one database: what one has planned the other may undo before
// it is committed.
func TestReplicasDoNotBreakWhatTheOtherCommitted(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	one, two := newWorldOn(t, dsn), newWorldOn(t, dsn)
	one.apply(t, shop)
	for round := range 10 {
		one.apply(t, upstream("contested"))
		route := fmt.Sprintf(`{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: r}, spec: {hosts: [r%d.example], upstream: contested, authentication: {anonymous: true}}}`, round)
		var refers, deletes error
		var wg sync.WaitGroup
		wg.Go(func() {
			_, refers = one.config(t, admin).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, route)}))
		})
		wg.Go(func() {
			_, deletes = two.config(t, admin).Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Upstream", "shop", "contested")}}))
		})
		wg.Wait()
		switch {
		case (refers == nil) == (deletes == nil):
			t.Fatalf("round %d: route %v, deletion %v", round, refers, deletes)
		case refers != nil && problems(refers).GetProblems()[0].GetReason() != "dangling_reference",
			deletes != nil && problems(deletes).GetProblems()[0].GetReason() != "still_referenced":
			t.Errorf("round %d: route %v, deletion %v", round, refers, deletes)
		}
		if refers == nil {
			if _, err := two.config(t, admin).Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Route", "shop", "r")}})); err != nil {
				t.Fatal(explain(err))
			}
		}
	}
}

// What Apply answers is how it is at the revision that it names, though others
// write the same: also of those resources that it did not have to change.
func TestAnApplyHoldsAllThatItWasGiven(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	worlds := []*world{newWorldOn(t, dsn), newWorldOn(t, dsn)}
	worlds[0].apply(t, shop)
	var wg sync.WaitGroup
	for i := range 4 {
		config := worlds[i%2].config(t, admin)
		environment := []string{"aws", "gcp"}[i%2]
		wg.Go(func() {
			for n := range 20 {
				res, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{
					Resources: resources(t, upstream("shared", environment)+"\n---\n"+upstream(fmt.Sprintf("w%d-%d", i, n))),
				}))
				if err != nil {
					t.Error(explain(err))
					return
				}
				got, err := config.Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: key("Upstream", "shop", "shared"), Revision: res.Msg.GetRevision()}))
				if err != nil {
					t.Error(err)
					return
				}
				at := got.Msg.GetResource()
				if e := at.GetResource().GetSpec().GetFields()["environments"].GetListValue().GetValues()[0].GetStringValue(); e != environment {
					t.Errorf("at revision %d it is in %s, not in %s", res.Msg.GetRevision(), e, environment)
				}
				if made := res.Msg.GetChanges()[0].GetType() != adminv1.ChangeType_CHANGE_TYPE_UNCHANGED; made != (at.GetRevision() == res.Msg.GetRevision()) {
					t.Errorf("revision %d says %s, but it was given at %d", res.Msg.GetRevision(), res.Msg.GetChanges()[0].GetType(), at.GetRevision())
				}
			}
		})
	}
	wg.Wait()
}

func TestWithoutTheDatabase(t *testing.T) {
	p := storagetest.NewPostgres(t)
	if err := errors.Join(p.CreateDatabase(t.Context(), "sallyport", ""), postgres.Migrate(t.Context(), p.DSN("sallyport"))); err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, p.DSN("sallyport"))
	w.apply(t, shop)
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	for procedure, body := range map[string]string{
		applyPath: `{"resources":[{"apiVersion":"sallyport/v1","kind":"Environment","metadata":{"name":"eu"},"spec":{}}]}`,
		listPath:  `{}`,
		adminv1connect.ConfigServiceDeleteProcedure:        `{"keys":[{"kind":"Environment","name":"gcp"}]}`,
		adminv1connect.ConfigServiceGetProcedure:           `{"key":{"kind":"Environment","name":"gcp"}}`,
		adminv1connect.ConfigServiceListRevisionsProcedure: `{}`,
		adminv1connect.FleetServiceListProxiesProcedure:    `{}`,
		adminv1connect.FleetServiceGetProxyProcedure:       `{"id":"a"}`,
	} {
		a := w.post(t, admin, procedure, body)
		if a.status != http.StatusServiceUnavailable || a.Message != "the database cannot be reached: nothing was changed" {
			t.Errorf("%s: %d %s", procedure, a.status, a.text)
		}
	}
	if a := w.post(t, viewer, applyPath, `{}`); a.Code != "permission_denied" {
		t.Errorf("who may do what is known without it: %s", a.text)
	}
	if strings.Contains(w.log.String(), "password") {
		t.Errorf("logged %s", w.log)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := w.apply(t, upstream("back")); res.GetRevision() != 2 {
		t.Errorf("revision %d after the database is back, want 2", res.GetRevision())
	}
}

// What is wrong inside is ours to know: callers see no table, file or address.
func TestNothingOfTheInsideLeaves(t *testing.T) {
	w := newWorldOn(t, storagetest.Postgres(t, nil)) // no table is there
	for _, procedure := range []string{listPath, adminv1connect.ConfigServiceListRevisionsProcedure, adminv1connect.FleetServiceListProxiesProcedure} {
		a := w.post(t, admin, procedure, `{}`)
		if a.status != http.StatusInternalServerError || a.text != `{"code":"internal","message":"internal"}` {
			t.Errorf("%s: %d %s", procedure, a.status, a.text)
		}
	}
	if !strings.Contains(w.log.String(), "does not exist") {
		t.Errorf("the cause is not in the log: %s", w.log)
	}
}

// panicking is a store with a mistake in it.
type panicking struct{ *postgres.Store }

func (panicking) List(context.Context, storage.Filter) ([]storage.Version, snapshot.Revision, error) {
	panic("there is a mistake in the store")
}

func TestAMistakeOfOursEndsOneCallOnly(t *testing.T) {
	w := newWorldWith(t, storagetest.Postgres(t, postgres.Migrate), func(s *postgres.Store) api.Store { return panicking{s} })
	a := w.post(t, admin, listPath, `{}`)
	if a.status != http.StatusInternalServerError || a.text != `{"code":"internal","message":"internal"}` {
		t.Errorf("%d %s", a.status, a.text)
	}
	if log := w.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "there is a mistake in the store") {
		t.Errorf("logged %s", log)
	}
	w.apply(t, shop)
}

func TestAuditOfWhatMadeNoRevision(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, shop)
	w.post(t, admin, applyPath, `{"resources":[{"apiVersion":"sallyport/v1","kind":"Environment","metadata":{"name":"eu"},"spec":{}}],"dryRun":true}`)
	w.post(t, admin, applyPath, `{"resources":[{"apiVersion":"sallyport/v1","kind":"Environment","metadata":{"name":"eu"},"spec":{"a":1}}]}`)
	w.post(t, viewer, applyPath, `{}`)
	w.post(t, proxy, listPath, `{}`)
	w.post(t, nobody, listPath, `{}`)
	w.post(t, admin, adminv1connect.ConfigServiceDeleteProcedure, `{"keys":[{"kind":"Environment","name":"gone"}],"expectedRevision":"9"}`)
	entries, err := w.store.Entries(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		_, action, _ := strings.Cut(e.Action, "ConfigService/")
		got = append(got, fmt.Sprintf("%s %s %v %d %s", strings.TrimPrefix(e.Caller, "spiffe://prod.example/"), action, e.Allowed, e.Revision, e.Detail))
	}
	want := []string{
		"operator/admin Apply true 1 ",
		"operator/admin Apply true 0 nothing to change",
		"operator/admin Apply true 0 dry run",
		"operator/admin Apply true 0 refused: invalid_argument",
		"operator/viewer Apply false 0 not allowed: spiffe://prod.example/operator/viewer has the role viewer for /sallyport.admin.v1.ConfigService/Apply",
		"proxy/aws/1 List false 0 not allowed: spiffe://prod.example/proxy/aws/1 has the role none for /sallyport.admin.v1.ConfigService/List",
		"operator/admin Delete true 0 refused: aborted",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(w.log.String(), "caller=nobody") {
		t.Error("the stranger is not in the log")
	}
}

// An SVID is easy to come by for a workload of the trust domain: it must not be
// enough to fill the audit.
func TestCallersWhoMayNothingDoNotFillTheAudit(t *testing.T) {
	w := newWorld(t)
	client := w.client(t, proxy)
	for range 150 {
		res, err := client.Post(w.url+listPath, "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close() // it was only read
	}
	w.post(t, viewer, applyPath, `{}`)
	entries, err := w.store.Entries(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	last := entries[len(entries)-1].Caller
	if len(entries) < 100 || len(entries) > 140 || last != string(viewer) {
		t.Errorf("%d entries, the last is of %s", len(entries), last)
	}
}

func TestAClientThatGivesUpIsNoError(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.proxy(t, "aws", "late", 0, adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := w.fleet(t, viewer).WaitEnforced(ctx, connect.NewRequest(&adminv1.WaitEnforcedRequest{Revision: 1}))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	cancel()
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeCanceled {
		t.Errorf("got %v", stream.Err())
	}
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	stream, err = w.fleet(t, viewer).WaitEnforced(short, connect.NewRequest(&adminv1.WaitEnforcedRequest{Revision: 1}))
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodeDeadlineExceeded {
		t.Errorf("got %v", stream.Err())
	}
	w.ended(t, adminv1connect.FleetServiceWaitEnforcedProcedure, 2)
	if strings.Contains(w.log.String(), "level=ERROR") {
		t.Errorf("logged %s", w.log)
	}
}

// ended waits until so many calls of a procedure have ended on the server.
func (w *world) ended(t *testing.T, procedure string, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		families, err := w.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "sallyport_admin_call_seconds" && m.GetLabel()[0].GetValue() == procedure && m.GetHistogram().GetSampleCount() >= n {
					return
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls of %s have not ended", n, procedure)
		}
	}
}

func TestMetricsOfCalls(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.post(t, admin, applyPath, `{"resources":[{}]}`)
	w.post(t, viewer, applyPath, `{}`)
	w.post(t, nobody, listPath, `{}`)
	w.post(t, admin, "/made/up", `{}`)
	w.post(t, viewer, listPath, `{}`)
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "sallyport_admin_calls_total" {
				code, procedure := m.GetLabel()[0].GetValue(), m.GetLabel()[1].GetValue()
				got = append(got, fmt.Sprintf("%s %s %v", procedure, code, m.GetCounter().GetValue()))
			}
		}
	}
	slices.Sort(got)
	want := []string{
		"/sallyport.admin.v1.ConfigService/Apply invalid_argument 1",
		"/sallyport.admin.v1.ConfigService/Apply ok 1",
		"/sallyport.admin.v1.ConfigService/Apply permission_denied 1",
		"/sallyport.admin.v1.ConfigService/List ok 1",
		"/sallyport.admin.v1.ConfigService/List unauthenticated 1",
		"unknown permission_denied 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhoMayCallAndWhatStrangersAreTold(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		id         identity.ID
		procedure  string
		status     int
		code, want string
	}{
		{nobody, listPath, 401, "unauthenticated", "prove who you are with an X.509-SVID or a bearer token"},
		{proxy, listPath, 403, "permission_denied", "not allowed: spiffe://prod.example/proxy/aws/1 has the role none for /sallyport.admin.v1.ConfigService/List"},
		{viewer, applyPath, 403, "permission_denied", "not allowed: spiffe://prod.example/operator/viewer has the role viewer for /sallyport.admin.v1.ConfigService/Apply"},
		{viewer, listPath, 200, "", ""},
	} {
		a := w.post(t, c.id, c.procedure, `{}`)
		if a.status != c.status || a.Code != c.code || a.Message != c.want {
			t.Errorf("%s by %q: %d %s", c.procedure, c.id, a.status, a.text)
		}
		if (c.status == 401) != (a.header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s by %q: challenge %q", c.procedure, c.id, a.header.Get("WWW-Authenticate"))
		}
	}
	a := w.curl(t, nobody, http.MethodGet, "/", "", nil)
	if a.status != 401 || a.Message == "" {
		t.Errorf("a browser is told %d %s", a.status, a.text)
	}
}

func TestHealthTellsReadiness(t *testing.T) {
	w := newWorld(t)
	const path = "/grpc.health.v1.Health/Check"
	if a := w.post(t, nobody, path, `{}`); a.text != `{"status":"SERVING_STATUS_SERVING"}` {
		t.Errorf("ready: %s", a.text)
	}
	w.ready.Store(false)
	if a := w.post(t, nobody, path, `{"service":"sallyport.admin.v1.ConfigService"}`); a.text != `{"status":"SERVING_STATUS_NOT_SERVING"}` {
		t.Errorf("not ready: %s", a.text)
	}
	if a := w.post(t, nobody, path, `{"service":"made.up"}`); a.Code != "not_found" {
		t.Errorf("unknown: %s", a.text)
	}
}
