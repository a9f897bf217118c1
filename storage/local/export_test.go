package local

import "time"

// SetPatience makes Stop use force sooner.
func (p *Postgres) SetPatience(d time.Duration) { p.patience = d }

// SearchOnly has findPostgres look in these places only, besides the PATH, and
// returns a function that undoes it.
func SearchOnly(places ...string) (undo func()) {
	before := usualPlaces
	usualPlaces = places
	return func() { usualPlaces = before }
}
