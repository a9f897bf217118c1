package api_test

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// remove deletes resources, named as Kind/namespace/name.
func (w *world) remove(t testing.TB, names ...string) *adminv1.DeleteResponse {
	t.Helper()
	req := &adminv1.DeleteRequest{Message: "gone"}
	for _, name := range names {
		req.Keys = append(req.Keys, parseKey(name))
	}
	res, err := w.config(t, admin).Delete(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(explain(err))
	}
	return res.Msg
}

func parseKey(name string) *adminv1.Key {
	parts := strings.Split(name, "/")
	if len(parts) == 2 {
		return key(parts[0], "", parts[1])
	}
	return key(parts[0], parts[1], parts[2])
}

func keyName(k *adminv1.Key) string {
	if k.GetNamespace() == "" {
		return k.GetKind() + "/" + k.GetName()
	}
	return k.GetKind() + "/" + k.GetNamespace() + "/" + k.GetName()
}

// fields shows changes on one line.
func fields(changes []*adminv1.FieldChange) string {
	show := func(v *structpb.Value) string {
		if v == nil {
			return "-"
		}
		return strings.ReplaceAll(string(must(v.MarshalJSON())), " ", "")
	}
	var all []string
	for _, c := range changes {
		all = append(all, c.GetField()+" "+show(c.GetBefore())+">"+show(c.GetAfter()))
	}
	return strings.Join(all, ", ")
}

// diffs shows what all pages of a comparison tell, a resource a line.
func (w *world) diffs(t testing.TB, req *adminv1.DiffRequest) string {
	t.Helper()
	var lines []string
	for {
		res, err := w.config(t, viewer).Diff(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(explain(err))
		}
		for _, d := range res.Msg.GetResources() {
			_, what, _ := strings.Cut(strings.TrimPrefix(d.GetType().String(), "CHANGE_"), "_")
			lines = append(lines, fmt.Sprintf("%s %s %d>%d: %s", what, keyName(d.GetKey()), d.GetFromRevision(), d.GetToRevision(), fields(d.GetFields())))
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return strings.Join(lines, "\n")
		}
	}
}

func TestDiffOfRevisions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("orders")+"\n---\n"+upstream("more"))
	w.remove(t, "Upstream/shop/more")
	w.apply(t, strings.Replace(shop, "[GET]", "[GET, POST]", 1))
	const (
		orders = `REPLACED Upstream/shop/orders 1>2: spec.endpoints[0] "orders.internal:443">-, spec.endpoints[0] ->"a:1"`
		more   = `Upstream/shop/more %s: %s`
	)
	created := "CREATED " + fmt.Sprintf(more, "0>2", `spec.endpoints ->["a:1"], spec.tls ->{}`)
	for name, c := range map[string]struct {
		req  *adminv1.DiffRequest
		want string
	}{
		"the newest":        {&adminv1.DiffRequest{}, "REPLACED Policy/shop/reads-orders 1>4: spec.methods[1] ->\"POST\"\nREPLACED Upstream/shop/orders 2>4: spec.endpoints[0] \"a:1\">-, spec.endpoints[0] ->\"orders.internal:443\""},
		"one":               {&adminv1.DiffRequest{To: 2}, created + "\n" + orders},
		"page by page":      {&adminv1.DiffRequest{To: 2, PageSize: 1}, created + "\n" + orders},
		"a deletion":        {&adminv1.DiffRequest{To: 3}, "DELETED " + fmt.Sprintf(more, "2>0", `spec.endpoints ["a:1"]>-, spec.tls {}>-`)},
		"back":              {&adminv1.DiffRequest{From: proto.Int64(3), To: 2}, created},
		"what came to last": {&adminv1.DiffRequest{From: proto.Int64(1), To: 4}, `REPLACED Policy/shop/reads-orders 1>4: spec.methods[1] ->"POST"`},
		"of a kind":         {&adminv1.DiffRequest{From: proto.Int64(0), To: 1, Kind: "Environment"}, "CREATED Environment/aws 0>1: \nCREATED Environment/gcp 0>1: "},
		"of a namespace":    {&adminv1.DiffRequest{To: 2, Namespace: "bank"}, ""},
		"with itself":       {&adminv1.DiffRequest{From: proto.Int64(4), To: 4}, ""},
	} {
		if got := w.diffs(t, c.req); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
	for _, c := range []struct {
		req  *adminv1.DiffRequest
		code connect.Code
	}{
		{&adminv1.DiffRequest{To: 5}, connect.CodeNotFound},
		{&adminv1.DiffRequest{From: proto.Int64(9), To: 1}, connect.CodeNotFound},
		{&adminv1.DiffRequest{Kind: "Revocation"}, connect.CodeInvalidArgument},
		{&adminv1.DiffRequest{Kind: "policy"}, connect.CodeInvalidArgument},
		{&adminv1.DiffRequest{PageToken: "x"}, connect.CodeInvalidArgument},
	} {
		if _, err := w.config(t, viewer).Diff(t.Context(), connect.NewRequest(c.req)); connect.CodeOf(err) != c.code {
			t.Errorf("%v: %v, want %s", c.req, err, c.code)
		}
	}
}

