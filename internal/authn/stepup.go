package authn

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// StepUp is what a route demands of how its users have signed in. Whoever does
// not tell does not meet it. The zero value demands nothing.
type StepUp struct {
	ACRValues []string      // one of them is the class; any when empty
	AMR       []string      // each of them is among the methods
	MaxAge    time.Duration // since the sign-in; any when zero
}

// aheadOfUs is how far the clock of who says when a sign-in was may be ahead.
const aheadOfUs = 30 * time.Second

// met reports whether p has signed in as is demanded. A nil StepUp demands
// nothing.
func (s *StepUp) met(p *policy.Principal, now time.Time) bool {
	if s == nil {
		return true
	}
	if len(s.ACRValues) > 0 && !slices.Contains(s.ACRValues, p.ACR) {
		return false
	}
	for _, method := range s.AMR {
		if !slices.Contains(p.AMR, method) {
			return false
		}
	}
	at := p.AuthenticatedAt
	return s.MaxAge == 0 || !at.IsZero() && now.Sub(at) <= s.MaxAge && !at.After(now.Add(aheadOfUs))
}

// challenge tells the client what to ask its identity provider for
// (RFC 9470 §3), which has no word for methods.
func (s *StepUp) challenge() string {
	wants := `, error="insufficient_user_authentication", error_description="Another or a more recent sign-in is required"`
	if len(s.ACRValues) > 0 {
		wants += `, acr_values="` + strings.Join(s.ACRValues, " ") + `"`
	}
	if s.MaxAge > 0 {
		wants += `, max_age="` + strconv.FormatInt(int64(s.MaxAge/time.Second), 10) + `"`
	}
	return wants
}
