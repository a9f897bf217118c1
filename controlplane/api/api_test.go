package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

const shop = `
apiVersion: sallyport/v1
kind: Environment
metadata: {name: aws}
spec: {}
---
apiVersion: sallyport/v1
kind: Environment
metadata: {name: gcp}
spec: {}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: orders}
spec: {endpoints: ["orders.internal:443"], tls: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders, labels: {app: orders}}
spec:
  hosts: [shop.example]
  paths: ["/v1/orders/**"]
  upstream: orders
  authentication: {clientCertificates: true}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: reads-orders}
spec:
  routes: {labels: {app: orders}}
  effect: ALLOW
  principals: [{spiffe: "spiffe://prod.example/ns/shop/**"}]
  methods: [GET]
`

func upstream(name string, environments ...string) string {
	return fmt.Sprintf(`{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: %s},
		spec: {environments: [%s], endpoints: ["a:1"], tls: {}}}`, name, strings.Join(environments, ", "))
}

func key(kind, namespace, name string) *adminv1.Key {
	return &adminv1.Key{Kind: kind, Namespace: namespace, Name: name}
}

// protocols are what clients speak.
var protocols = map[string][]connect.ClientOption{
	"connect":            nil,
	"connect with JSON":  {connect.WithProtoJSON()},
	"connect with gzip":  {connect.WithSendGzip()},
	"connect by GET":     {connect.WithHTTPGet()},
	"gRPC":               {connect.WithGRPC()},
	"gRPC with gzip":     {connect.WithGRPC(), connect.WithSendGzip()},
	"gRPC-Web":           {connect.WithGRPCWeb()},
	"gRPC-Web with JSON": {connect.WithGRPCWeb(), connect.WithProtoJSON()},
}

func TestEveryProcedureInEveryProtocol(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config, fleet := w.config(t, admin, options...), w.fleet(t, viewer, options...)

			applied, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, shop), Message: "first"}))
			if err != nil {
				t.Fatal(explain(err))
			}
			if m := applied.Msg; m.GetRevision() != 1 || len(m.GetChanges()) != 5 || fmt.Sprint(m.GetEnvironments()) != "[aws gcp]" ||
				m.GetChanges()[3].GetType() != adminv1.ChangeType_CHANGE_TYPE_CREATED || m.GetChanges()[3].GetKey().GetName() != "orders" {
				t.Errorf("applied %v", m)
			}

			got, err := config.Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: key("Route", "shop", "orders")}))
			if err != nil {
				t.Fatal(err)
			}
			if r := got.Msg.GetResource(); r.GetRevision() != 1 || len(r.GetDigest()) != 32 ||
				r.GetResource().GetSpec().GetFields()["upstream"].GetStringValue() != "orders" || r.GetResource().GetMetadata().GetLabels()["app"] != "orders" {
				t.Errorf("got %v", r)
			}

			deleted, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Policy", "shop", "reads-orders")}}))
			if err != nil {
				t.Fatal(err)
			}
			if m := deleted.Msg; m.GetRevision() != 2 || m.GetChanges()[0].GetType() != adminv1.ChangeType_CHANGE_TYPE_DELETED {
				t.Errorf("deleted %v", m)
			}

			listed, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{Namespace: "shop"}))
			if err != nil {
				t.Fatal(err)
			}
			if m := listed.Msg; m.GetRevision() != 2 || len(m.GetResources()) != 2 || m.GetNextPageToken() != "" {
				t.Errorf("listed %v", m)
			}

			revisions, err := config.ListRevisions(t.Context(), connect.NewRequest(&adminv1.ListRevisionsRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if r := revisions.Msg.GetRevisions(); len(r) != 2 || r[0].GetRevision() != 2 || r[0].GetChanges() != 1 ||
				r[1].GetMessage() != "first" || r[1].GetCaller() != string(admin) || time.Since(r[1].GetCommittedAt().AsTime()) > time.Minute {
				t.Errorf("revisions %v", r)
			}

			w.proxy(t, "aws", "one", 2, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
			proxies, err := fleet.ListProxies(t.Context(), connect.NewRequest(&adminv1.ListProxiesRequest{Environment: "aws"}))
			if err != nil || len(proxies.Msg.GetProxies()) != 1 {
				t.Fatal(proxies, err)
			}
			one, err := fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: proxies.Msg.GetProxies()[0].GetId()}))
			if err != nil || one.Msg.GetProxy().GetRevision() != 2 {
				t.Error(one, err)
			}
			stream, err := fleet.WaitEnforced(t.Context(), connect.NewRequest(&adminv1.WaitEnforcedRequest{Revision: 2}))
			if err != nil {
				t.Fatal(err)
			}
			var last *adminv1.WaitEnforcedResponse
			for stream.Receive() {
				last = stream.Msg()
			}
			if err := stream.Err(); err != nil || !last.GetDone() || len(last.GetEnvironments()) != 2 || last.GetEnvironments()[0].GetEnforced() != 1 {
				t.Errorf("waited: %v, %v", last, err)
			}
			checker := grpchealth.NewClient(w.client(t, nobody), w.url, options...)
			health, err := checker.Check(t.Context(), &grpchealth.CheckRequest{Service: adminv1connect.FleetServiceName})
			if err != nil || health.Status != grpchealth.StatusServing {
				t.Errorf("health: %v, %v", health, err)
			}
		})
	}
}

