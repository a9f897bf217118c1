package api_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// steps bounds how much is done to each fleet of TestTheDatabaseHoldsWhatWasSaid; how
// many fleets there are is -rapid.checks, or a few.
var steps = flag.Int("steps", 16, "how much at most is done to each fleet of the property test")

const fewFleets = "20"

// fewer has rapid check a few times, unless it was told how often.
func fewer(t *testing.T) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	if told := checks.Value.String(); told == checks.DefValue {
		t.Cleanup(func() { must(struct{}{}, flag.Set("rapid.checks", told)) })
		must(struct{}{}, flag.Set("rapid.checks", fewFleets))
	}
}

// fleets is two replicas on one database, and what they should hold.
type fleets struct {
	*rapid.T
	worlds  [2]*world
	clients [2]adminv1connect.ConfigServiceClient
	term    storage.Term
	made    int // contents, so that each is another
	took    int // changes that made a revision, of all fleets

	states   []map[string]string // by revision: what each resource says
	readable []bool              // by revision
	labels   []map[string]string // by revision
}

// Whatever is applied, deleted, gone back over, labelled and forgotten, by several
// at once: what a call said is what the database holds, at every revision.
func TestTheDatabaseHoldsWhatWasSaid(t *testing.T) {
	fewer(t)
	dsn := storagetest.Postgres(t, postgres.Migrate)
	conn := must(pgx.Connect(t.Context(), dsn))
	defer conn.Close(t.Context())
	f := &fleets{}
	rapid.Check(t, func(rt *rapid.T) {
		f.T = rt
		f.begin(t, conn, dsn)
		actions := []func(){f.apply, f.apply, f.apply, f.remove, f.rollback, f.annotate, f.race, func() { f.forget(t) }}
		for range rapid.IntRange(*steps/2, *steps).Draw(rt, "steps") {
			rapid.SampledFrom(actions).Draw(rt, "action")()
		}
		f.compare()
	})
	if t.Logf("%d revisions", f.took); f.took == 0 {
		t.Error("nothing was ever changed")
	}
}

const emptied = `truncate fleet, revision, revision_annotation, resource_version, environment, environment_revision,
	environment_head, publish_cursor, audit_entry, audit_chain, history, kept_state, sighting;
	insert into fleet (epoch, revision) values (1, 0);
	insert into history (begins) values (1);
	insert into audit_chain (sequence, digest) values (0, decode(repeat('00', 32), 'hex'))`

// begin empties the database and makes two environments. Replicas of before would say
// that it was set back.
func (f *fleets) begin(t *testing.T, conn *pgx.Conn, dsn string) {
	for _, w := range f.worlds {
		if w != nil {
			w.stop()
		}
	}
	must(conn.Exec(t.Context(), emptied))
	for i := range f.worlds {
		f.worlds[i] = newWorldOn(t, dsn)
		f.clients[i] = f.worlds[i].config(t, admin)
	}
	f.states, f.readable, f.labels = []map[string]string{{}}, []bool{true}, []map[string]string{nil}
	first := `{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}, spec: {}}
---
{apiVersion: sallyport/v1, kind: Environment, metadata: {name: gcp}, spec: {}}`
	for i, dry := range []bool{true, true, false} {
		if _, err := f.clients[i%2].Apply(f.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, first), DryRun: dry})); err != nil {
			f.Fatal(explain(err))
		}
	}
	f.commit(map[string]string{"Environment/aws": "{}", "Environment/gcp": "{}"})
	f.term = must(f.worlds[0].store.BeginTerm(t.Context(), "one"))
}

func (f *fleets) newest() int64 { return int64(len(f.states) - 1) }

// commit adds a revision, unless it holds what there is.
func (f *fleets) commit(state map[string]string) {
	if !maps.Equal(state, f.states[f.newest()]) {
		f.states, f.readable, f.labels = append(f.states, state), append(f.readable, true), append(f.labels, nil)
		f.took++
	}
}

// resource draws a resource, and what it will be shown as.
func (f *fleets) resource() (*adminv1.Resource, string) {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(f.T, "name")
	spec := map[string]any{"ids": []any{fmt.Sprint(rapid.IntRange(0, 3).Draw(f.T, "content"))}}
	kind := "Set"
	if rapid.IntRange(0, 4).Draw(f.T, "condition") == 4 {
		kind, spec = "Condition", map[string]any{"when": fmt.Sprintf(`principal.id.inSet("%s")`, name)} // refers to it
	}
	if e := rapid.SampledFrom([]string{"", "aws", "gcp", "aws gcp"}).Draw(f.T, "environments"); e != "" {
		var all []any
		for one := range strings.FieldsSeq(e) {
			all = append(all, one)
		}
		spec["environments"] = all
	}
	return made(kind, name, spec), string(must(json.Marshal(spec)))
}

func made(kind, name string, spec map[string]any) *adminv1.Resource {
	return &adminv1.Resource{
		ApiVersion: "sallyport/v1", Kind: kind, Metadata: &adminv1.Metadata{Namespace: "shop", Name: name}, Spec: must(structpb.NewStruct(spec)),
	}
}

