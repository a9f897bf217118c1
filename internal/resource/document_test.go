package resource_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// newer is a field that this build does not know.
func newer() []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), "from a newer build")
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// document is a policy's document after edit has had its way with both parts.
func document(t testing.TB, edit func(*resourcev1.Document, *resourcev1.Policy)) []byte {
	t.Helper()
	spec := &resourcev1.Policy{
		Routes: &resourcev1.RouteSelector{All: true},
		Effect: resourcev1.Effect_EFFECT_ALLOW,
		Principals: []*resourcev1.PrincipalMatcher{{
			Match: &resourcev1.PrincipalMatcher_Group{Group: "shop"},
		}},
	}
	d := &resourcev1.Document{
		Kind: "Policy", Namespace: "shop", Name: "reads", Labels: map[string]string{"tier": "gold"},
		Reach: resourcev1.Reach_REACH_ROUTES, Routes: &resourcev1.RouteSelector{All: true},
	}
	edit(d, spec)
	if d.Spec == nil {
		d.Spec = marshal(t, spec)
	}
	return marshal(t, d)
}

func TestParseDocumentUnderstandsAllOrRefuses(t *testing.T) {
	type edit func(*resourcev1.Document, *resourcev1.Policy)
	for _, c := range []struct {
		name string
		edit edit
		want string // within the error; empty for none
	}{
		{"as it is", func(*resourcev1.Document, *resourcev1.Policy) {}, ""},
		{"field of the envelope", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.ProtoReflect().SetUnknown(newer()) }, "not known to this build"},
		{"field of the selector", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Routes.ProtoReflect().SetUnknown(newer()) }, "routes: has a field that is not known"},
		{"reach", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Reach = 9 }, "reach: has a value that is not known to this build (9)"},
		{"kind", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Kind = "Quota" }, "kind is not known"},
		{"no kind", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Kind = "" }, "kind or name is missing"},
		{"field of the spec", func(_ *resourcev1.Document, p *resourcev1.Policy) { p.ProtoReflect().SetUnknown(newer()) }, "spec: has a field that is not known"},
		{"field deep in the spec", func(_ *resourcev1.Document, p *resourcev1.Policy) {
			p.Principals[0].ProtoReflect().SetUnknown(newer())
		}, "spec.principals[0]: has a field that is not known"},
		{"value of an enum", func(_ *resourcev1.Document, p *resourcev1.Policy) { p.Effect = 7 }, "spec.effect: has a value that is not known to this build (7)"},
		{"rule", func(_ *resourcev1.Document, p *resourcev1.Policy) { p.Principals = nil }, "spec.principals: an ALLOW has to name its principals"},
		{"sense", func(_ *resourcev1.Document, p *resourcev1.Policy) { p.Paths = []string{"orders"} }, "spec.paths[0]: "},
		{"name", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Name = "Reads" }, "metadata.name: "},
		{"namespace", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Namespace = "" }, "metadata.namespace: "},
		{"label", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Labels["tier"] = "a b" }, `metadata.labels["tier"]: `},
		{"bytes of the spec", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Spec = []byte{0xff} }, "spec: "},
		{"text that is no UTF-8", func(d *resourcev1.Document, _ *resourcev1.Policy) {
			d.Spec = protowire.AppendString(protowire.AppendTag(nil, 7, protowire.BytesType), "\xff")
		}, "spec: "},
		{"two selections", func(d *resourcev1.Document, _ *resourcev1.Policy) {
			d.Routes = &resourcev1.RouteSelector{Names: []string{"a"}}
		}, "envelope and spec select different routes"},
		{"size", func(_ *resourcev1.Document, p *resourcev1.Policy) { p.When = strings.Repeat("a", resource.MaxDocument) }, "more than 262144"},
		{"long name", func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Kind = strings.Repeat("K", 100_000) }, "kind is not known"},
	} {
		p, err := resource.ParseDocument(document(t, c.edit))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		case err != nil && len(err.Error()) > 1024:
			t.Errorf("%s: error of %d bytes", c.name, len(err.Error()))
		case err != nil && p.Spec != nil:
			t.Errorf("%s: returns a resource beside the error", c.name)
		}
	}
}

func TestParseDocumentRefusesImpossibleDurations(t *testing.T) {
	b := marshal(t, &resourcev1.Document{Kind: "Route", Namespace: "shop", Name: "r", Reach: resourcev1.Reach_REACH_REFERENCES,
		Spec: marshal(t, &resourcev1.Route{
			Hosts: []string{"a"}, Upstream: "u", Authentication: &resourcev1.Authentication{Anonymous: true},
			Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1},
		})})
	if _, err := resource.ParseDocument(b); err == nil || !strings.Contains(err.Error(), "spec.timeout") {
		t.Errorf("got %v", err)
	}
}

func TestParseDocumentRefusesImpossibleTimes(t *testing.T) {
	b := marshal(t, &resourcev1.Document{Kind: "Revocation", Name: "r", Reach: resourcev1.Reach_REACH_ENVIRONMENT,
		Spec: marshal(t, &resourcev1.Revocation{
			Target: &resourcev1.Revocation_Key{Key: "k"}, ExpiresAt: &timestamppb.Timestamp{Seconds: 1, Nanos: -1},
		})})
	if _, err := resource.ParseDocument(b); err == nil || !strings.Contains(err.Error(), "spec.expiresAt") {
		t.Errorf("got %v", err)
	}
}

