package authn

import (
	"encoding/binary"
	"hash/maphash"
	"time"
)

// absenceLasts is for how many cool-downs a kid that the issuer did not have is
// not asked for again, unless a background fetch brings it.
const absenceLasts = 3

// absences are kids that an issuer, asked for them, did not have. They are as
// many as there is room for: a kid takes the place of another, so that made-up
// ones cost no memory, and can do no worse than have one fetch more in a
// cool-down.
type absences struct {
	seed  maphash.Seed
	slots []absence
}

type absence struct {
	kid   uint64 // its hash, which nobody outside can aim at
	until time.Time
}

func newAbsences() absences { return absences{maphash.MakeSeed(), make([]absence, 256)} }

func (a *absences) slot(kid string) (*absence, uint64) {
	h := maphash.String(a.seed, kid)
	return &a.slots[h%uint64(len(a.slots))], h
}

func (a *absences) has(kid string, now time.Time) bool {
	s, h := a.slot(kid)
	return s.kid == h && now.Before(s.until)
}

func (a *absences) add(kid string, until time.Time) {
	s, h := a.slot(kid)
	*s = absence{h, until}
}

// refusals are tokens that an issuer has refused a moment ago: as many as there
// is room for, as absences.
type refusals struct{ slots []refusal }

type refusal struct {
	token  digest
	reason Reason
	until  time.Time
}

func newRefusals() refusals { return refusals{make([]refusal, 512)} }

func (r *refusals) slot(token digest) *refusal {
	return &r.slots[binary.BigEndian.Uint64(token[:])%uint64(len(r.slots))]
}

// get returns why the token was refused, or nothing.
func (r *refusals) get(token digest, now time.Time) Reason {
	if s := r.slot(token); s.token == token && now.Before(s.until) {
		return s.reason
	}
	return ""
}

func (r *refusals) put(token digest, why Reason, until time.Time) {
	*r.slot(token) = refusal{token, why, until}
}