// conditions draws what a change is made under, and whether it must be refused for
// that.
func (f *fleets) conditions() (expected *int64, dry, stale bool) {
	switch rapid.IntRange(0, 5).Draw(f.T, "expected revision") {
	case 5:
		expected, stale = new(f.newest()-1), true
	case 4:
		expected = new(f.newest())
	}
	return expected, rapid.IntRange(0, 4).Draw(f.T, "dry run") == 4, stale
}

func (f *fleets) client() adminv1connect.ConfigServiceClient {
	return f.clients[rapid.IntRange(0, 1).Draw(f.T, "replica")]
}

// told takes what a change said, which would make the state: it returns whether that
// is a revision now.
func (f *fleets) told(what string, revision int64, err error, dry, stale bool, state map[string]string) {
	before := f.newest()
	switch {
	case stale != (connect.CodeOf(err) == connect.CodeAborted && err != nil):
		f.Fatalf("%s at a revision that is not there: %v", what, err)
	case err != nil && problems(err).GetTotal() == 0 && !stale && connect.CodeOf(err) != connect.CodeNotFound:
		f.Fatalf("%s: %v", what, err)
	case err != nil:
		return
	}
	if !dry {
		f.commit(state)
	}
	if revision != f.newest() {
		f.Fatalf("%s says revision %d, want %d, from %d", what, revision, f.newest(), before)
	}
}

func (f *fleets) apply() {
	state, req := maps.Clone(f.states[f.newest()]), &adminv1.ApplyRequest{AllowRemovals: rapid.Bool().Draw(f.T, "removals")}
	for range rapid.IntRange(1, 3).Draw(f.T, "resources") {
		r, spec := f.resource()
		if name := r.GetKind() + "/shop/" + r.GetMetadata().GetName(); state[name] != spec {
			state[name] = spec
		}
		req.Resources = append(req.Resources, r)
	}
	var stale bool
	req.ExpectedRevision, req.DryRun, stale = f.conditions()
	res, err := f.client().Apply(f.Context(), connect.NewRequest(req))
	f.told("Apply", revisionIn(res), err, req.GetDryRun(), stale, state)
}

func (f *fleets) remove() {
	state, req := maps.Clone(f.states[f.newest()]), &adminv1.DeleteRequest{AllowRemovals: rapid.Bool().Draw(f.T, "removals")}
	if len(state) == 0 {
		return
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(state))), 1, min(2, len(state)), rapid.ID).Draw(f.T, "keys") {
		req.Keys = append(req.Keys, parseKey(name))
		delete(state, name)
	}
	var stale bool
	req.ExpectedRevision, req.DryRun, stale = f.conditions()
	res, err := f.client().Delete(f.Context(), connect.NewRequest(req))
	f.told("Delete", revisionIn(res), err, req.GetDryRun(), stale, state)
}

func (f *fleets) rollback() {
	to := rapid.Int64Range(1, f.newest()+1).Draw(f.T, "to")
	req := &adminv1.RollbackRequest{ToRevision: to, AllowRemovals: rapid.IntRange(0, 3).Draw(f.T, "removals") < 3}
	var stale bool
	req.ExpectedRevision, req.DryRun, stale = f.conditions()
	res, err := f.client().Rollback(f.Context(), connect.NewRequest(req))
	switch code := connect.CodeOf(err); {
	case to > f.newest():
		if err == nil || code != connect.CodeNotFound {
			f.Fatalf("Rollback to what is not yet: %v", err)
		}
	case !f.readable[to]:
		if err == nil || code != connect.CodeOutOfRange {
			f.Fatalf("Rollback to %d, which is forgotten: %v", to, err)
		}
	default:
		f.told(fmt.Sprint("Rollback to ", to), revisionIn(res), err, req.GetDryRun(), stale, f.states[to])
	}
}

// revisionIn returns the revision of an answer; 0 of none.
func revisionIn[T any](res *connect.Response[T]) int64 {
	if res == nil {
		return 0
	}
	answer, _ := any(res.Msg).(interface{ GetRevision() int64 })
	return answer.GetRevision()
}

func (f *fleets) annotate() {
	at := rapid.Int64Range(1, f.newest()).Draw(f.T, "revision")
	req := &adminv1.AnnotateRevisionRequest{Revision: at, Labels: map[string]string{"keep": rapid.SampledFrom([]string{"", "yes"}).Draw(f.T, "value")}}
	if rapid.IntRange(0, 2).Draw(f.T, "unlabel") == 2 {
		req.Labels, req.RemoveLabels = nil, []string{"keep"}
	}
	if _, err := f.client().AnnotateRevision(f.Context(), connect.NewRequest(req)); err != nil {
		f.Fatal(explain(err))
	}
	f.labels[at] = req.GetLabels()
}

