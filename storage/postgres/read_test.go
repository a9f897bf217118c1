package postgres_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// history makes a fleet with four revisions.
func history(t testing.TB) fleet {
	t.Helper()
	f := open(t)
	f.apply(t, environment("aws"), environment("gcp"), put("Policy/shop/a", "all", "a1"), put("Policy/bank/z", "aws", "z1"))
	f.apply(t, put("Policy/shop/a", "gcp", "a2"), put("Route/shop/a", "gcp", "r2"))
	f.apply(t, remove("Policy/shop/a"))
	f.apply(t, put("Policy/shop/a", "aws", "a4"), remove("Policy/bank/z"))
	return f
}

func TestResource(t *testing.T) {
	t.Parallel()
	f := history(t)
	for _, c := range []struct {
		key  string
		at   snapshot.Revision
		want string // not found when empty
	}{
		{"Policy/shop/a", 0, "Policy/shop/a@4[aws]a4"},
		{"Policy/shop/a", 4, "Policy/shop/a@4[aws]a4"},
		{"Policy/shop/a", 3, ""},
		{"Policy/shop/a", 2, "Policy/shop/a@2[gcp]a2"},
		{"Policy/shop/a", 1, "Policy/shop/a@1[all]a1"},
		{"Policy/bank/z", 3, "Policy/bank/z@1[aws]z1"},
		{"Policy/bank/z", 0, ""},
		{"Route/shop/a", 1, ""},
		{"Route/shop/a", 0, "Route/shop/a@2[gcp]r2"},
		{"Route/bank/a", 0, ""},
		{"Policy/shop/a", 5, ""}, // not yet
		{"Policy/shop/a", -1, ""},
		{"Environment/aws", 0, "Environment/aws@1[aws]environment aws"},
	} {
		v, err := f.Resource(t.Context(), key(c.key), c.at)
		what := fmt.Sprintf("%s at %d", c.key, c.at)
		switch {
		case c.want == "":
			wantErr(t, what, err, storage.ErrNotFound)
		case err != nil || show(v) != c.want:
			t.Errorf("%s is %s (%v), want %s", what, show(v), err, c.want)
		}
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	f := history(t)
	for after, want := range map[snapshot.Revision][]string{
		0: {"Environment/aws@1[aws]environment aws", "Environment/gcp@1[gcp]environment gcp", "Policy/shop/a@4[aws]a4", "Route/shop/a@2[gcp]r2"},
		1: {"Policy/bank/z@4[]deleted", "Policy/shop/a@4[aws]a4", "Route/shop/a@2[gcp]r2"},
		3: {"Policy/bank/z@4[]deleted", "Policy/shop/a@4[aws]a4"},
		4: nil,
		9: nil,
	} {
		versions, to, err := f.Since(t.Context(), after)
		if err != nil || to != 4 {
			t.Errorf("since %d leads to %d (%v)", after, to, err)
		}
		wantAll(t, fmt.Sprintf("since %d", after), versions, want...)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f := history(t)
	shop, none := "shop", ""
	for name, c := range map[string]struct {
		filter storage.Filter
		want   []string
	}{
		"everything": {storage.Filter{Limit: 9}, []string{
			"Environment/aws@1[aws]environment aws", "Environment/gcp@1[gcp]environment gcp", "Policy/shop/a@4[aws]a4", "Route/shop/a@2[gcp]r2",
		}},
		"first page":       {storage.Filter{Limit: 1}, []string{"Environment/aws@1[aws]environment aws"}},
		"second page":      {storage.Filter{Limit: 2, After: key("Environment/aws")}, []string{"Environment/gcp@1[gcp]environment gcp", "Policy/shop/a@4[aws]a4"}},
		"after what is no": {storage.Filter{Limit: 9, After: key("Policy/shop/b")}, []string{"Route/shop/a@2[gcp]r2"}},
		"few bytes": {storage.Filter{Limit: 9, Bytes: 1}, []string{
			"Environment/aws@1[aws]environment aws", "Environment/gcp@1[gcp]environment gcp"}},
		"some bytes": {storage.Filter{Limit: 9, Bytes: 30}, []string{
			"Environment/aws@1[aws]environment aws", "Environment/gcp@1[gcp]environment gcp", "Policy/shop/a@4[aws]a4"}},
		"few bytes and a limit": {storage.Filter{Limit: 1, Bytes: 1}, []string{"Environment/aws@1[aws]environment aws"}},
		"last page":             {storage.Filter{Limit: 9, After: key("Route/shop/a")}, nil},
		"a kind":                {storage.Filter{Limit: 9, Kind: "Policy", At: 1}, []string{"Policy/bank/z@1[aws]z1", "Policy/shop/a@1[all]a1"}},
		"its second page":       {storage.Filter{Limit: 9, Kind: "Policy", At: 1, After: key("Policy/bank/z")}, []string{"Policy/shop/a@1[all]a1"}},
		"a namespace":           {storage.Filter{Limit: 9, Namespace: &shop, At: 2}, []string{"Policy/shop/a@2[gcp]a2", "Route/shop/a@2[gcp]r2"}},
		"no namespace":          {storage.Filter{Limit: 1, Namespace: &none, At: 3}, []string{"Environment/aws@1[aws]environment aws"}},
		"unknown kind":          {storage.Filter{Limit: 9, Kind: "Nothing"}, nil},
		"while deleted":         {storage.Filter{Limit: 9, Kind: "Policy", At: 3}, []string{"Policy/bank/z@1[aws]z1"}},
	} {
		versions, at, err := f.List(t.Context(), c.filter)
		if want := c.filter.At; err != nil || at != want && (want != 0 || at != 4) {
			t.Errorf("%s: revision %d was listed (%v)", name, at, err)
		}
		wantAll(t, name, versions, c.want...)
	}
	for _, at := range []snapshot.Revision{5, -1} {
		_, _, err := f.List(t.Context(), storage.Filter{At: at, Limit: 9})
		wantErr(t, fmt.Sprintf("listing revision %d, which is not", at), err, storage.ErrNotFound)
	}
}

// Keys order as in Go, whatever the database's own collation: capitals first,
// then "_" and "a", and "-" before ".".
func TestKeysOrderAsInGo(t *testing.T) {
	t.Parallel()
	f := open(t)
	names := []string{"B", "Z-1", "Z.1", "_", "a", "a-b", "aa", "b", "é", "€", "\U00010348"}
	changes := make([]storage.Change, 0, len(names))
	for _, name := range names {
		changes = append(changes, put("Policy/"+name+"/x", "all", name))
	}
	f.apply(t, changes...)
	versions, _, err := f.Since(t.Context(), 0)
	if err != nil || len(versions) != len(names) {
		t.Fatal(len(versions), err)
	}
	for i, v := range versions {
		if v.Key.Namespace != names[i] {
			t.Errorf("place %d has %q, want %q", i, v.Key.Namespace, names[i])
		}
	}
	var after resource.Key
	for _, name := range names {
		page, _, err := f.List(t.Context(), storage.Filter{After: after, Limit: 1})
		if err != nil || len(page) != 1 || page[0].Key.Namespace != name {
			t.Fatalf("after %v comes %s (%v), want %q", after, showAll(page), err, name)
		}
		after = page[0].Key
	}
}

// Whatever is committed meanwhile, a state is that of the revision it leads to.
func TestReadersSeeOneState(t *testing.T) {
	t.Parallel()
	f := history(t)
	writer := fleet{connect(t, f.dsn), f.dsn}
	written := make(chan error, 1)
	go func() {
		for i := range 300 {
			moving := put("Policy/shop/a", "all", fmt.Sprint(i))
			if i%2 == 1 {
				moving = remove("Policy/shop/a")
			}
			changes := []storage.Change{moving, put("Policy/shop/b", "all", fmt.Sprint(i))}
			if _, err := writer.Commit(t.Context(), storage.Commit{Changes: changes}, ignore); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for len(written) == 0 {
		versions, to, err := f.Since(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		listed, _, err := f.List(t.Context(), storage.Filter{At: to, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		wantAll(t, fmt.Sprintf("the state at %d", to), versions, strings.Split(showAll(listed), "\n")...)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func TestRevisions(t *testing.T) {
	t.Parallel()
	f := history(t)
	all, err := f.Revisions(t.Context(), 0, 100)
	if err != nil || len(all) != 4 {
		t.Fatal(all, err)
	}
	got := ""
	for _, r := range all {
		got += fmt.Sprintf("%d: %d by %s, %s %v\n", r.Revision, r.Changes, r.Caller, r.Message, r.Environments)
	}
	want := "4: 2 by ann, why [aws]\n3: 1 by ann, why [gcp]\n2: 2 by ann, why [aws gcp]\n1: 4 by ann, why [aws gcp]\n"
	if got != want {
		t.Errorf("the history is\n%s\nwant\n%s", got, want)
	}
	page, err := f.Revisions(t.Context(), 4, 2)
	if err != nil || len(page) != 2 || page[0].Revision != 3 || page[1].Revision != 2 {
		t.Errorf("the page below 4 is %v (%v)", page, err)
	}
	if page, err := f.Revisions(t.Context(), 1, 2); err != nil || len(page) != 0 {
		t.Errorf("the page below 1 is %v (%v)", page, err)
	}
}

func TestEnvironmentsAt(t *testing.T) {
	t.Parallel()
	f := history(t)
	f.apply(t, remove("Environment/gcp"))
	type revisions map[string]snapshot.Revision
	for at, want := range map[snapshot.Revision]revisions{
		0: {},
		1: {"aws": 1, "gcp": 1},
		2: {"aws": 2, "gcp": 2},
		3: {"aws": 2, "gcp": 3},
		4: {"aws": 4, "gcp": 3},
		5: {"aws": 4, "gcp": 5}, // it existed
		9: {"aws": 4, "gcp": 5},
	} {
		got, err := f.EnvironmentsAt(t.Context(), at)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("at %d the environments are at %v (%v), want %v", at, got, err, want)
		}
	}
}
