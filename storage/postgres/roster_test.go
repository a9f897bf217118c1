package postgres_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/storage"
)

// rosterOf is "epoch.revision enrollments | subjects" of what there is.
func rosterOf(t *testing.T, f fleet) (text string, sequence int64) {
	t.Helper()
	r, err := f.Roster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names, subjects []string
	for _, v := range r.Enrollments {
		names = append(names, v.Key.Name+"="+string(v.Document))
	}
	for _, ruling := range r.Rulings {
		subjects = append(subjects, ruling.Subject)
	}
	return strings.Join(names, " ") + " | " + strings.Join(subjects, " "), r.Sequence
}

// Whatever changes who is admitted raises the sequence, and an entry of the audit that
// changes nothing else does so too.
func TestRoster(t *testing.T) {
	f := open(t)
	last := int64(-1)
	check := func(what, want string) {
		t.Helper()
		got, sequence := rosterOf(t, f)
		if got != want || sequence <= last {
			t.Errorf("%s: the roster is %q at sequence %d, after %d; want %q", what, got, sequence, last, want)
		}
		last = sequence
	}
	check("empty", " | ")
	f.apply(t, environment("aws"), put("Enrollment/b", "", "b1"), put("Enrollment/a", "", "a1"))
	check("enrolled", "a=a1 b=b1 | ")
	f.apply(t, put("Enrollment/a", "", "a2"), remove("Enrollment/b"))
	check("changed and deleted", "a=a2 | ")
	rule(t, f, aws+"/2", func(r *storage.Ruling) { r.Quarantined = true })
	rule(t, f, aws+"/1", func(r *storage.Ruling) { r.Approval = storage.Refused })
	rule(t, f, aws+"/3", func(r *storage.Ruling) { r.Approval = storage.Approved })
	rule(t, f, aws+"/1#one", func(r *storage.Ruling) { r.Draining = true })
	check("ruled", "a=a2 | "+aws+"/1 "+aws+"/1#one "+aws+"/2")
	rule(t, f, aws+"/2", func(r *storage.Ruling) { r.Quarantined = false })
	check("released", "a=a2 | "+aws+"/1 "+aws+"/1#one")
	if err := f.Record(t.Context(), said("nothing")); err != nil {
		t.Fatal(err)
	}
	check("somebody was refused", "a=a2 | "+aws+"/1 "+aws+"/1#one")
	r, err := f.Roster(t.Context())
	if position, posErr := f.Position(t.Context()); err != nil || posErr != nil || r.Position != position {
		t.Errorf("the roster is of %+v, the fleet at %+v (%v, %v)", r.Position, position, err, posErr)
	}
}