// race has both replicas change something at once: of those who expect the same
// revision one wins.
func (f *fleets) race() {
	expects := rapid.Bool().Draw(f.T, "expect")
	at := f.newest()
	var answers [2]*connect.Response[adminv1.ApplyResponse]
	var errs [2]error
	var specs [2]string
	var wg sync.WaitGroup
	for i := range 2 {
		f.made++
		spec := map[string]any{"ids": []any{fmt.Sprint("racer-", f.made)}}
		specs[i] = string(must(json.Marshal(spec)))
		req := &adminv1.ApplyRequest{Resources: []*adminv1.Resource{made("Set", "raced", spec)}}
		if expects {
			req.ExpectedRevision = &at
		}
		wg.Go(func() { answers[i], errs[i] = f.clients[i].Apply(f.Context(), connect.NewRequest(req)) })
	}
	wg.Wait()
	order := []int{0, 1}
	if errs[0] == nil && errs[1] == nil && answers[0].Msg.GetRevision() > answers[1].Msg.GetRevision() {
		order = []int{1, 0}
	}
	won := 0
	for _, i := range order {
		if errs[i] != nil && (!expects || connect.CodeOf(errs[i]) != connect.CodeAborted) {
			f.Fatalf("racing: %v", errs[i])
		}
		if errs[i] != nil {
			continue
		}
		state := maps.Clone(f.states[f.newest()])
		state["Set/shop/raced"] = specs[i]
		f.told("racing", answers[i].Msg.GetRevision(), nil, false, false, state)
		won++
	}
	if expects && won != 1 || !expects && won != 2 {
		f.Fatalf("%d of two won: %v, %v", won, errs[0], errs[1])
	}
}

// forget trims the history, with all that there is published or with what was before.
func (f *fleets) forget(t *testing.T) {
	w := f.worlds[0]
	if rapid.IntRange(0, 3).Draw(f.T, "published") < 3 {
		w.publishAll(t, f.term)
	}
	begins, err := w.store.TrimHistory(t.Context(), f.term, time.Now().Add(time.Hour), nil)
	if err != nil {
		f.Fatal(err)
	}
	for n := 1; n > 0; {
		if n, err = w.store.CollectVersions(t.Context(), f.term, rapid.IntRange(1, 5).Draw(f.T, "at once")); err != nil {
			f.Fatal(err)
		}
	}
	for at := int64(1); at < int64(begins); at++ {
		f.readable[at] = f.readable[at] && len(f.labels[at]) > 0
	}
}

// compare compares what is held at every revision, and what is said of it.
func (f *fleets) compare() {
	for at := int64(1); at <= f.newest(); at++ {
		got, err := f.listed(at)
		switch {
		case !f.readable[at]:
			if err == nil || connect.CodeOf(err) != connect.CodeOutOfRange {
				f.Errorf("revision %d is forgotten: %v", at, err)
			}
		case err != nil || !maps.Equal(got, f.states[at]):
			f.Errorf("revision %d holds %v (%v), want %v", at, got, err, f.states[at])
		default:
			f.between(rapid.Int64Range(0, f.newest()).Draw(f.T, "from"), at)
		}
	}
	all := must(f.clients[0].ListRevisions(f.Context(), connect.NewRequest(&adminv1.ListRevisionsRequest{PageSize: 1000}))).Msg.GetRevisions()
	if int64(len(all)) != f.newest() {
		f.Errorf("%d revisions, want %d", len(all), f.newest())
	}
	for _, r := range all {
		if at := r.GetRevision(); r.GetForgotten() == f.readable[at] || !maps.Equal(r.GetLabels(), f.labels[at]) {
			f.Errorf("revision %d: %v, readable %v, labels %v", at, r, f.readable[at], f.labels[at])
		}
	}
}

func (f *fleets) listed(at int64) (map[string]string, error) {
	res, err := f.client().List(f.Context(), connect.NewRequest(&adminv1.ListRequest{Revision: at, PageSize: 1000}))
	if err != nil {
		return nil, err
	}
	state := map[string]string{}
	for _, s := range res.Msg.GetResources() {
		r := s.GetResource()
		key := &adminv1.Key{Kind: r.GetKind(), Namespace: r.GetMetadata().GetNamespace(), Name: r.GetMetadata().GetName()}
		state[keyName(key)] = string(must(json.Marshal(r.GetSpec().AsMap())))
	}
	return state, nil
}

// between compares what Diff says of two revisions.
func (f *fleets) between(from, to int64) {
	if !f.readable[from] {
		return
	}
	res, err := f.client().Diff(f.Context(), connect.NewRequest(&adminv1.DiffRequest{From: &from, To: to, PageSize: 1000}))
	if err != nil {
		f.Fatal(explain(err))
	}
	got, want := map[string]bool{}, map[string]bool{}
	for _, d := range res.Msg.GetResources() {
		got[keyName(d.GetKey())] = true
	}
	for _, states := range [...][2]map[string]string{{f.states[from], f.states[to]}, {f.states[to], f.states[from]}} {
		for name, spec := range states[0] {
			if other, there := states[1][name]; !there || other != spec {
				want[name] = true
			}
		}
	}
	if !maps.Equal(got, want) {
		f.Errorf("from %d to %d differ %v, want %v", from, to, got, want)
	}
}
