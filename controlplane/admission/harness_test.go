package admission_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// now is when requests are made.
var now = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)

// failer is what testing and rapid have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// resources reads one resource a line: kind, key, labels if any, spec.
//
//	Route shop/orders app=orders {hosts: [shop.example], upstream: orders, authentication: {anonymous: true}}
func resources(t failer, lines string) []*adminv1.Resource {
	t.Helper()
	var all []*adminv1.Resource
	// A file does not take as many as a fleet does.
	for some := range slices.Chunk(slices.Collect(strings.Lines(lines)), resource.MaxResources) {
		all = append(all, parse(t, strings.Join(some, ""))...)
	}
	return all
}

func parse(t failer, lines string) []*adminv1.Resource {
	t.Helper()
	var yaml strings.Builder
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		kind, rest, _ := strings.Cut(line, " ")
		key, rest, _ := strings.Cut(rest, " ")
		labels, spec, _ := strings.Cut(rest, "{")
		namespace, name, namespaced := strings.Cut(key, "/")
		if !namespaced {
			namespace, name = "", key
		}
		labels = strings.ReplaceAll(strings.Join(strings.Fields(labels), ", "), "=", ": ")
		fmt.Fprintf(&yaml, "---\n{apiVersion: sallyport/v1, kind: %s, metadata: {namespace: '%s', name: '%s', labels: {%s}}, spec: {%s}\n",
			kind, namespace, name, labels, spec)
	}
	located, problems := resource.ParseYAML([]byte(yaml.String()))
	if problems.Total > 0 {
		t.Fatalf("%s", problems.Kept[0])
	}
	all := make([]*adminv1.Resource, len(located))
	for i, l := range located {
		all[i] = l.Resource
	}
	return all
}

// keys reads one key a line, such as "Route shop/orders".
func keys(lines string) []resource.Key {
	var all []resource.Key
	for line := range strings.Lines(lines) {
		kind, key, _ := strings.Cut(strings.TrimSpace(line), " ")
		k := resource.Key{Kind: resource.Kind(kind), Name: key}
		if namespace, name, ok := strings.Cut(key, "/"); ok {
			k.Namespace, k.Name = namespace, name
		}
		if kind != "" {
			all = append(all, k)
		}
	}
	return all
}

// fleet is a state with the history that led to it.
type fleet struct {
	admission.State
	documents map[resource.Key]storage.Version
}

// newFleet holds the resources, which have to be in order.
func newFleet(t failer, lines string) *fleet {
	t.Helper()
	f := &fleet{documents: map[resource.Key]storage.Version{}}
	if lines == "" {
		return f
	}
	if _, problems := f.apply(t, lines); problems.Total > 0 {
		t.Fatalf("%s", texts(problems))
	}
	return f
}

// apply plans, and commits what is admitted.
func (f *fleet) apply(t failer, lines string) (*admission.Plan, resource.Problems) {
	t.Helper()
	return f.commit(t, admission.NewApply(resources(t, lines), now))
}

// delete is apply for deletions, of however much there is.
func (f *fleet) delete(t failer, lines string) (*admission.Plan, resource.Problems) {
	t.Helper()
	return f.commit(t, deletion(lines))
}

func deletion(lines string) *admission.Request {
	r := admission.NewDelete(keys(lines))
	r.AllowRemovals()
	return r
}

func (f *fleet) commit(t failer, r *admission.Request) (*admission.Plan, resource.Problems) {
	t.Helper()
	r.Compile(f.Unknown(r))
	plan, problems := f.Plan(r)
	if problems.Total == 0 {
		f.advance(t, plan)
	}
	return plan, problems
}

// advance makes the plan the next revision, as the database would.
func (f *fleet) advance(t failer, plan *admission.Plan) {
	t.Helper()
	versions := f.versions(plan)
	if len(versions) == 0 {
		return
	}
	read, err := admission.ReadVersions(versions, versions[0].Revision)
	if err != nil {
		t.Fatalf("%v", err)
	}
	f.Advance(read)
	for _, v := range versions {
		f.documents[v.Key] = v
		if v.Deleted {
			delete(f.documents, v.Key)
		}
	}
}

func (f *fleet) versions(plan *admission.Plan) []storage.Version {
	versions := make([]storage.Version, len(plan.Changes))
	for i, c := range plan.Changes {
		versions[i] = storage.Version{
			Key: c.Key, Revision: f.Revision() + 1, Deleted: c.Delete, Scope: c.Scope, Document: c.Document, Digest: c.Digest,
		}
	}
	return versions
}

// environments returns, for each environment, what is distributed to it.
func (f *fleet) environments(t failer) map[string]*snapshot.Set {
	t.Helper()
	sets := map[string]*snapshot.Set{}
	for key := range f.documents {
		if key.Kind != resource.KindEnvironment {
			continue
		}
		var entries []snapshot.Entry
		for _, v := range f.documents {
			if !v.Scope.Includes(key.Name) {
				continue
			}
			e, err := snapshot.NewEntry(v.Document)
			if err != nil {
				t.Fatalf("%v", err)
			}
			entries = append(entries, e)
		}
		sets[key.Name] = snapshot.NewSet(entries...)
	}
	return sets
}

// texts shows problems as tables write them: index, resource, field, reason and
// message, a line for each.
func texts(problems resource.Problems) string {
	lines := make([]string, 0, len(problems.Kept)+1)
	for _, p := range problems.Kept {
		place := ""
		if p.Line > 0 {
			place = fmt.Sprintf(" %d:%d", p.Line, p.Column)
		}
		lines = append(lines, fmt.Sprintf("%d %s %s%s: %s: %s", p.Index, p.Resource, p.Field, place, p.Reason, p.Message))
	}
	if problems.Total > len(lines) {
		lines = append(lines, fmt.Sprintf("%d in all", problems.Total))
	}
	return strings.Join(lines, "\n")
}

// same fails unless two texts are equal, white space around lines apart.
func same(t testing.TB, got, want string) {
	t.Helper()
	trim := func(s string) string {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	if trim(got) != trim(want) {
		t.Errorf("got\n%s\nwant\n%s", trim(got), trim(want))
	}
}

// stored returns the newest versions, as the database has them.
func (f *fleet) stored() []storage.Version {
	versions := slices.Collect(maps.Values(f.documents))
	slices.SortFunc(versions, func(a, b storage.Version) int { return a.Key.Compare(b.Key) })
	return versions
}
