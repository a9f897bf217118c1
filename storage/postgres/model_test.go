package postgres_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// model is what a fleet should be: the state at every revision, by key.
type model struct {
	states  []map[resource.Key]storage.Version // by revision; the first is empty
	changed []map[resource.Key]storage.Version // by revision, deletions included
}

func (m *model) newest() snapshot.Revision { return snapshot.Revision(len(m.states) - 1) }

// commit adds a revision; false if it deletes what is not there.
func (m *model) commit(changes []storage.Change) bool {
	state, changed := maps.Clone(m.states[m.newest()]), map[resource.Key]storage.Version{}
	for _, c := range changes {
		if _, there := state[c.Key]; c.Delete && !there {
			return false
		}
		v := storage.Version{Key: c.Key, Revision: m.newest() + 1, Deleted: c.Delete, Scope: c.Scope, Document: c.Document, Digest: c.Digest}
		changed[c.Key] = v
		if state[c.Key] = v; c.Delete {
			delete(state, c.Key)
		}
	}
	m.states, m.changed = append(m.states, state), append(m.changed, changed)
	return true
}

// touched says whether a revision changed what an environment gets.
func (m *model) touched(environment string, at snapshot.Revision) bool {
	if at == 0 {
		return false
	}
	before, after := m.states[at-1], m.states[at]
	itself := resource.Key{Kind: resource.KindEnvironment, Name: environment}
	if _, was := before[itself]; !was {
		if _, is := after[itself]; !is {
			return false
		}
	}
	for k := range m.changed[at] {
		if before[k].Scope.Includes(environment) || after[k].Scope.Includes(environment) {
			return true
		}
	}
	return false
}

// last returns the last revision up to at that touches an environment.
func (m *model) last(environment string, at snapshot.Revision) snapshot.Revision {
	for at > 0 && !m.touched(environment, at) {
		at--
	}
	return at
}

// since returns the newest version of what changed after a revision.
func (m *model) since(after snapshot.Revision) map[resource.Key]storage.Version {
	all := map[resource.Key]storage.Version{}
	for _, changed := range m.changed[after+1:] {
		maps.Copy(all, changed)
	}
	maps.DeleteFunc(all, func(_ resource.Key, v storage.Version) bool { return after == 0 && v.Deleted })
	return all
}

// in returns what an environment gets at a revision.
func (m *model) in(environment string, at snapshot.Revision) map[resource.Key]storage.Version {
	state := maps.Clone(m.states[at])
	maps.DeleteFunc(state, func(_ resource.Key, v storage.Version) bool { return !v.Scope.Includes(environment) })
	return state
}

func sorted(versions map[resource.Key]storage.Version) string {
	return showAll(slices.SortedFunc(maps.Values(versions), func(a, b storage.Version) int { return a.Key.Compare(b.Key) }))
}

var (
	modelEnvironments = []string{"aws", "gcp", "lab"}
	modelKeys         = []string{"Policy/bank/a", "Policy/shop/a", "Policy/shop/b", "Route/shop/a", "Enrollment/a",
		"Environment/aws", "Environment/gcp", "Environment/lab"}
	modelScopes = []string{"all", "", "aws", "gcp", "aws gcp", "gcp lab", "aws gcp lab"}
)

func drawChange(t *rapid.T, k string) storage.Change {
	if rapid.IntRange(0, 3).Draw(t, "delete "+k) == 0 {
		return remove(k)
	}
	document := rapid.StringN(0, 3, -1).Draw(t, "document of "+k)
	switch key(k).Kind {
	case resource.KindEnvironment:
		return put(k, key(k).Name, document)
	case resource.KindEnrollment:
		return put(k, "", document)
	default:
		return put(k, rapid.SampledFrom(modelScopes).Draw(t, "scope of "+k), document)
	}
}

