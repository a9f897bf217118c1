package resource_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// parse reads resources that are well-formed YAML.
func parse(t testing.TB, text string) []resource.Located {
	t.Helper()
	all, problems := resource.ParseYAML([]byte(text))
	for _, p := range problems.Kept {
		t.Errorf("parse: %s", p)
	}
	if problems.Total > 0 {
		t.FailNow()
	}
	return all
}

func encode(t testing.TB, r *adminv1.Resource) []byte {
	t.Helper()
	p, problems := resource.Decode(r)
	for _, one := range problems.Kept {
		t.Errorf("decode: %s", one)
	}
	document, err := resource.Encode(p)
	if err != nil || problems.Total > 0 {
		t.Fatalf("encode %s: %v", p.Key, err)
	}
	return document
}

func present(t testing.TB, document []byte) *adminv1.Resource {
	t.Helper()
	r, err := resource.Present(document)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// text is a resource as JSON with its fields in order.
func text(t testing.TB, r *adminv1.Resource) string {
	t.Helper()
	metadata := map[string]any{"name": r.GetMetadata().GetName()}
	if r.GetMetadata().GetNamespace() != "" {
		metadata["namespace"] = r.GetMetadata().GetNamespace()
	}
	if len(r.GetMetadata().GetLabels()) > 0 {
		metadata["labels"] = r.GetMetadata().GetLabels()
	}
	b, err := json.MarshalIndent(map[string]any{
		"apiVersion": r.GetApiVersion(), "kind": r.GetKind(), "metadata": metadata, "spec": r.GetSpec().AsMap(),
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func golden(t testing.TB, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update to take it):\n%s", name, got)
	}
}

// What is stored and shown of a file is the same in every build: digests that
// moved would make every resource of every fleet change.
func TestFleetStaysAsItIs(t *testing.T) {
	file, err := os.ReadFile("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var shown, digests strings.Builder
	kinds := map[string]bool{}
	for _, l := range parse(t, string(file)) {
		document := encode(t, l.Resource)
		kinds[l.Resource.GetKind()] = true
		fmt.Fprintf(&shown, "%s\n", text(t, present(t, document)))
		fmt.Fprintf(&digests, "%s %s\n", snapshot.DocumentDigest(document), l.Resource.GetMetadata().GetName())
	}
	if len(kinds) != len(resource.Kinds()) {
		t.Errorf("the file has kinds %v", kinds)
	}
	golden(t, "fleet.golden.json", shown.String())
	golden(t, "fleet.golden.digests", digests.String())
}

func TestPresentedAppliesUnchanged(t *testing.T) {
	file, err := os.ReadFile("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range parse(t, string(file)) {
		document := encode(t, l.Resource)
		p, err := resource.ParseDocument(document)
		if err != nil {
			t.Fatal(err)
		}
		again, err := resource.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(document) {
			t.Errorf("%s: parsed and encoded again it is another document", p.Key)
		}
		shown := present(t, document)
		if string(encode(t, shown)) != string(document) {
			t.Errorf("%s: as presented it is another document:\n%s", p.Key, text(t, shown))
		}
		// JSON is YAML, so what is shown is a file.
		if back := parse(t, text(t, shown)); string(encode(t, back[0].Resource)) != string(document) {
			t.Errorf("%s: as printed it is another document", p.Key)
		}
	}
}

func TestScopeAndReach(t *testing.T) {
	file, err := os.ReadFile("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range parse(t, string(file)) {
		document := encode(t, l.Resource)
		p, err := resource.ParseDocument(document)
		if err != nil {
			t.Fatal(err)
		}
		e, err := resource.ParseEnvelope(document)
		if err != nil {
			t.Fatal(err)
		}
		all, environments := p.Scope()
		got = append(got, fmt.Sprintf("%s %t%s %s %t", p.Key, all, environments, e.Document.GetReach(), e.Document.GetRoutes() != nil))
	}
	want := []string{
		"Environment/aws-prod false[aws-prod] REACH_ENVIRONMENT false",
		"Environment/gcp-prod false[gcp-prod] REACH_ENVIRONMENT false",
		"Enrollment/aws false[] REACH_REFERENCES false",
		"Listener/edge/https false[aws-prod] REACH_REFERENCES false",
		"Listener/edge/mesh true[] REACH_REFERENCES false",
		"Listener/edge/behind-balancers true[] REACH_REFERENCES false",
		"IdentityProvider/shop/login true[] REACH_REFERENCES false",
		"Upstream/shop/orders true[] REACH_REFERENCES false",
		"Upstream/shop/sidecar true[] REACH_REFERENCES false",
		"Upstream/shop/legacy false[aws-prod gcp-prod] REACH_REFERENCES false",
		"Route/shop/orders true[] REACH_REFERENCES false",
		"Policy/shop/reads-orders true[] REACH_ROUTES true",
		"Policy/shop/blocks true[] REACH_ROUTES true",
		"Policy/shop/blocks-all false[aws-prod] REACH_ROUTES true",
		"IdentityProvider/shop/terminals true[] REACH_REFERENCES false",
		"IdentityProvider/shop/partners true[] REACH_REFERENCES false",
		"TrustDomain/partner true[] REACH_REFERENCES false",
		"ApiKey/shop/nightly-export true[] REACH_REFERENCES false",
		"Device/laptop-7 true[] REACH_REFERENCES false",
		"Revocation/stolen-token true[] REACH_ENVIRONMENT false",
		"Revocation/ann-before-today true[] REACH_ENVIRONMENT false",
		"Revocation/kiosk-session true[] REACH_ENVIRONMENT false",
		"Revocation/old-key true[] REACH_ENVIRONMENT false",
		"Revocation/web true[] REACH_ENVIRONMENT false",
		"Revocation/login-keys-leaked true[] REACH_ENVIRONMENT false",
		"Revocation/lost-laptop true[] REACH_ENVIRONMENT false",
		"Revocation/start-over true[] REACH_ENVIRONMENT false",
		"Condition/shop/inside true[] REACH_REFERENCES false",
		"Set/shop/office true[] REACH_REFERENCES false",
		"Set/shop/contractors false[aws-prod] REACH_REFERENCES false",
		"Policy/shop/tried true[] REACH_ROUTES true",
		"Schema/shop/orders false[aws-prod] REACH_REFERENCES false",
		"Schema/shop/event true[] REACH_REFERENCES false",
		"Grant/shop/night true[] REACH_REFERENCES false",
		"RateLimit/shop/per-client false[aws-prod] REACH_ROUTES true",
		"RateLimit/shop/per-caller true[] REACH_ROUTES true",
		"RateLimit/shop/in-all true[] REACH_ROUTES true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The types of fields that Decode, Present and ParseDocument know are all that
// the schema uses.
func TestSchemaIsReadable(t *testing.T) {
	var walk func(m protoreflect.MessageDescriptor, above []string)
	walk = func(m protoreflect.MessageDescriptor, above []string) {
		if slices.Contains(above, string(m.FullName())) {
			t.Fatalf("%s contains itself", m.FullName())
		}
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if f.IsMap() && (f.MapKey().Kind() != protoreflect.StringKind || f.MapValue().Kind() != protoreflect.StringKind) {
				t.Errorf("%s is a map of something else than texts", f.FullName())
			}
			switch f.Kind() {
			case protoreflect.StringKind, protoreflect.BoolKind, protoreflect.Uint32Kind:
			case protoreflect.EnumKind:
				if zero := f.Enum().Values().ByNumber(0); !strings.HasSuffix(string(zero.Name()), "_UNSPECIFIED") {
					t.Errorf("%s: the zero value is %s", f.FullName(), zero.Name())
				}
			case protoreflect.MessageKind:
				if name := f.Message().FullName(); name != "google.protobuf.Duration" && name != "google.protobuf.Timestamp" && !f.IsMap() {
					walk(f.Message(), append(above, string(m.FullName())))
				}
			default:
				t.Errorf("%s is of kind %s", f.FullName(), f.Kind())
			}
		}
	}
	specs := map[resource.Kind]proto.Message{
		resource.KindEnvironment: &resourcev1.Environment{}, resource.KindEnrollment: &resourcev1.Enrollment{},
		resource.KindListener: &resourcev1.Listener{}, resource.KindIdentityProvider: &resourcev1.IdentityProvider{},
		resource.KindUpstream: &resourcev1.Upstream{}, resource.KindRoute: &resourcev1.Route{}, resource.KindPolicy: &resourcev1.Policy{},
		resource.KindRevocation: &resourcev1.Revocation{}, resource.KindAPIKey: &resourcev1.ApiKey{},
		resource.KindTrustDomain: &resourcev1.TrustDomain{}, resource.KindDevice: &resourcev1.Device{},
		resource.KindCondition: &resourcev1.Condition{}, resource.KindSet: &resourcev1.Set{},
		resource.KindGrant: &resourcev1.Grant{}, resource.KindRateLimit: &resourcev1.RateLimit{},
		resource.KindSchema: &resourcev1.Schema{},
	}
	for _, k := range resource.Kinds() {
		walk(specs[k].ProtoReflect().Descriptor(), nil)
	}
}
