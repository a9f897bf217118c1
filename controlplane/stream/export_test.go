package stream

import "time"

// Limits sets how patient the service is, before it serves. Zero leaves what
// there is.
func (s *Service) Limits(silence, sendWithin, ackWithin time.Duration) {
	for limit, d := range map[*time.Duration]time.Duration{&s.silence: silence, &s.sendWithin: sendWithin, &s.ackWithin: ackWithin} {
		if d != 0 {
			*limit = d
		}
	}
}
