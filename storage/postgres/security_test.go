package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

func revocation(name, document string) storage.Change {
	return put("Revocation/"+name, "all", document)
}

// cut commits changes to the security lane.
func (f fleet) cut(t testing.TB, changes ...storage.Change) storage.Committed {
	t.Helper()
	c, err := f.Security().Commit(t.Context(), storage.Commit{Caller: "ann", Action: "apply", Message: "stolen", Changes: changes}, ignore)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A proxy has a state of the lane before there is any revocation.
func TestSecurityLaneBeginsEmpty(t *testing.T) {
	t.Parallel()
	f := open(t)
	if heads, err := f.Heads(t.Context()); err != nil || showHeads(heads...) != "@security@1 unsigned\n" {
		t.Errorf("the heads are %s(%v)", showHeads(heads...), err)
	}
	history, err := f.EnvironmentRevisions(t.Context(), snapshot.SecurityLane, 0, 10)
	if err != nil || len(history) != 1 || history[0].Revision != 1 || len(history[0].Versions) != 0 {
		t.Errorf("the lane begins with %+v (%v)", history, err)
	}
	state, err := f.EnvironmentState(t.Context(), snapshot.SecurityLane, 1)
	if err != nil || len(state) != 0 {
		t.Errorf("the lane holds %s (%v)", showAll(state), err)
	}
	if p, err := f.Security().Position(t.Context()); err != nil || p != (snapshot.Position{Epoch: 1, Revision: 1}) {
		t.Errorf("the lane is at %v (%v)", p, err)
	}
	if p, err := f.Position(t.Context()); err != nil || p != (snapshot.Position{Epoch: 1}) {
		t.Errorf("the fleet is at %v (%v)", p, err)
	}
}

// Both lanes are changed in turn, and neither shows in what the other says.
func TestSecurityLaneIsApart(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(t, environment("aws"), put("Policy/shop/a", "all", "a1"))
	for i, changes := range [][]storage.Change{
		{revocation("token", "t2"), revocation("key", "k2")},
		{revocation("token", "t3")},
		{remove("Revocation/key")},
		{revocation("key", "k5"), remove("Revocation/token")},
	} {
		got := f.cut(t, changes...)
		if got.Revision != snapshot.Revision(i+2) || !slices.Equal(got.Environments, []string{snapshot.SecurityLane}) {
			t.Errorf("commit %d made %+v", i, got)
		}
		f.apply(t, put("Policy/shop/a", "all", fmt.Sprintf("a%d", i+2)))
	}

	lane := f.Security()
	versions, at, err := lane.Since(t.Context(), 0)
	if err != nil || at != 5 {
		t.Errorf("Since: at %d, %v", at, err)
	}
	wantAll(t, "the lane", versions, "Revocation/key@5[all]k5")
	versions, _, err = lane.Since(t.Context(), 3)
	wantAll(t, fmt.Sprintf("the lane since 3 (%v)", err), versions, "Revocation/key@5[all]k5", "Revocation/token@5[]deleted")
	versions, _, err = lane.List(t.Context(), storage.Filter{At: 3, Limit: 10})
	wantAll(t, fmt.Sprintf("the lane at 3 (%v)", err), versions, "Revocation/key@2[all]k2", "Revocation/token@3[all]t3")
	if v, err := lane.Resource(t.Context(), key("Revocation/token"), 2); err != nil || show(v) != "Revocation/token@2[all]t2" {
		t.Errorf("the token at 2 is %s (%v)", show(v), err)
	}
	_, err = lane.Resource(t.Context(), key("Policy/shop/a"), 0)
	wantErr(t, "a policy in the lane", err, storage.ErrNotFound)

	versions, at, err = f.Since(t.Context(), 0)
	if err != nil || at != 5 {
		t.Errorf("the fleet is at %d (%v)", at, err)
	}
	wantAll(t, "the fleet", versions, "Environment/aws@1[aws]environment aws", "Policy/shop/a@5[all]a5")
	_, err = f.Resource(t.Context(), key("Revocation/key"), 0)
	wantErr(t, "a revocation in the fleet", err, storage.ErrNotFound)

	for name, c := range map[string]struct {
		of   storage.Resources
		want string
	}{"fleet": {f, "aws"}, "lane": {lane, "@security"}} {
		if environments, err := c.of.EnvironmentsAt(t.Context(), 5); err != nil || len(environments) != 1 || environments[c.want] != 5 {
			t.Errorf("environments of the %s: %v (%v)", name, environments, err)
		}
		revisions, err := c.of.Revisions(t.Context(), 0, 10)
		if err != nil || len(revisions) != 5 {
			t.Errorf("the %s has %d revisions (%v)", name, len(revisions), err)
		}
		for _, r := range revisions {
			if got := strings.Join(r.Environments, " "); got != c.want {
				t.Errorf("revision %d of the %s touches %q", r.Revision, name, got)
			}
		}
	}
}

// What is published of the lane is made of the same parts as an environment.
func TestSecurityLaneIsPublished(t *testing.T) {
	t.Parallel()
	f := history(t)
	f.cut(t, revocation("token", "t2"), revocation("key", "k2"))
	f.cut(t, remove("Revocation/key"))
	revisions, err := f.EnvironmentRevisions(t.Context(), snapshot.SecurityLane, 1, 10)
	got := ""
	for _, r := range revisions {
		got += fmt.Sprintf("%d:\n%s\n", r.Revision, showAll(r.Versions))
	}
	if want := lines("2:", "Revocation/key@2[all]k2", "Revocation/token@2[all]t2", "3:", "Revocation/key@3[]deleted") + "\n"; got != want {
		t.Errorf("the lane's sequences:\n%s(%v), want\n%s", got, err, want)
	}
	state, err := f.EnvironmentState(t.Context(), snapshot.SecurityLane, 3)
	wantAll(t, fmt.Sprintf("the lane at 3 (%v)", err), state, "Revocation/token@2[all]t2")

	term := begin(t, f, "a")
	lane := snapshot.SecurityLane
	if err := f.SaveHeads(t.Context(), term, []snapshot.Head{head(t, lane, 1, 0), head(t, lane, 2, 2), head(t, "aws", 2, 2)}); err != nil {
		t.Fatal(err)
	}
	if err := f.SaveHeads(t.Context(), term, []snapshot.Head{head(t, lane, 4, 1)}); err == nil {
		t.Error("a head was saved for a sequence that is still to come")
	}
	if err := f.AdvanceCursor(t.Context(), term, "etcd", lane, 2); err != nil {
		t.Error(err)
	}
	if at, err := f.Cursor(t.Context(), "etcd", lane); err != nil || at != 2 {
		t.Errorf("the cursor is at %d (%v)", at, err)
	}
	heads, err := f.Heads(t.Context())
	if want := "@security@3 @security@2/2\naws@4 aws@2/2\ngcp@3 unsigned\n"; err != nil || showHeads(heads...) != want {
		t.Errorf("the heads are\n%s(%v), want\n%s", showHeads(heads...), err, want)
	}
}

func TestLanesRefuseEachOthersResources(t *testing.T) {
	t.Parallel()
	f := open(t)
	at := snapshot.Revision(0)
	for name, c := range map[string]struct {
		of     storage.Resources
		commit storage.Commit
		want   error
	}{
		"a revocation in a revision": {f, storage.Commit{Changes: []storage.Change{revocation("a", "a")}}, nil},
		"its deletion":               {f, storage.Commit{Changes: []storage.Change{remove("Revocation/a")}}, nil},
		"a policy in the lane":       {f.Security(), storage.Commit{Changes: []storage.Change{put("Policy/shop/a", "all", "a")}}, nil},
		"a revocation for some":      {f.Security(), storage.Commit{Changes: []storage.Change{put("Revocation/a", "aws", "a")}}, nil},
		"a revocation for none":      {f.Security(), storage.Commit{Changes: []storage.Change{put("Revocation/a", "", "a")}}, nil},
		"what is not there":          {f.Security(), storage.Commit{Changes: []storage.Change{remove("Revocation/a")}}, storage.ErrNotFound},
		"another sequence":           {f.Security(), storage.Commit{Expected: &at, Changes: []storage.Change{revocation("a", "a")}}, storage.ErrConflict},
	} {
		_, err := c.of.Commit(t.Context(), c.commit, ignore)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if p, err := f.Security().Position(t.Context()); err != nil || p.Revision != 1 {
		t.Errorf("the lane is at %v (%v)", p, err)
	}
}

func TestSecurityCommitsAreAudited(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.cut(t, revocation("a", "a"))
	f.apply(t, environment("aws"))
	if n, err := f.verifyAudit(t.Context()); err != nil || n != 2 {
		t.Fatalf("there are %d entries (%v)", n, err)
	}
	entries, err := f.Entries(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %s %d %s", e.Caller, e.Action, e.Revision, e.Detail))
	}
	if want := []string{"ann apply 0 security sequence 2: stolen", "ann apply 1 why"}; !slices.Equal(got, want) {
		t.Errorf("the audit says %q, want %q", got, want)
	}
}

// A revocation does not wait for an Apply that takes long, on any replica, nor
// the other way round.
func TestLanesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	f := open(t)
	other := fleet{connect(t, f.dsn), f.dsn}
	for name, c := range map[string]struct {
		long, short storage.Resources
		change      storage.Change
		meanwhile   func(i int) storage.Change
	}{
		"a revocation, of an Apply here":  {f, f.Security(), environment("aws"), func(i int) storage.Change { return revocation("a", fmt.Sprint(i)) }},
		"a revocation, of one elsewhere":  {f, other.Security(), environment("aws"), func(i int) storage.Change { return revocation("b", fmt.Sprint(i)) }},
		"an Apply, of a revocation":       {f.Security(), f, revocation("c", "c"), func(int) storage.Change { return environment("gcp") }},
		"an Apply, of one made elsewhere": {other.Security(), f, revocation("d", "d"), func(int) storage.Change { return environment("gcp") }},
	} {
		_, err := c.long.Commit(t.Context(), storage.Commit{Changes: []storage.Change{c.change}}, func([]storage.Version) error {
			for i := range 3 {
				if _, err := c.short.Commit(t.Context(), storage.Commit{Changes: []storage.Change{c.meanwhile(i)}}, ignore); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Writers on two replicas commit to both lanes: each history is gapless, and in
// the order of its commits.
func TestConcurrentLanes(t *testing.T) {
	t.Parallel()
	const writers, each = 12, 15
	f := open(t)
	f.apply(t, environment("aws"))
	replicas := []fleet{f, {connect(t, f.dsn), f.dsn}}
	var mu sync.Mutex
	made := map[bool]map[snapshot.Revision]string{true: {}, false: {}}
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := range each {
				name, immediate := fmt.Sprintf("w%d-%d", w, i), (w+i)%2 == 0
				var to storage.Resources = replicas[w/2%2]
				change := put("Policy/shop/"+name, "all", name)
				if immediate {
					to, change = replicas[w/2%2].Security(), revocation(name, name)
				}
				c, err := to.Commit(t.Context(), storage.Commit{Caller: name, Changes: []storage.Change{change}}, ignore)
				if err != nil {
					return err
				}
				mu.Lock()
				made[immediate][c.Revision] = name
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for immediate, of := range map[bool]storage.Resources{true: f.Security(), false: f} {
		revisions, err := of.Revisions(t.Context(), 0, 1000)
		if err != nil || len(revisions) != writers*each/2+1 {
			t.Fatalf("immediate %v: %d revisions (%v)", immediate, len(revisions), err)
		}
		slices.Reverse(revisions)
		for i, r := range revisions {
			if r.Revision != snapshot.Revision(i+1) {
				t.Fatalf("revision %d follows %d", r.Revision, i)
			}
			if i > 0 && (r.CommittedAt.Before(revisions[i-1].CommittedAt) || r.Caller != made[immediate][r.Revision]) {
				t.Errorf("revision %d is %+v, its writer is %s", r.Revision, r, made[immediate][r.Revision])
			}
		}
	}
	history, err := f.EnvironmentRevisions(t.Context(), snapshot.SecurityLane, 1, 1000)
	if err != nil || len(history) != writers*each/2 {
		t.Fatalf("the lane has %d sequences to publish (%v)", len(history), err)
	}
	for i, r := range history {
		if r.Revision != snapshot.Revision(i+2) || len(r.Versions) != 1 || r.Versions[0].Key.Name != made[true][r.Revision] {
			t.Errorf("sequence %d is published as %s", i+2, showAll(r.Versions))
		}
	}
	if n, err := f.verifyAudit(t.Context()); err != nil || n != writers*each+1 {
		t.Errorf("there are %d audit entries (%v)", n, err)
	}
}

// A commit to the lane wakes whoever waits for changes.
func TestSecurityCommitsAreNotified(t *testing.T) {
	t.Parallel()
	f := open(t)
	changed := listen(t, connect(t, f.dsn))
	f.cut(t, revocation("a", "a"))
	receive(t, changed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, open := <-f.Security().Changed(ctx); open {
		t.Error("Changed goes on")
	}
}
