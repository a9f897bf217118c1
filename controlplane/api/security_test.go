package api_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// revoke is a revocation of a key, with more of its spec if need be.
func revoke(name string, more ...string) string {
	return fmt.Sprintf("{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: %s}, spec: {%s}}\n", name,
		strings.Join(append([]string{"key: " + name}, more...), ", "))
}

func expires(in time.Duration) string {
	return fmt.Sprintf("expiresAt: %q", time.Now().Add(in).Format(time.RFC3339))
}

// revocations lists the names of those that are in force.
func (w *world) revocations(t testing.TB) string {
	t.Helper()
	req := &adminv1.ListRequest{Kind: "Revocation", PageSize: 2}
	var names []string
	for {
		res, err := w.config(t, viewer).List(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(explain(err))
		}
		for _, r := range res.Msg.GetResources() {
			names = append(names, fmt.Sprintf("%s@%d", r.GetResource().GetMetadata().GetName(), r.GetRevision()))
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return fmt.Sprintf("%s at %d", strings.Join(names, " "), res.Msg.GetRevision())
		}
	}
}

func TestRevocationsMakeNoRevision(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	config := w.config(t, admin)
	type change interface {
		GetRevision() int64
		GetSecuritySequence() int64
		GetEnvironments() []string
		GetChanges() []*adminv1.Change
	}
	want := func(what string, got change, sequence int64, types string) {
		t.Helper()
		var is []string
		for _, c := range got.GetChanges() {
			is = append(is, strings.ToLower(strings.TrimPrefix(c.GetType().String(), "CHANGE_TYPE_")))
		}
		if got.GetRevision() != 0 || got.GetSecuritySequence() != sequence || len(got.GetEnvironments()) != 0 || strings.Join(is, " ") != types {
			t.Errorf("%s: %v, want sequence %d, %s", what, got, sequence, types)
		}
	}
	want("two", w.apply(t, revoke("a")+"---\n"+revoke("b", expires(time.Hour))), 2, "created created")
	want("the same again", w.apply(t, revoke("a")), 2, "unchanged")
	want("replaced", w.apply(t, revoke("b", "reason: stolen")+"---\n"+revoke("c")), 3, "replaced created")
	dry, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, revoke("d")), DryRun: true}))
	if err != nil {
		t.Fatal(err)
	}
	want("a dry run", dry.Msg, 3, "created")
	deleted, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Revocation", "", "a")}}))
	if err != nil {
		t.Fatal(explain(err))
	}
	want("deleted", deleted.Msg, 4, "deleted")
	if got, want := w.revocations(t), "b@3 c@3 at 4"; got != want {
		t.Errorf("in force are %s, want %s", got, want)
	}
	got, err := config.Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: key("Revocation", "", "b")}))
	if err != nil || got.Msg.GetResource().GetResource().GetSpec().GetFields()["reason"].GetStringValue() != "stolen" {
		t.Errorf("got %v (%v)", got, err)
	}

	// The fleet is where it was, and does not list them.
	all, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{}))
	if err != nil || all.Msg.GetRevision() != 1 || len(all.Msg.GetResources()) != 5 {
		t.Errorf("the fleet is %v (%v)", all, err)
	}
	if made := w.apply(t, upstream("next")); made.GetRevision() != 2 || made.GetSecuritySequence() != 0 {
		t.Errorf("the next revision is %v", made)
	}
}

func TestRevocationsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, revoke("a"))
	config := w.config(t, admin)
	apply := func(yaml string, change ...func(*adminv1.ApplyRequest)) func() error {
		return func() error {
			req := &adminv1.ApplyRequest{Resources: resources(t, yaml)}
			for _, f := range change {
				f(req)
			}
			_, err := config.Apply(t.Context(), connect.NewRequest(req))
			return err
		}
	}
	remove := func(expected *int64, keys ...*adminv1.Key) func() error {
		return func() error {
			_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: keys, ExpectedRevision: expected}))
			return err
		}
	}
	one := int64(1)
	for name, c := range map[string]struct {
		call func() error
		code connect.Code
		want string
	}{
		"beside an upstream": {apply(upstream("u") + "\n---\n" + revoke("b")), connect.CodeInvalidArgument,
			"Revocation/b: kind: is in force at once and makes no revision: name resources of kind Revocation in a call of their own"},
		"an upstream's deletion beside it": {remove(nil, key("Revocation", "", "a"), key("Policy", "shop", "reads-orders")), connect.CodeInvalidArgument,
			"Revocation/a: kind: is in force at once and makes no revision: name resources of kind Revocation in a call of their own"},
		"at an expected revision": {apply(revoke("b"), func(r *adminv1.ApplyRequest) { r.ExpectedRevision = &one }), connect.CodeInvalidArgument,
			"expected_revision: goes with what makes a revision: leave it out for the security lane"},
		"deleted at an expected revision": {remove(&one, key("Revocation", "", "a")), connect.CodeInvalidArgument,
			"expected_revision: goes with what makes a revision: leave it out for the security lane"},
		"deleted without being there": {remove(nil, key("Revocation", "", "z")), connect.CodeNotFound, "Revocation/z: does not exist"},
		"in a namespace": {apply(`{apiVersion: sallyport/v1, kind: Revocation, metadata: {namespace: shop, name: b}, spec: {key: k}}`),
			connect.CodeInvalidArgument, "Revocation/shop/b: metadata.namespace: a resource of kind Revocation belongs to no namespace"},
		"of nothing": {apply(`{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: b}, spec: {reason: why}}`),
			connect.CodeInvalidArgument, "Revocation/b: spec: give one of token, subject, session, key, spiffeId, issuer, everyone, device"},
		"listed at a revision": {func() error {
			_, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{Kind: "Revocation", Revision: 1}))
			return err
		}, connect.CodeInvalidArgument, "revision: Revocation makes no revision: leave it out, and see what is in force now"},
		"looked up at a revision": {func() error {
			_, err := config.Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: key("Revocation", "", "a"), Revision: 1}))
			return err
		}, connect.CodeInvalidArgument, "revision: Revocation makes no revision: leave it out, and see what is in force now"},
	} {
		err := c.call()
		var e *connect.Error
		if !errors.As(err, &e) || e.Code() != c.code || e.Message() != c.want {
			t.Errorf("%s: %v, want %v: %s", name, err, c.code, c.want)
		}
	}
	if err := apply(revoke("b", expires(-time.Minute)))(); err == nil || !strings.Contains(err.Error(), "is in the past: it would have no effect") {
		t.Errorf("one that has expired: %v", err)
	}
	if got := w.revocations(t); got != "a@2 at 2" {
		t.Errorf("in force are %s", got)
	}
	viewers := w.config(t, viewer)
	if _, err := viewers.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, revoke("b"))})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a viewer: %v", err)
	}
}

// What has expired is gone, before it is removed.
func TestExpiredRevocationsAreNotShown(t *testing.T) {
	w := newWorld(t)
	w.apply(t, revoke("a", expires(time.Hour))+"---\n"+revoke("b")+"---\n"+revoke("c", expires(time.Hour))+"---\n"+revoke("d", expires(3*time.Hour)))
	if got, want := w.revocations(t), "a@2 b@2 c@2 d@2 at 2"; got != want {
		t.Errorf("in force are %s, want %s", got, want)
	}
	w.ahead.Store(int64(2 * time.Hour))
	if got, want := w.revocations(t), "b@2 d@2 at 2"; got != want {
		t.Errorf("two hours later in force are %s, want %s", got, want)
	}
	_, err := w.config(t, viewer).Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: key("Revocation", "", "a")}))
	if connect.CodeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "Revocation/a has expired") {
		t.Errorf("one that has expired: %v", err)
	}
}

