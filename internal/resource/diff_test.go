package resource_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// compile makes the document of one resource, as it would be stored; none of
// nothing.
func compile(t *testing.T, yaml string) []byte {
	t.Helper()
	if yaml == "" {
		return nil
	}
	located, problems := resource.ParseYAML([]byte(yaml))
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0])
	}
	parsed, problems := resource.Decode(located[0].Resource)
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0])
	}
	document, err := resource.Encode(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// show writes changes as the table below has them.
func show(changes []*adminv1.FieldChange) string {
	value := func(v *structpb.Value) string {
		if v == nil {
			return "-"
		}
		return strings.NewReplacer(`":`, `": `, `,`, `, `).Replace(strings.ReplaceAll(v.String(), " ", ""))
	}
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", c.GetField(), value(c.GetBefore()), value(c.GetAfter())))
	}
	return strings.Join(lines, "\n")
}

func TestDiff(t *testing.T) {
	policy := func(labels, spec string) string {
		return "{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: x, labels: {" + labels + "}}, spec: {effect: ALLOW, " + spec + "}}"
	}
	set := func(ids ...string) string { return of("Set", "{ids: ["+strings.Join(ids, ", ")+"]}") }
	group := func(names ...string) string {
		for i := range names {
			names[i] = "{group: " + names[i] + "}"
		}
		return policy("", "routes: {all: true}, principals: ["+strings.Join(names, ", ")+"]")
	}
	for name, c := range map[string]struct{ before, after, want string }{
		"nothing":  {set("a"), set("a"), ``},
		"no sides": {``, ``, ``},
		"a created": {``, policy("tier: gold", `routes: {all: true}, principals: [{anonymous: true}], methods: [GET]`), `
			metadata.labels["tier"]: - -> string_value:"gold"
			spec.routes: - -> struct_value:{fields:{key:"all"value:{bool_value:true}}}
			spec.effect: - -> string_value:"ALLOW"
			spec.principals: - -> list_value:{values:{struct_value:{fields:{key:"anonymous"value:{bool_value:true}}}}}
			spec.methods: - -> list_value:{values:{string_value:"GET"}}`},
		"a deleted": {set("a"), ``, `spec.ids: list_value:{values:{string_value:"a"}} -> -`},
		"labels": {policy("tier: gold, app: a", "routes: {all: true}, principals: [{anonymous: true}]"),
			policy("tier: iron, team: b", "routes: {all: true}, principals: [{anonymous: true}]"), `
			metadata.labels["app"]: string_value:"a" -> -
			metadata.labels["team"]: - -> string_value:"b"
			metadata.labels["tier"]: string_value:"gold" -> string_value:"iron"`},
		"within a message": {policy("", "routes: {labels: {app: a}}, principals: [{anonymous: true}]"),
			policy("", "routes: {labels: {app: b}}, principals: [{anonymous: true}]"),
			`spec.routes.labels["app"]: string_value:"a" -> string_value:"b"`},
		"a field more": {set("a"), strings.Replace(set("a"), "{ids", "{environments: [aws], ids", 1),
			`spec.environments: - -> list_value:{values:{string_value:"aws"}}`},
		"members":    {set("a", "b", "c"), set("b", "d", "c"), "spec.ids[0]: string_value:\"a\" -> -\nspec.ids[1]: - -> string_value:\"d\""},
		"one before": {group("b", "c"), group("a", "b", "c"), `spec.principals[0]: - -> struct_value:{fields:{key:"group"value:{string_value:"a"}}}`},
		"one less":   {group("a", "b", "c"), group("a", "c"), `spec.principals[1]: struct_value:{fields:{key:"group"value:{string_value:"b"}}} -> -`},
		"one changed": {group("a", "b", "c"), group("a", "d", "c"),
			`spec.principals[1].group: string_value:"b" -> string_value:"d"`},
		"the order of members": {set("a", "b"), set("b", "a"), `
			spec.ids[0]: string_value:"a" -> string_value:"b"
			spec.ids[1]: string_value:"b" -> string_value:"a"`},
		"a duration": {of("Environment", "{configurationAge: {limit: 60s, action: DENY}}"), of("Environment", "{configurationAge: {limit: 90s, action: DENY}}"),
			`spec.configurationAge.limit: string_value:"60s" -> string_value:"90s"`},
	} {
		t.Run(name, func(t *testing.T) {
			changes, more, err := resource.Diff(compile(t, c.before), compile(t, c.after))
			if err != nil || more != 0 {
				t.Fatalf("%d more, %v", more, err)
			}
			var want []string
			for line := range strings.Lines(strings.TrimSpace(c.want)) {
				want = append(want, strings.TrimSpace(line))
			}
			if got := show(changes); got != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

// What is told of a change is bounded, and says so.
func TestDiffIsBounded(t *testing.T) {
	var ids []string
	for i := range 2 * resource.MaxFieldChanges {
		ids = append(ids, fmt.Sprintf("id-%d", i))
	}
	set := func(ids ...string) []byte { return compile(t, of("Set", "{ids: ["+strings.Join(ids, ", ")+"]}")) }
	changes, more, err := resource.Diff(set("a"), set(append([]string{"a"}, ids...)...))
	if err != nil || len(changes) != resource.MaxFieldChanges || more != resource.MaxFieldChanges {
		t.Errorf("%d changes and %d more, %v", len(changes), more, err)
	}
	long := make([]string, 100)
	for i := range long {
		long[i] = fmt.Sprintf("%d-%s", i, strings.Repeat("é", 100))
	}
	changes, _, err = resource.Diff(nil, set(long...))
	if err != nil || len(changes) != 1 || !changes[0].GetShortened() || proto.Size(changes[0]) > 5<<10 || len(changes[0].GetAfter().GetListValue().GetValues()) < 10 {
		t.Errorf("%d bytes, %v", proto.Size(changes[0]), err)
	}
}

func TestDiffRefusesWhatItWouldNotTell(t *testing.T) {
	if _, _, err := resource.Diff(newer(), compile(t, of("Set", "{ids: [a]}"))); err == nil {
		t.Error("a document of a newer build was compared")
	}
	if _, _, err := resource.Diff(compile(t, of("Set", "{ids: [a]}")), compile(t, of("Condition", `{when: "true"}`))); err == nil {
		t.Error("two kinds were compared")
	}
}

// There is a change exactly when the documents differ, and going back tells the
// same with its sides changed.
func TestDiffOfAnyTwo(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, b := drawPolicy(r), drawPolicy(r)
		if rapid.Bool().Draw(r, "alike") {
			b = proto.CloneOf(a)
			b.Methods = append(b.Methods, rapid.SliceOfN(rapid.String(), 0, 1).Draw(r, "more")...)
		}
		before, after := stored(t, a), stored(t, b)
		there, _, err := resource.Diff(before, after)
		if err != nil {
			r.Fatal(err)
		}
		back, _, err := resource.Diff(after, before)
		if err != nil {
			r.Fatal(err)
		}
		if proto.Equal(a, b) != (len(there) == 0) {
			r.Errorf("%v and %v differ in %s", a, b, show(there))
		}
		for _, c := range back {
			c.Before, c.After = c.GetAfter(), c.GetBefore()
		}
		lines := func(changes []*adminv1.FieldChange) []string {
			l := strings.Split(show(changes), "\n")
			slices.Sort(l)
			return l
		}
		if !slices.Equal(lines(there), lines(back)) {
			r.Errorf("there\n%s\nback\n%s", show(there), show(back))
		}
	})
}

func stored(t *testing.T, p *resourcev1.Policy) []byte {
	return document(t, func(d *resourcev1.Document, _ *resourcev1.Policy) { d.Spec = marshal(t, p) })
}