// proxy records a proxy process whose stream another replica has.
func (w *world) proxy(t testing.TB, environment, instance string, revision int64, e adminv1.Enforcement, change ...func(*adminv1.Proxy)) {
	t.Helper()
	now := time.Now()
	id := "spiffe://prod.example/proxy/" + environment + "#" + instance
	p := &adminv1.Proxy{
		Id: id, SpiffeId: strings.TrimSuffix(id, "#"+instance), Instance: instance, Environment: environment,
		Connection: adminv1.Connection_CONNECTION_CONNECTED, Enforcement: e, Revision: revision, LastSeenAt: timestamppb.New(now),
	}
	for _, f := range change {
		f(p)
	}
	replica := "two"
	if p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED {
		replica = ""
	}
	status := must(proto.Marshal(p))
	err := w.store.SaveProxies(t.Context(), "", []storage.Proxy{{
		ID: storage.ProxyID(id), SPIFFEID: "spiffe://prod.example/proxy/" + environment, Instance: instance, Environment: environment,
		Replica: replica, Status: status, RegisteredAt: now, LastSeen: now,
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// A wait that has nothing to say for longer than a message may take is not cut
// off: it ends as it was asked to.
func TestWaitIsSilent(t *testing.T) {
	w := newWorld(t)
	w.api.TestOnlySendWithin(time.Second)
	w.apply(t, shop)
	w.proxy(t, "aws", "late", 0, adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED)
	_, err := w.wait(t, &adminv1.WaitEnforcedRequest{Revision: 1, Environments: []string{"aws"}, Timeout: durationpb.New(3 * time.Second)})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("%v", err)
	}
}

func TestApplyAndDelete(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, admin)
	w.apply(t, shop)

	t.Run("the same again makes no revision", func(t *testing.T) {
		res := w.apply(t, shop)
		if res.GetRevision() != 1 {
			t.Errorf("revision %d, want 1", res.GetRevision())
		}
		for _, c := range res.GetChanges() {
			if c.GetType() != adminv1.ChangeType_CHANGE_TYPE_UNCHANGED {
				t.Errorf("%v", c)
			}
		}
	})
	t.Run("a dry run changes nothing", func(t *testing.T) {
		res, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{DryRun: true, Resources: resources(t, upstream("new")+"\n---\n"+upstream("orders"))}))
		if err != nil {
			t.Fatal(explain(err))
		}
		if m := res.Msg; m.GetRevision() != 1 || m.GetChanges()[0].GetType() != adminv1.ChangeType_CHANGE_TYPE_CREATED ||
			m.GetChanges()[1].GetType() != adminv1.ChangeType_CHANGE_TYPE_REPLACED || len(m.GetEnvironments()) != 2 {
			t.Errorf("dry run: %v", m)
		}
		del, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{DryRun: true, Keys: []*adminv1.Key{key("Policy", "shop", "reads-orders")}}))
		if err != nil || del.Msg.GetRevision() != 1 {
			t.Errorf("dry run of a deletion: %v, %v", del, err)
		}
		list, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{}))
		if err != nil || list.Msg.GetRevision() != 1 || len(list.Msg.GetResources()) != 5 {
			t.Errorf("after a dry run: %v, %v", list, err)
		}
	})
	t.Run("at the expected revision only", func(t *testing.T) {
		for _, dry := range []bool{false, true} {
			_, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{DryRun: dry, Resources: resources(t, upstream("new")), ExpectedRevision: proto.Int64(7)}))
			if connect.CodeOf(err) != connect.CodeAborted || !strings.Contains(err.Error(), "revision 1, not at the expected 7: nothing was changed") {
				t.Errorf("apply: %v", err)
			}
			_, err = config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{DryRun: dry, Keys: []*adminv1.Key{key("Policy", "shop", "reads-orders")}, ExpectedRevision: proto.Int64(0)}))
			if connect.CodeOf(err) != connect.CodeAborted {
				t.Errorf("delete: %v", err)
			}
		}
		// Problems may come of what has changed since: the conflict is told first.
		_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Upstream", "shop", "orders")}, ExpectedRevision: proto.Int64(0)}))
		if connect.CodeOf(err) != connect.CodeAborted {
			t.Errorf("delete with problems: %v", err)
		}
		if _, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, upstream("new")), ExpectedRevision: proto.Int64(1)})); err != nil {
			t.Errorf("as expected: %v", err)
		}
	})
	t.Run("what others need stays", func(t *testing.T) {
		_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Upstream", "shop", "orders")}}))
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || problems(err).GetProblems()[0].GetReason() != "still_referenced" {
			t.Error(explain(err))
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Upstream", "shop", "orders"), key("Upstream", "shop", "gone")}}))
		if connect.CodeOf(err) != connect.CodeNotFound || problems(err).GetTotal() != 2 {
			t.Error(explain(err))
		}
		for _, req := range []*adminv1.GetRequest{
			{Key: key("Route", "shop", "gone")},
			{Key: key("Route", "", "orders")},
			{Key: key("Upstream", "shop", "new"), Revision: 1},
			{Key: key("Route", "shop", "orders"), Revision: 1 << 40},
		} {
			if _, err := config.Get(t.Context(), connect.NewRequest(req)); connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("get %v: %v", req, err)
			}
		}
	})
	t.Run("a revision keeps what it held", func(t *testing.T) {
		got, err := config.Get(t.Context(), connect.NewRequest(&adminv1.GetRequest{Key: key("Policy", "shop", "reads-orders"), Revision: 1}))
		if err != nil || got.Msg.GetResource().GetRevision() != 1 {
			t.Error(got, err)
		}
	})
}

