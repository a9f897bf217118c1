package api_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/api"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

const (
	applyPath = adminv1connect.ConfigServiceApplyProcedure
	listPath  = adminv1connect.ConfigServiceListProcedure
	waitPath  = adminv1connect.FleetServiceWaitEnforcedProcedure
)

// unchanged fails if there is a revision.
func (w *world) unchanged(t *testing.T) {
	t.Helper()
	p, err := w.store.Position(t.Context())
	if err != nil || p.Revision != 0 {
		t.Errorf("the fleet is at revision %d (%v)", p.Revision, err)
	}
}

// What someone with curl is told, word for word: it is the first documentation
// that people read.
func TestBadRequestsAreToldWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	route := func(spec string) string {
		return `{"resources":[{"apiVersion":"sallyport/v1","kind":"Route","metadata":{"namespace":"shop","name":"a"},"spec":` + spec + `}]}`
	}
	policy := func(when string) string {
		return `{"resources":[{"apiVersion":"sallyport/v1","kind":"Policy","metadata":{"namespace":"shop","name":"a"},"spec":{"routes":{"all":true},"effect":"DENY","when":"` + when + `"}}]}`
	}
	for name, c := range map[string]struct{ method, path, content, body, code, want string }{
		"nothing":                   {"POST", applyPath, "application/json", ``, "invalid_argument", `unmarshal message: the request is empty: send a JSON object, {} at least`},
		"an empty object":           {"POST", applyPath, "application/json", `{}`, "invalid_argument", `resources: must contain at least 1 item(s)`},
		"no JSON":                   {"POST", applyPath, "application/json", `resources: []`, "invalid_argument", `unmarshal message: syntax error (line 1:1): invalid value resources`},
		"an unknown field":          {"POST", applyPath, "application/json", `{"dryrun":true}`, "invalid_argument", `unmarshal message: (line 1:2): unknown field "dryrun"`},
		"an unknown field below":    {"POST", applyPath, "application/json", `{"resources":[{"kind":"Route","meta":{}}]}`, "invalid_argument", `unmarshal message: (line 1:31): unknown field "meta"`},
		"a field twice":             {"POST", applyPath, "application/json", `{"message":"a","message":"b"}`, "invalid_argument", `unmarshal message: (line 1:16): duplicate field "message"`},
		"two objects":               {"POST", applyPath, "application/json", `{}{}`, "invalid_argument", `unmarshal message: syntax error (line 1:3): unexpected token {`},
		"a number out of range":     {"POST", listPath, "application/json", `{"pageSize":1001,"revision":-1}`, "invalid_argument", `revision: must be greater than or equal to 0 (and 1 more problem)`},
		"someone else's page token": {"POST", listPath, "application/json", `{"pageToken":"AAAA"}`, "invalid_argument", `page_token is not one of ours`},
		"an unknown kind to list":   {"POST", listPath, "application/json", `{"kind":"route"}`, "invalid_argument", `kind: "route" is none of Environment, Enrollment, TrustDomain, Listener, IdentityProvider, ApiKey, Upstream, Schema, Route, Set, Condition, Policy, Grant, RateLimit, Device, Revocation`},
		"YAML":                      {"POST", applyPath, "application/yaml", `{}`, "invalid_argument", `send it with Content-Type: application/json`},
		"a form":                    {"POST", applyPath, "application/x-www-form-urlencoded", `{}`, "invalid_argument", `send it with Content-Type: application/json`},
		"a stream as one message":   {"POST", waitPath, "application/json", `{"revision":1}`, "invalid_argument", `send it with Content-Type: application/connect+json`},
		"the wrong method":          {"PUT", applyPath, "application/json", `{}`, "invalid_argument", `this is a procedure: send POST with Content-Type: application/json`},
		"GET of what changes":       {"GET", applyPath + "?encoding=json&message=%7B%7D", "", ``, "invalid_argument", `this is a procedure: send POST with Content-Type: application/json`},
		"GET of nothing":            {"GET", listPath, "", ``, "invalid_argument", `this is a procedure: send POST with Content-Type: application/json`},
		"no such procedure":         {"POST", "/sallyport.admin.v1.ConfigService/Truncate", "application/json", `{}`, "permission_denied", `not allowed: spiffe://prod.example/operator/admin has the role admin for /sallyport.admin.v1.ConfigService/Truncate`},

		"an unknown kind":         {"POST", applyPath, "application/json", `{"resources":[{"apiVersion":"sallyport/v1","kind":"Rout","metadata":{"namespace":"shop","name":"a"},"spec":{}}]}`, "invalid_argument", `Rout/shop/a: kind: "Rout" is none of Environment, Enrollment, TrustDomain, Listener, IdentityProvider, ApiKey, Upstream, Schema, Route, Set, Condition, Policy, Grant, RateLimit, Device, Revocation`},
		"an unknown field of it":  {"POST", applyPath, "application/json", route(`{"hosts":["a.example"],"upstreem":"b","upstream":"b","authentication":{"anonymous":true}}`), "invalid_argument", `Route/shop/a: spec.upstreem: "upstreem" is no field of Route`},
		"a resource of nothing":   {"POST", applyPath, "application/json", `{"resources":[{}]}`, "invalid_argument", `resources[0]: apiVersion: say sallyport/v1 (and 1 more problem)`},
		"a dangling reference":    {"POST", applyPath, "application/json", route(`{"hosts":["a.example"],"upstream":"b","authentication":{"anonymous":true}}`), "invalid_argument", `Route/shop/a: spec.upstream: there is no Upstream/shop/b`},
		"an empty path":           {"POST", applyPath, "application/json", route(`{"hosts":["a.example"],"paths":[""],"upstream":"b","authentication":{"anonymous":true}}`), "invalid_argument", `Route/shop/a: spec.paths[0]: must be at least 1 characters`},
		"a type error in CEL":     {"POST", applyPath, "application/json", policy(`true &&\n  request.path > 7`), "invalid_argument", `Policy/shop/a: spec.when: 2:16: found no matching overload for '_>_' applied to '(string, int)' (and 1 more problem)`},
		"a syntax error in CEL":   {"POST", applyPath, "application/json", policy(`(true`), "invalid_argument", `Policy/shop/a: spec.when: 1:6: Syntax error: missing ')' at '<EOF>' (and 1 more problem)`},
		"nothing to delete":       {"POST", adminv1connect.ConfigServiceDeleteProcedure, "application/json", `{"keys":[{"kind":"Route"}]}`, "invalid_argument", `keys[0].name: value is required`},
		"no key":                  {"POST", adminv1connect.ConfigServiceGetProcedure, "application/json", `{}`, "invalid_argument", `key: value is required`},
		"a duration that is none": {"POST", waitPath, "application/json", `{}`, "invalid_argument", `send it with Content-Type: application/connect+json`},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.curl(t, admin, c.method, c.path, c.content, strings.NewReader(c.body))
			if a.Code != c.code || a.Message != c.want {
				t.Errorf("%d %s\nwant %s %q", a.status, a.text, c.code, c.want)
			}
		})
	}
	w.unchanged(t)
}