// Whatever is committed, the store gives every answer, at every revision, that
// follows from the contracts.
func TestStoreIsItsModel(t *testing.T) {
	t.Parallel()
	f := open(t)
	tables := `truncate fleet, revision, revision_annotation, resource_version, environment, environment_revision, environment_head,
		publish_cursor, audit_entry, audit_chain`
	rapid.Check(t, func(rt *rapid.T) {
		alter(t, f.dsn, tables)
		alter(t, f.dsn, `insert into fleet (epoch, revision) values (1, 0)`)
		alter(t, f.dsn, `insert into audit_chain (sequence, digest) values (0, decode(repeat('00', 32), 'hex'))`)
		// One that has read the database before would say that it was set back.
		f := fleet{connect(t, f.dsn), f.dsn}
		defer f.Close()
		m := &model{states: []map[resource.Key]storage.Version{{}}, changed: []map[resource.Key]storage.Version{{}}}
		for range rapid.IntRange(1, 8).Draw(rt, "commits") {
			commitBoth(rt, f, m)
		}
		for at := range m.newest() + 1 {
			compareAt(rt, f, m, at)
		}
		for _, e := range modelEnvironments {
			compareHistory(rt, f, m, e)
		}
		compareVersions(rt, f, m)
		if n, err := f.verifyAudit(rt.Context()); err != nil || n != int64(m.newest()) {
			rt.Errorf("verifyAudit: %d, %v", n, err)
		}
	})
}

// commitBoth commits the same to the store and to the model.
func commitBoth(t *rapid.T, f fleet, m *model) {
	var changes []storage.Change
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(modelKeys), 1, 5, rapid.ID).Draw(t, "keys") {
		changes = append(changes, drawChange(t, k))
	}
	base := snapshot.Revision(rapid.IntRange(0, int(m.newest())).Draw(t, "base"))
	before := m.newest()
	got, err := f.Commit(t.Context(), storage.Commit{Base: base, Changes: changes}, func(since []storage.Version) error {
		if showAll(since) != sorted(m.since(base)) {
			t.Errorf("since %d:\n%s\nwant:\n%s", base, showAll(since), sorted(m.since(base)))
		}
		return nil
	})
	if !m.commit(changes) {
		if !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("deleting what is not there: %v", err)
		}
		return
	}
	var touched []string
	for _, e := range modelEnvironments {
		if m.touched(e, m.newest()) {
			touched = append(touched, e)
		}
	}
	if err != nil || got.Revision != before+1 || !slices.Equal(got.Environments, touched) {
		t.Fatalf("revision %d touches %q (%v), want %d and %q", got.Revision, got.Environments, err, before+1, touched)
	}
}

// compareAt compares what store and model say of one revision.
func compareAt(t *rapid.T, f fleet, m *model, at snapshot.Revision) {
	if at > 0 {
		same(t, fmt.Sprint("list at ", at), sorted(m.states[at]), func() ([]storage.Version, error) {
			return pages(t, f, at)
		})
	}
	same(t, fmt.Sprint("since ", at), sorted(m.since(at)), func() ([]storage.Version, error) {
		versions, to, err := f.Since(t.Context(), at)
		return versions, cmp.Or(err, wrong(to != m.newest(), "leads to %d", to))
	})
	want := map[string]snapshot.Revision{}
	for _, e := range modelEnvironments {
		same(t, fmt.Sprint(e, " at ", at), sorted(m.in(e, at)), func() ([]storage.Version, error) {
			return f.EnvironmentState(t.Context(), e, at)
		})
		if r := m.last(e, at); r > 0 {
			want[e] = r
		}
	}
	if got, err := f.EnvironmentsAt(t.Context(), at); err != nil || !maps.Equal(got, want) {
		t.Errorf("environments at %d are %v (%v), want %v", at, got, err, want)
	}
	compareSpan(t, f, m, at, snapshot.Revision(rapid.IntRange(0, int(m.newest())).Draw(t, "to")))
	for _, k := range modelKeys {
		v, err := f.Resource(t.Context(), key(k), at)
		state := m.states[at]
		if at == 0 {
			state = m.states[m.newest()]
		}
		if w, there := state[key(k)]; there != (err == nil) || there && show(v) != show(w) || !there && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s at %d is %s (%v), want %s", k, at, show(v), err, show(w))
		}
	}
}

