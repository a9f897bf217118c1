package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// proxyOf returns what the control plane knows of a proxy.
func proxyOf(ctx context.Context, f *fleet.Fleet, m *fleet.Member) (*adminv1.Proxy, error) {
	res, err := f.Admin.Fleet.ListProxies(ctx, connect.NewRequest(&adminv1.ListProxiesRequest{Environment: m.Environment}))
	if err != nil {
		return nil, err
	}
	for _, p := range res.Msg.GetProxies() {
		if p.GetInstance() == m.Name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s is not listed", m.Name)
}

// becomes waits until the control plane says of a proxy what is wanted.
func becomes(t *testing.T, f *fleet.Fleet, m *fleet.Member, want adminv1.Enforcement, revision int64) *adminv1.Proxy {
	t.Helper()
	var last *adminv1.Proxy
	eventually(t, 20*time.Second, func(ctx context.Context) (bool, string) {
		p, err := proxyOf(ctx, f, m)
		if err != nil {
			return false, err.Error()
		}
		last = p
		return p.GetEnforcement() == want && p.GetRevision() >= revision,
			fmt.Sprintf("%s is %s at revision %d, refusal %q", m.Name, p.GetEnforcement(), p.GetRevision(), p.GetRefusal())
	})
	return last
}

// ask sends a request to a proxy as Alice of group shop, and returns the answer.
func ask(t *testing.T, f *fleet.Fleet, m *fleet.Member, method, path string) (status int, body string) {
	t.Helper()
	token, err := f.Sign(fleet.TokenRequest{Subject: "alice", Groups: []string{"shop"}, Audience: "orders", ExpiresIn: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := f.Send(within(t, 10*time.Second), m, fleet.Request{Method: method, Path: path, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status, string(answer.Body)
}

// A proxy whose swap does nothing, or that loses one compiled policy, says so
// itself: what it proves is computed from what decides.
func TestBrokenBuildsShowAsDrift(t *testing.T) {
	f := start(t)
	aws, gcp := f.Members[0], f.Members[1]
	for _, broken := range []string{"gateway.skip-swap", "gateway.drop-policy"} {
		if err := aws.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := aws.Start(armed(broken)); err != nil {
			t.Fatal(err)
		}
		revision, err := f.Admin.Apply(t.Context(), policyNamed(strings.ReplaceAll(broken, ".", "-")), broken)
		if err != nil {
			t.Fatal(err)
		}
		drifted := becomes(t, f, aws, adminv1.Enforcement_ENFORCEMENT_DRIFT, revision)
		if bytes.Equal(drifted.GetEnforcedRoot(), drifted.GetReceivedRoot()) {
			t.Errorf("%s: both roots are the same", broken)
		}
		res, err := f.Admin.Fleet.Verify(t.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: drifted.GetId()}))
		if broken == "gateway.drop-policy" && (err != nil || len(res.Msg.GetDeviations()) != 1 || res.Msg.GetDeviations()[0].GetType() != adminv1.DeviationType_DEVIATION_TYPE_MISSING) {
			t.Errorf("%s: what deviates is %v, %v", broken, res, err)
		}
		becomes(t, f, gcp, adminv1.Enforcement_ENFORCEMENT_ENFORCED, revision)
		waiting, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := f.Admin.Enforced(waiting, revision, aws.Environment); err == nil {
			t.Errorf("%s: the wait for proof ended as if there were one", broken)
		}
		cancel()
	}
	// The same proxy without the fault is as any other.
	if err := aws.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := aws.Start(); err != nil {
		t.Fatal(err)
	}
	becomes(t, f, aws, adminv1.Enforcement_ENFORCEMENT_ENFORCED, newest(t, f))
}

// A resource from a newer build is rejected by name, what it controls denies,
// and the rest goes on.
func TestResourceOfANewerBuildIsRejectedAndDenies(t *testing.T) {
	f := start(t)
	if status, body := ask(t, f, f.Members[0], http.MethodGet, "/v1/orders/7"); status != http.StatusOK {
		t.Fatalf("before: %d %s", status, body)
	}
	revision := commitNewer(t, f)
	for _, m := range f.Members {
		p := becomes(t, f, m, adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS, revision)
		if len(p.GetRejects()) != 1 || p.GetRejects()[0].GetName() != "from-tomorrow" {
			t.Errorf("%s rejects %v", m.Name, p.GetRejects())
		}
		status, body := ask(t, f, m, http.MethodGet, "/v1/orders/7")
		if status != http.StatusForbidden || !strings.Contains(body, `"control_unavailable"`) {
			t.Errorf("%s: the route that it controls answers %d %s", m.Name, status, body)
		}
		if status, body := ask(t, f, m, http.MethodGet, "/v1/inventory/cups"); status != http.StatusOK {
			t.Errorf("%s: another route answers %d %s", m.Name, status, body)
		}
	}
}

// commitNewer commits, past admission, a policy with a field that this build
// does not know.
func commitNewer(t *testing.T, f *fleet.Fleet) int64 {
	t.Helper()
	routes := &resourcev1.RouteSelector{Names: []string{"orders"}}
	spec, err := proto.Marshal(&resourcev1.Policy{
		Routes: routes, Effect: resourcev1.Effect_EFFECT_ALLOW,
		Principals: []*resourcev1.PrincipalMatcher{{Match: &resourcev1.PrincipalMatcher_Group{Group: "shop"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	spec = protowire.AppendVarint(protowire.AppendTag(spec, 999, protowire.VarintType), 1)
	document, err := proto.Marshal(&resourcev1.Document{
		Kind: "Policy", Namespace: "shop", Name: "from-tomorrow",
		Reach: resourcev1.Reach_REACH_ROUTES, Routes: routes, Spec: spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	done, err := database(t, f).Commit(t.Context(), storage.Commit{
		Caller: "a newer build", Base: snapshot.Revision(newest(t, f)),
		Changes: []storage.Change{{
			Key:   resource.Key{Kind: resource.KindPolicy, Namespace: "shop", Name: "from-tomorrow"},
			Scope: storage.Scope{All: true}, Document: document, Digest: snapshot.DocumentDigest(document),
		}},
	}, func([]storage.Version) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return int64(done.Revision)
}

// What is for one environment never reaches a proxy of another.
func TestEnvironmentsGetNothingOfEachOther(t *testing.T) {
	f := start(t)
	const secret = "only-for-aws-eyes"
	revision, err := f.Admin.Apply(t.Context(), `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: `+secret+`}
spec:
  environments: [aws-demo]
  routes: {names: [orders]}
  effect: DENY
  principals: [{group: nobody-at-all}]
`, "for one environment")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, "aws-demo"); err != nil {
		t.Fatal(err)
	}
	// A change for both is enforced by the other: it has had all it will get.
	both, err := f.Admin.Apply(t.Context(), policyNamed("for-both"), "for both")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), both, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func(ctx context.Context) (bool, string) {
		for _, m := range f.Members {
			p, err := proxyOf(ctx, f, m)
			if err != nil || p.GetPersistedRevision() < both {
				return false, m.Name + " has not persisted yet"
			}
		}
		return true, ""
	})
	for _, m := range f.Members {
		has := false
		for _, b := range stateOf(t, f, m) {
			has = has || bytes.Contains(b, []byte(secret))
		}
		if has != (m.Environment == "aws-demo") {
			t.Errorf("%s, of %s: has it on disk: %v", m.Name, m.Environment, has)
		}
	}
}

// stateOf returns the files that a proxy keeps.
func stateOf(t *testing.T, f *fleet.Fleet, m *fleet.Member) (all [][]byte) {
	t.Helper()
	state := os.DirFS(f.Path(m.Name + "-state"))
	err := fs.WalkDir(state, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(state, name)
		all = append(all, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
