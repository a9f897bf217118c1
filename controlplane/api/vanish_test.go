package api_test

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// denials are n policies of an environment, or of all.
func denials(n int, environments string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: p%d}, spec: {environments: [%s], routes: {names: [orders]}, effect: DENY, methods: [POST]}}
`, i, environments)
	}
	return b.String()
}

// What removes too much of an environment is refused, dry or not, unless it is said
// to be meant.
func TestRemovalsAreAllowedExpressly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop+denials(5, ""))
	config := w.config(t, admin)
	keys := []*adminv1.Key{parseKey("Policy/shop/p0"), parseKey("Policy/shop/p1"), parseKey("Policy/shop/p2"), parseKey("Policy/shop/p3")}
	for _, dry := range []bool{true, false} {
		apply := func(allow bool) error {
			_, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, denials(5, "aws")), DryRun: dry, AllowRemovals: allow}))
			return err
		}
		remove := func(allow bool) error {
			_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: keys, DryRun: dry, AllowRemovals: allow}))
			return err
		}
		for name, c := range map[string]struct {
			call func(bool) error
			want string
		}{
			"apply":  {apply, "would lose 5 of its 6 resources of kind Policy"},
			"delete": {remove, "would lose 4 of its 6 resources of kind Policy"},
		} {
			err := c.call(false)
			if connect.CodeOf(err) != connect.CodeFailedPrecondition || problems(err).GetProblems()[0].GetReason() != "removes_too_much" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, dry %v: %s", name, dry, explain(err))
			}
		}
		if err := apply(true); err != nil {
			t.Errorf("allowed, dry %v: %s", dry, explain(err))
		}
	}
	// They are in aws alone now, and nothing else is wrong with that.
	_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: keys, AllowRemovals: true}))
	if err != nil {
		t.Error(explain(err))
	}
	if p := must(w.store.Position(t.Context())); p.Revision != 3 {
		t.Errorf("the fleet is at revision %d", p.Revision)
	}
}