// Whoever changes the fleet, on whatever replica, keeps no revocation waiting:
// the turns are apart, and both histories gapless.
func TestBothLanesAtOnce(t *testing.T) {
	const writers, each = 6, 8
	w := newWorld(t)
	w.apply(t, shop)
	config := w.config(t, admin)
	var mu sync.Mutex
	var revisions, sequences []int64
	var g errgroup.Group
	for n := range writers {
		g.Go(func() error {
			for i := range each {
				name := fmt.Sprintf("w%d-%d", n, i)
				yaml := upstream(name)
				if n%2 == 0 {
					yaml = revoke(name)
				}
				res, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, yaml)}))
				if err != nil {
					return err
				}
				mu.Lock()
				if n%2 == 0 {
					sequences = append(sequences, res.Msg.GetSecuritySequence())
				} else {
					revisions = append(revisions, res.Msg.GetRevision())
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(explain(err))
	}
	for what, got := range map[string][]int64{"revisions": revisions, "sequences": sequences} {
		slices.Sort(got)
		for i, n := range got {
			if n != int64(i+2) {
				t.Fatalf("%s: %v", what, got)
			}
		}
	}
}

func TestWaitForTheSecurityLane(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, revoke("a"))
	w.apply(t, revoke("b"))
	enforced := adminv1.Enforcement_ENFORCEMENT_ENFORCED
	at := func(sequence int64) func(*adminv1.Proxy) {
		return func(p *adminv1.Proxy) {
			p.Security = &adminv1.SecurityLane{Sequence: sequence, PersistedSequence: sequence, Enforcement: enforced}
		}
	}
	w.proxy(t, "aws", "one", 1, enforced, at(3))
	w.proxy(t, "aws", "late", 1, enforced, at(2))
	w.proxy(t, "gcp", "two", 1, enforced, at(3))
	w.proxy(t, "gcp", "lost", 1, enforced, at(2), func(p *adminv1.Proxy) { p.Connection = adminv1.Connection_CONNECTION_LOST })
	const late, lost = "(spiffe://prod.example/proxy/aws#late is at sequence 2)", "(spiffe://prod.example/proxy/gcp#lost is not connected: it is not reached)"
	for name, c := range map[string]struct {
		req  *adminv1.WaitEnforcedRequest
		code connect.Code // 0: it is enforced
		want string
	}{
		"before":                {&adminv1.WaitEnforcedRequest{SecuritySequence: 2}, 0, "aws@2 2/2;gcp@2 1/1 " + lost},
		"everywhere":            {&adminv1.WaitEnforcedRequest{SecuritySequence: 3}, connect.CodeDeadlineExceeded, "aws@3 1/2 " + late + ";gcp@3 1/1 " + lost},
		"in one environment":    {&adminv1.WaitEnforcedRequest{SecuritySequence: 3, Environments: []string{"gcp"}}, 0, "gcp@3 1/1 " + lost},
		"not yet":               {&adminv1.WaitEnforcedRequest{SecuritySequence: 4}, connect.CodeNotFound, ""},
		"no such environment":   {&adminv1.WaitEnforcedRequest{SecuritySequence: 3, Environments: []string{"aws", "azure"}}, connect.CodeNotFound, ""},
		"the lane's own name":   {&adminv1.WaitEnforcedRequest{SecuritySequence: 3, Environments: []string{"@security"}}, connect.CodeNotFound, ""},
		"its name, by revision": {&adminv1.WaitEnforcedRequest{Revision: 1, Environments: []string{"@security"}}, connect.CodeNotFound, ""},
		"both":                  {&adminv1.WaitEnforcedRequest{SecuritySequence: 3, Revision: 1}, connect.CodeInvalidArgument, ""},
	} {
		if c.code == connect.CodeDeadlineExceeded {
			c.req.Timeout = durationpb.New(2 * time.Second)
		}
		got, err := w.wait(t, c.req)
		if got != c.want || (err == nil) != (c.code == 0) || err != nil && connect.CodeOf(err) != c.code {
			t.Errorf("%s: %q (%v), want %q (%v)", name, got, err, c.want, c.code)
		}
		if c.code == connect.CodeDeadlineExceeded && !strings.Contains(err.Error(), "security sequence 3 is not enforced everywhere after 2s") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