// A page token holds on to the revision of the first page: what is committed
// between pages neither hides nor doubles anything.
func TestPagesAreOfOneRevision(t *testing.T) {
	w := newWorld(t)
	w.apply(t, upstream("a")+"\n---\n"+upstream("b")+"\n---\n"+upstream("c")+"\n---\n"+upstream("d"))
	config := w.config(t, viewer)
	var names []string
	req := &adminv1.ListRequest{PageSize: 2}
	for page := 0; ; page++ {
		res, err := config.List(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		if res.Msg.GetRevision() != 1 {
			t.Errorf("page %d is of revision %d", page, res.Msg.GetRevision())
		}
		for _, r := range res.Msg.GetResources() {
			names = append(names, r.GetResource().GetMetadata().GetName())
		}
		if page == 0 {
			w.apply(t, upstream("bb")+"\n---\n"+upstream("e"))
			if _, err := w.config(t, admin).Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{key("Upstream", "shop", "c")}})); err != nil {
				t.Fatal(err)
			}
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "a b c d" {
		t.Errorf("got %s, want a b c d", got)
	}
}

// Pages are cut where gRPC's clients would not take more.
func TestPagesOfLargeResources(t *testing.T) {
	w := newWorld(t)
	var yaml strings.Builder
	var endpoints []string
	for i := range 256 {
		endpoints = append(endpoints, fmt.Sprintf(`"%s%03d.example:1"`, strings.Repeat("a", 50), i))
	}
	for i := range 100 {
		fmt.Fprintf(&yaml, "---\n{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: u%03d}, spec: {endpoints: [%s], tls: {}}}\n", i, strings.Join(endpoints, ", "))
	}
	w.apply(t, yaml.String())
	config, n, pages := w.config(t, viewer), 0, 0
	req := &adminv1.ListRequest{PageSize: 1000}
	for {
		res, err := config.List(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(res.Msg); size > 4<<20 {
			t.Errorf("a page of %d bytes", size)
		}
		n, pages = n+len(res.Msg.GetResources()), pages+1
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if n != 100 || pages < 2 {
		t.Errorf("%d resources on %d pages", n, pages)
	}
}

func TestPagesOfRevisionsAndProxies(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.apply(t, upstream(fmt.Sprintf("u%d", i)))
		w.proxy(t, []string{"aws", "gcp"}[i%2], fmt.Sprint(i), 1, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	}
	config, fleet := w.config(t, viewer), w.fleet(t, viewer)
	var revisions []string
	for req := (&adminv1.ListRevisionsRequest{PageSize: 2}); ; {
		res, err := config.ListRevisions(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.Msg.GetRevisions() {
			revisions = append(revisions, fmt.Sprint(r.GetRevision()))
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if got := strings.Join(revisions, " "); got != "5 4 3 2 1" {
		t.Errorf("revisions %s", got)
	}
	var proxies []string
	for req := (&adminv1.ListProxiesRequest{PageSize: 2}); ; {
		res, err := fleet.ListProxies(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range res.Msg.GetProxies() {
			proxies = append(proxies, p.GetEnvironment()+p.GetInstance())
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if got := strings.Join(proxies, " "); got != "aws0 aws2 aws4 gcp1 gcp3" {
		t.Errorf("proxies %s", got)
	}
	if _, err := fleet.GetProxy(t.Context(), connect.NewRequest(&adminv1.GetProxyRequest{Id: "spiffe://prod.example/proxy/aws#9"})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a proxy that is not there: %v", err)
	}
}

// wait returns the last progress as "environment@revision enforced/connected
// (laggard reason)".
func (w *world) wait(t testing.TB, req *adminv1.WaitEnforcedRequest) (string, error) {
	t.Helper()
	stream, err := w.fleet(t, viewer).WaitEnforced(t.Context(), connect.NewRequest(req))
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var last *adminv1.WaitEnforcedResponse
	for stream.Receive() {
		last = stream.Msg()
	}
	var text strings.Builder
	for _, e := range last.GetEnvironments() {
		fmt.Fprintf(&text, "%s@%d %d/%d", e.GetEnvironment(), e.GetRevision(), e.GetEnforced(), e.GetConnected())
		for _, l := range e.GetLaggards() {
			fmt.Fprintf(&text, " (%s %s)", l.GetId(), l.GetReason())
		}
		text.WriteString(";")
	}
	return strings.TrimSuffix(text.String(), ";"), stream.Err()
}

func TestWaitEnforced(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("only", "aws"))
	w.apply(t, `{apiVersion: sallyport/v1, kind: Enrollment, metadata: {name: aws}, spec: {spiffeId: "spiffe://prod.example/proxy/aws/**", environment: aws}}`)
	w.proxy(t, "aws", "late", 1, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	w.proxy(t, "gcp", "one", 1, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	wait := func(req *adminv1.WaitEnforcedRequest) (string, error) { return w.wait(t, req) }
	for name, c := range map[string]struct {
		req  *adminv1.WaitEnforcedRequest
		code connect.Code // 0: it is enforced
		want string
	}{
		"enforced in what it touched":            {&adminv1.WaitEnforcedRequest{Revision: 1}, 0, "aws@1 1/1;gcp@1 1/1"},
		"late":                                   {&adminv1.WaitEnforcedRequest{Revision: 2}, connect.CodeDeadlineExceeded, "aws@2 0/1 (spiffe://prod.example/proxy/aws#late is at revision 1)"},
		"untouched is enforced":                  {&adminv1.WaitEnforcedRequest{Revision: 2, Environments: []string{"gcp"}}, 0, "gcp@1 1/1"},
		"touches nothing":                        {&adminv1.WaitEnforcedRequest{Revision: 3}, 0, ""},
		"not yet":                                {&adminv1.WaitEnforcedRequest{Revision: 4}, connect.CodeNotFound, ""},
		"no such environment":                    {&adminv1.WaitEnforcedRequest{Revision: 1, Environments: []string{"aws", "azure"}}, connect.CodeNotFound, ""},
		"no revision":                            {&adminv1.WaitEnforcedRequest{}, connect.CodeInvalidArgument, ""},
		"longer than anyone should":              {&adminv1.WaitEnforcedRequest{Revision: 1, Timeout: durationpb.New(2 * time.Hour)}, connect.CodeInvalidArgument, ""},
		"an environment that is mentioned twice": {&adminv1.WaitEnforcedRequest{Revision: 1, Environments: []string{"aws", "aws"}}, connect.CodeInvalidArgument, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.code == connect.CodeDeadlineExceeded {
				c.req.Timeout = durationpb.New(2 * time.Second)
			}
			got, err := wait(c.req)
			if got != c.want || (err == nil) != (c.code == 0) || err != nil && connect.CodeOf(err) != c.code {
				t.Errorf("got %q and %v, want %q", got, err, c.want)
			}
			if c.code == connect.CodeDeadlineExceeded && !strings.Contains(err.Error(), "revision 2 is not enforced everywhere after 2s") {
				t.Errorf("says %v", err)
			}
		})
	}
	t.Run("until it is", func(t *testing.T) {
		stream, err := w.fleet(t, viewer).WaitEnforced(t.Context(), connect.NewRequest(&adminv1.WaitEnforcedRequest{Revision: 2}))
		if err != nil || !stream.Receive() || stream.Msg().GetDone() {
			t.Fatal(err, stream.Err())
		}
		w.proxy(t, "aws", "late", 3, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
		if !stream.Receive() || !stream.Msg().GetDone() || stream.Msg().GetElapsed().AsDuration() <= 0 {
			t.Error(stream.Msg(), stream.Err())
		}
	})
	t.Run("ends when the replica does", func(t *testing.T) {
		w.proxy(t, "aws", "later", 1, adminv1.Enforcement_ENFORCEMENT_DRIFT)
		stream, err := w.fleet(t, viewer).WaitEnforced(t.Context(), connect.NewRequest(&adminv1.WaitEnforcedRequest{Revision: 2}))
		if err != nil || !stream.Receive() {
			t.Fatal(err, stream.Err())
		}
		w.api.Drain()
		w.api.Drain() // does no harm
		if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
			t.Errorf("got %v", stream.Err())
		}
	})
}
