package edge

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/storage"
)

// ruling is what is ruled of a subject, of what an edge has to know.
type ruling struct {
	approved, barred, draining bool
	sequence                   int64
}

func (r ruling) same(o ruling) bool {
	return r.approved == o.approved && r.barred == o.barred && r.draining == o.draining
}

// rulings numbers what is ruled, so that who has seen some can ask for what came since.
type rulings struct {
	of   map[string]ruling // by subject; what was taken back stays as a zero one
	last int64
}

// revise takes what is ruled now, and reports whether that is something else.
func (r *rulings) revise(now map[string]ruling) (changed bool) {
	for subject, old := range r.of {
		if _, there := now[subject]; !there && !old.same(ruling{}) {
			r.put(subject, ruling{})
			changed = true
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(now)) {
		if !now[subject].same(r.of[subject]) {
			r.put(subject, now[subject])
			changed = true
		}
	}
	return changed
}

func (r *rulings) put(subject string, next ruling) {
	r.last++
	next.sequence = r.last
	r.of[subject] = next
}

// after returns the rulings after a sequence, ascending. Who asks for all has no use
// for what was taken back: it is forgotten.
func (r *rulings) after(sequence int64) (all []storage.Ruling) {
	if sequence == 0 {
		maps.DeleteFunc(r.of, func(_ string, of ruling) bool { return of.same(ruling{}) })
	}
	for subject, of := range r.of {
		if of.sequence <= sequence {
			continue
		}
		next := storage.Ruling{Subject: subject, Quarantined: of.barred, Draining: of.draining, Sequence: of.sequence}
		if of.approved {
			next.Approval = storage.Approved
		}
		all = append(all, next)
	}
	slices.SortFunc(all, func(a, b storage.Ruling) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return all
}