// A fleet without anything differs from nothing in nothing.
func TestDiffOfAnEmptyFleet(t *testing.T) {
	t.Parallel()
	if got := newWorld(t).diffs(t, &adminv1.DiffRequest{}); got != "" {
		t.Error(got)
	}
}

func TestVersionsOfAResource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, shop)
	w.apply(t, upstream("more"))
	w.apply(t, upstream("more", "aws"))
	w.remove(t, "Upstream/shop/more")
	w.apply(t, upstream("more"))
	req := &adminv1.ListVersionsRequest{Key: parseKey("Upstream/shop/more"), PageSize: 3}
	var got []string
	for {
		res, err := w.config(t, viewer).ListVersions(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(explain(err))
		}
		for _, v := range res.Msg.GetVersions() {
			got = append(got, fmt.Sprintf("%d %s %q %d: %s", v.GetRevision(), strings.TrimPrefix(v.GetType().String(), "CHANGE_TYPE_"), v.GetMessage(), len(v.GetDigest()), fields(v.GetFields())))
			if v.GetCaller() != string(admin) || v.GetCommittedAt() == nil {
				t.Errorf("revision %d was made by %s at %v", v.GetRevision(), v.GetCaller(), v.GetCommittedAt())
			}
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	const want = `5 CREATED "" 32: spec.endpoints ->["a:1"], spec.tls ->{}
4 DELETED "gone" 0: spec.environments ["aws"]>-, spec.endpoints ["a:1"]>-, spec.tls {}>-
3 REPLACED "" 32: spec.environments ->["aws"]
2 CREATED "" 32: spec.endpoints ->["a:1"], spec.tls ->{}`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	for name, code := range map[string]connect.Code{
		"Upstream/shop/never": connect.CodeNotFound, "Revocation/a": connect.CodeInvalidArgument, "upstream/shop/more": connect.CodeInvalidArgument,
	} {
		_, err := w.config(t, viewer).ListVersions(t.Context(), connect.NewRequest(&adminv1.ListVersionsRequest{Key: parseKey(name)}))
		if connect.CodeOf(err) != code {
			t.Errorf("%s: %v, want %s", name, err, code)
		}
	}
}

// Pages of differences are cut where gRPC's clients would not take more.
func TestPagesOfManyDifferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var before, after strings.Builder
	for i := range 100 {
		for b, letter := range map[*strings.Builder]string{&before: "a", &after: "b"} {
			fmt.Fprintf(b, "---\n{apiVersion: sallyport/v1, kind: Set, metadata: {namespace: shop, name: s%03d}, spec: {ids: [", i)
			for j := range 100 {
				fmt.Fprintf(b, "%s%d,", letter, j)
			}
			b.WriteString("]}}\n")
		}
	}
	w.apply(t, before.String())
	w.apply(t, after.String())
	req, n, pages := &adminv1.DiffRequest{PageSize: 1000}, 0, 0
	for {
		res, err := w.config(t, viewer).Diff(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		n, pages = n+len(res.Msg.GetResources()), pages+1
		if size := proto.Size(res.Msg); size > 2<<20 || len(res.Msg.GetResources()) == 0 {
			t.Fatalf("a page has %d bytes and %d resources", size, len(res.Msg.GetResources()))
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if n != 100 {
		t.Errorf("%d resources on %d pages", n, pages)
	}
}