// A client that is newer than the control plane is told so, whatever it speaks.
func TestFieldsThatAreNotKnownInProto(t *testing.T) {
	w := newWorld(t)
	newer := protowire.AppendVarint(protowire.AppendTag(nil, 2000, protowire.VarintType), 1)
	in := func(number protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
	}
	whole := must(proto.Marshal(&adminv1.ApplyRequest{Resources: resources(t, upstream("a"))}))
	for where, body := range map[string][]byte{
		"the request":              append(bytes.Clone(whole), newer...),
		"resources[1]":             append(bytes.Clone(whole), in(1, newer)...),
		"resources[1].metadata":    append(bytes.Clone(whole), in(1, in(3, newer))...),
		"resources[1].spec":        append(bytes.Clone(whole), in(1, in(4, newer))...),
		"resources[1].spec.fields": append(bytes.Clone(whole), in(1, in(4, in(1, append(in(1, []byte("a")), in(2, newer)...))))...),
	} {
		a := w.curl(t, admin, http.MethodPost, applyPath, "application/proto", bytes.NewReader(body))
		if want := "unmarshal message: " + where + " has a field that this control plane does not know"; a.Code != "invalid_argument" || a.Message != want {
			t.Errorf("%d %s, want %q", a.status, a.text, want)
		}
	}
	a := w.curl(t, admin, http.MethodPost, applyPath, "application/proto", strings.NewReader("\xff"))
	if a.Code != "invalid_argument" {
		t.Errorf("no proto at all: %s", a.text)
	}
	w.unchanged(t)
}

func TestTenThousandProblemsAtOnce(t *testing.T) {
	w := newWorld(t)
	var all []*adminv1.Resource
	for i := range 5_000 {
		r := resources(t, upstream(fmt.Sprintf("u%d", i), "gone"))[0]
		r.Metadata.Labels = map[string]string{strings.Repeat("é", 100): ""}
		all = append(all, r)
	}
	for name, options := range protocols {
		_, err := w.config(t, admin, options...).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: all}))
		p := problems(err)
		if connect.CodeOf(err) != connect.CodeInvalidArgument || p.GetTotal() != 5_000 || len(p.GetProblems()) == 0 || len(p.GetProblems()) > 100 {
			t.Fatalf("%s: %d of %d problems: %v", name, len(p.GetProblems()), p.GetTotal(), err)
		}
		if size := proto.Size(p); size > 40<<10 {
			t.Errorf("%s: %d bytes of problems", name, size)
		}
	}
	for _, r := range all {
		r.Metadata.Labels = nil
	}
	twice := slices.Concat(all, all)
	_, err := w.config(t, admin).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: twice}))
	if p := problems(err); p.GetTotal() != 10_000 || len(p.GetProblems()) != 100 {
		t.Errorf("%d of %d problems", len(p.GetProblems()), p.GetTotal())
	}
	_, err = w.config(t, admin).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: make([]*adminv1.Resource, 20_001)}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "20000") {
		t.Errorf("more than anyone may: %v", err)
	}
	w.unchanged(t)
}