// compareSpan compares what store and model say of two revisions: what makes the
// one of the other.
func compareSpan(t *rapid.T, f fleet, m *model, from, to snapshot.Revision) {
	differences, err := f.Differences(t.Context(), storage.Span{From: from, To: to, Page: storage.Page{Limit: 100}})
	if err != nil {
		t.Fatal(err)
	}
	state := maps.Clone(m.states[from])
	for _, d := range differences {
		if was, there := state[d.Key]; there == d.Before.Deleted || there && show(was) != show(d.Before) || d.Before.Digest == d.After.Digest {
			t.Errorf("from %d to %d, %s", from, to, both([]storage.Difference{d}))
		}
		if state[d.Key] = d.After; d.After.Deleted {
			delete(state, d.Key)
		}
	}
	for k, v := range state {
		if want := m.states[to][k]; v.Digest == want.Digest {
			state[k] = want // given again as it was
		}
	}
	if sorted(state) != sorted(m.states[to]) {
		t.Errorf("from %d to %d leads to\n%s\nwant\n%s", from, to, sorted(state), sorted(m.states[to]))
	}
}

// compareVersions compares the history of each key.
func compareVersions(t *rapid.T, f fleet, m *model) {
	for _, k := range modelKeys {
		past, err := f.History(t.Context(), key(k), 0, storage.Page{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var got, want []storage.Version
		for _, p := range past {
			got = append(got, p.Version)
		}
		for at := m.newest(); at > 0; at-- {
			if v, ok := m.changed[at][key(k)]; ok {
				want = append(want, v)
			}
		}
		if showAll(got) != showAll(want) {
			t.Errorf("%s was\n%s\nwant\n%s", k, showAll(got), showAll(want))
		}
	}
}

// pages lists a revision page by page.
func pages(t *rapid.T, f fleet, at snapshot.Revision) (all []storage.Version, err error) {
	size := rapid.IntRange(1, 4).Draw(t, "page size")
	for filter := (storage.Filter{At: at, Limit: size}); ; filter.After = all[len(all)-1].Key {
		page, _, err := f.List(t.Context(), filter)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(page) < size {
			return all, nil
		}
	}
}

// compareHistory follows the revisions of an environment as a publisher does,
// from the whole state when the environment is made.
func compareHistory(t *rapid.T, f fleet, m *model, environment string) {
	var want, got []string
	for r := range m.newest() + 1 {
		if m.touched(environment, r) {
			want = append(want, fmt.Sprint(r))
		}
	}
	limit := rapid.IntRange(1, 10).Draw(t, "limit")
	state, after := map[resource.Key]storage.Version{}, snapshot.Revision(0)
	for {
		revisions, err := f.EnvironmentRevisions(t.Context(), environment, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range revisions {
			after = r.Revision
			got = append(got, fmt.Sprint(r.Revision))
			follows(t, m, environment, state, r)
		}
		if len(revisions) < limit {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has revisions %s, want %s", environment, strings.Join(got, " "), strings.Join(want, " "))
	}
}

// follows applies a revision to the state that an environment had before.
func follows(t *rapid.T, m *model, environment string, state map[resource.Key]storage.Version, r storage.EnvironmentRevision) {
	founded := false
	for _, v := range r.Versions {
		founded = founded || v.Key.Kind == resource.KindEnvironment && v.Key.Name == environment && !v.Deleted
		if state[v.Key] = v; v.Deleted || !v.Scope.Includes(environment) {
			delete(state, v.Key)
		}
	}
	want := m.in(environment, r.Revision)
	if founded {
		maps.Copy(state, want)
		maps.DeleteFunc(state, func(k resource.Key, _ storage.Version) bool { _, there := want[k]; return !there })
	}
	if sorted(state) != sorted(want) {
		t.Errorf("following %s to %d leads to\n%s\nwant\n%s", environment, r.Revision, sorted(state), sorted(want))
	}
}

func same(t *rapid.T, what, want string, ask func() ([]storage.Version, error)) {
	if got, err := ask(); err != nil || showAll(got) != want {
		t.Errorf("%s:\n%s (%v)\nwant:\n%s", what, showAll(got), err, want)
	}
}

func wrong(yes bool, format string, args ...any) error {
	if yes {
		return fmt.Errorf(format, args...)
	}
	return nil
}