func TestPresentRefusesWhatItWouldLose(t *testing.T) {
	for name, edit := range map[string]func(*resourcev1.Document, *resourcev1.Policy){
		"field": func(_ *resourcev1.Document, p *resourcev1.Policy) { p.ProtoReflect().SetUnknown(newer()) },
		"value": func(_ *resourcev1.Document, p *resourcev1.Policy) { p.Effect = 7 },
		"kind":  func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Kind = "Quota" },
	} {
		if _, err := resource.Present(document(t, edit)); err == nil {
			t.Errorf("%s: presented", name)
		}
	}
	// What a stricter build would no longer take can still be looked at.
	if _, err := resource.Present(document(t, func(_ *resourcev1.Document, p *resourcev1.Policy) { p.Paths = []string{"orders"} })); err != nil {
		t.Error(err)
	}
}

// drawPolicy draws any policy that can be written down, sensible or not.
func drawPolicy(t *rapid.T) *resourcev1.Policy {
	texts := rapid.SliceOfN(rapid.String(), 0, 3)
	p := &resourcev1.Policy{
		Environments: texts.Draw(t, "environments"),
		Effect:       rapid.SampledFrom([]resourcev1.Effect{0, 1, 2}).Draw(t, "effect"),
		Methods:      texts.Draw(t, "methods"),
		Paths:        texts.Draw(t, "paths"),
		When:         rapid.String().Draw(t, "when"),
	}
	if rapid.Bool().Draw(t, "routes") {
		p.Routes = &resourcev1.RouteSelector{
			Names: texts.Draw(t, "names"), Labels: rapid.MapOfN(rapid.String(), rapid.String(), 0, 3).Draw(t, "labels"), All: rapid.Bool().Draw(t, "all"),
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "principals") {
		m := &resourcev1.PrincipalMatcher{IdentityProvider: rapid.String().Draw(t, "provider")}
		switch rapid.IntRange(0, 3).Draw(t, "matcher") {
		case 1:
			m.Match = &resourcev1.PrincipalMatcher_Group{Group: rapid.String().Draw(t, "group")}
		case 2:
			m.Match = &resourcev1.PrincipalMatcher_Authenticated{Authenticated: rapid.Bool().Draw(t, "authenticated")}
		case 3:
			m.Match = &resourcev1.PrincipalMatcher_Spiffe{Spiffe: rapid.String().Draw(t, "spiffe")}
		}
		p.Principals = append(p.Principals, m)
	}
	return p
}

func TestNothingIsLostBetweenDocumentAndFile(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		spec := drawPolicy(r)
		document := document(t, func(_ *resourcev1.Document, p *resourcev1.Policy) { proto.Reset(p); proto.Merge(p, spec) })
		shown, err := resource.Present(document)
		if err != nil {
			r.Fatal(err)
		}
		read, _ := resource.Decode(shown)
		if !proto.Equal(read.Spec, spec) {
			r.Fatalf("wrote %v, read %v", spec, read.Spec)
		}
	})
}

func FuzzParseDocument(f *testing.F) {
	f.Add(document(f, func(*resourcev1.Document, *resourcev1.Policy) {}))
	f.Add(document(f, func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Reach = 9 }))
	f.Add(document(f, func(_ *resourcev1.Document, p *resourcev1.Policy) { p.ProtoReflect().SetUnknown(newer()) }))
	for _, text := range []string{of("Route", goodRoute), of("Upstream", `{endpoints: ["a:1"], tls: {}}`), of("Environment", `{configurationAge: {limit: 30s, action: SERVE}}`),
		of("Revocation", `{key: k, issuedBefore: "2026-11-26T08:30:00Z"}`)} {
		f.Add(encode(f, parse(f, text)[0].Resource))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := resource.ParseDocument(b)
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			return
		}
		// What a proxy takes, an operator can read and apply again.
		again, problems := resource.Decode(present(t, b))
		if problems.Total > 0 || !proto.Equal(again.Spec, p.Spec) || again.Key != p.Key {
			t.Errorf("%v: applied again: %v", p.Spec, problems.Kept)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{of("Route", goodRoute), of("Policy", `{routes: {all: true}, effect: DENY, when: "true"}`), of("Nothing", `{a: [b, {c: 1}]}`)} {
		f.Add(marshal(f, parse(f, text)[0].Resource))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r adminv1.Resource
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		p, problems := resource.Decode(&r)
		if problems.Total > 0 {
			for _, one := range problems.Kept {
				if len(one.Message) > 1000 || one.Reason == "" {
					t.Errorf("problem %+v", one)
				}
			}
			return
		}
		document, err := resource.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := resource.ParseDocument(document); err != nil {
			t.Errorf("proxies refuse what Decode took: %v", err)
		}
		if string(encode(t, present(t, document))) != string(document) {
			t.Errorf("as presented it is another document")
		}
	})
}
