package deployments_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// An empty fleet takes the examples of a folder in one Apply.
func TestExampleResourcesAreAdmitted(t *testing.T) {
	now := time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)
	for _, folder := range folders {
		var state admission.State
		plan, problems := state.Plan(admission.NewApply(examples(t, folder), now))
		for _, p := range problems.Kept {
			t.Error(p.String())
		}
		if problems.Total == 0 && len(plan.Changes) != len(plan.Types) {
			t.Errorf("%s: %d resources make %d changes", folder, len(plan.Types), len(plan.Changes))
		}
	}
}

// Whatever can be written in a resource is shown in one of the examples. That
// "environments" means the same everywhere is said once, and whom and what a Grant
// is for is written as in a Policy.
func TestExampleResourcesShowEveryField(t *testing.T) {
	known, shown := map[string]bool{}, map[string]bool{}
	kinds := resource.Kinds()
	for _, r := range examples(t, folders...) {
		parsed, problems := resource.Decode(r)
		if problems.Total > 0 {
			t.Fatal(problems.Kept[0].String())
		}
		kind := parsed.Key.Kind
		kinds = slices.DeleteFunc(kinds, func(k resource.Kind) bool { return k == kind })
		fields(known, string(kind), parsed.Spec.ProtoReflect().Descriptor())
		populated(shown, string(kind), parsed.Spec.ProtoReflect())
	}
	if len(kinds) > 0 {
		t.Errorf("no example is of the kinds %q", kinds)
	}
	for _, field := range slices.Sorted(maps.Keys(known)) {
		if of, ok := strings.CutPrefix(field, "Grant."); ok && shown["Policy."+of] {
			continue
		}
		if !shown[field] && filepath.Ext(field) != ".environments" {
			t.Errorf("no example shows %s", field)
		}
	}
}

// folders of examples, below deployments. Each is applied by itself.
var folders = []string{"resources", "revocations", "devices"}

// examples returns the resources of all files of the folders, as "sallyport
// apply -f" sends them.
func examples(t *testing.T, folders ...string) []*adminv1.Resource {
	t.Helper()
	var files []string
	for _, folder := range folders {
		found, err := filepath.Glob(filepath.Join(root, "deployments", folder, "*.yaml"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%d files of %s: %v", len(found), folder, err)
		}
		files = append(files, slices.DeleteFunc(found, isTest)...)
	}
	var all []*adminv1.Resource
	for _, file := range files {
		rel, err := filepath.Rel(root, file)
		if err != nil {
			t.Fatal(err)
		}
		located, problems := resource.ParseYAML([]byte(read(t, rel)))
		for _, p := range problems.Kept {
			t.Errorf("%s: %s", rel, p.String())
		}
		for _, l := range located {
			all = append(all, l.Resource)
		}
	}
	return all
}

func isTest(file string) bool { return strings.HasSuffix(file, "_test.yaml") }

// fields adds the paths of all fields of a message, those of messages in it too.
func fields(to map[string]bool, path string, m protoreflect.MessageDescriptor) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		name := path + "." + f.JSONName()
		to[name] = true
		if ours(f) {
			fields(to, name, f.Message())
		}
	}
}

// populated adds the paths of the fields that are set.
func populated(to map[string]bool, path string, m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := path + "." + f.JSONName()
		to[name] = true
		switch {
		case !ours(f):
		case f.IsList():
			for i := range v.List().Len() {
				populated(to, name, v.List().Get(i).Message())
			}
		default:
			populated(to, name, v.Message())
		}
		return true
	})
}

// ours reports whether a field holds messages of this product.
func ours(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && !f.IsMap() && f.Message().ParentFile().Package() == "sallyport.resource.v1"
}
