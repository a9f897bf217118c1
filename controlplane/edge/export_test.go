package edge

import "github.com/sallyport/sallyport/storage"

// Rulings numbers what is ruled, for tests.
type Rulings struct{ rulings }

// NewRulings returns some of which nothing is known.
func NewRulings() *Rulings { return &Rulings{rulings{of: map[string]ruling{}}} }

// Revise takes SPIFFE IDs that are barred, and some that are approved.
func (r *Rulings) Revise(barred, approved []string) bool {
	now := map[string]ruling{}
	for _, id := range approved {
		now[id] = ruling{approved: true}
	}
	for _, id := range barred {
		now[id] = ruling{barred: true}
	}
	return r.revise(now)
}

// After is rulings.after.
func (r *Rulings) After(sequence int64) []storage.Ruling { return r.after(sequence) }

// Unkept is unkept.
func Unkept(err error) error { return unkept(err) }