// gRPC sends problems in a header, and clients and proxies bound headers.
func TestAnswersAreBoundedInBytes(t *testing.T) {
	w := newWorld(t)
	var conditions []string
	for i := range 10 {
		conditions = append(conditions, fmt.Sprintf("%s%d", strings.Repeat("a", 350), i))
	}
	var yaml strings.Builder
	for i := range 10 {
		fmt.Fprintf(&yaml, "---\n{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: p%d}, spec: {routes: {all: true}, effect: DENY, when: %q}}\n", i, strings.Join(conditions, " || "))
	}
	_, err := w.config(t, admin, connect.WithGRPC()).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, yaml.String())}))
	p := problems(err)
	if p.GetTotal() < 100 || len(p.GetProblems()) < 50 || proto.Size(p) > 33<<10 {
		t.Errorf("%d of %d problems in %d bytes: %.200v", len(p.GetProblems()), p.GetTotal(), proto.Size(p), err)
	}
}

// endless is a body of so many bytes. It counts what was taken of it.
type endless struct {
	left  int64
	taken atomic.Int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.left))
	for i := range n {
		p[i] = ' '
	}
	e.left -= int64(n)
	e.taken.Add(int64(n))
	return n, nil
}

func TestLargeBodiesAreRefusedBeforeTheyAreRead(t *testing.T) {
	const size = 64 << 20
	for name, c := range map[string]struct {
		known   bool // Content-Length, else chunks
		h1      bool
		path    string
		content string
		who     bool // known to us
		most    int64
	}{
		"that say so":                     {true, false, applyPath, "application/json", true, 2 << 20},
		"that say so, HTTP/1.1":           {true, true, applyPath, "application/json", true, 2 << 20},
		"in chunks":                       {false, false, applyPath, "application/json", true, api.MaxRequest + 2<<20},
		"in chunks, HTTP/1.1":             {false, true, applyPath, "application/json", true, api.MaxRequest + 2<<20},
		"gRPC":                            {false, false, applyPath, "application/grpc", true, api.MaxRequest + 2<<20},
		"of strangers":                    {false, false, applyPath, "application/json", false, 2 << 20},
		"of strangers, HTTP/1.1":          {false, true, applyPath, "application/json", false, 2 << 20},
		"of strangers who ask for health": {false, false, "/grpc.health.v1.Health/Check", "application/json", false, 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id := nobody
			if c.who {
				id = admin
			}
			client := w.client(t, id)
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = !c.h1
			body := &endless{left: size}
			req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+c.path, body))
			req.Header.Set("Content-Type", c.content)
			if c.known {
				req.ContentLength = size
			}
			before := w.read.Load()
			res, err := client.Do(req)
			// Over HTTP/1.1 a client that goes on sending may lose the answer.
			if err != nil && !c.h1 {
				t.Fatal(err)
			}
			if err == nil {
				text := must(io.ReadAll(res.Body))
				_ = res.Body.Close() // it was only read
				if strings.Contains(c.content, "grpc") == (res.StatusCode != http.StatusOK) || res.StatusCode == http.StatusOK && c.content == "application/json" {
					t.Errorf("status %d: %s", res.StatusCode, text)
				}
				if c.known && !strings.Contains(string(text), "the request has 67108864 bytes: more than 16777216") {
					t.Errorf("says %s", text)
				}
			}
			if got := w.read.Load() - before; got > c.most {
				t.Errorf("%d bytes were read, at most %d are needed", got, c.most)
			}
			w.unchanged(t)
		})
	}
}

func TestBombsAreNotUnpacked(t *testing.T) {
	w := newWorld(t)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := io.Copy(z, &endless{left: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{applyPath, "/grpc.health.v1.Health/Check"} {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+path, bytes.NewReader(bomb.Bytes())))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Content-Encoding", "gzip")
		res, err := w.client(t, admin).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text := string(must(io.ReadAll(res.Body)))
		_ = res.Body.Close() // it was only read
		// One who unpacks it all knows how large it is.
		if res.StatusCode == http.StatusOK || !strings.Contains(text, "larger than") || strings.Contains(text, fmt.Sprint(1<<30)) {
			t.Errorf("%s: %d %s", path, res.StatusCode, text)
		}
	}
	w.unchanged(t)
}
