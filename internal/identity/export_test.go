package identity

import "context"

// Fetch does once, and at once, what Run does with bundle endpoints again and again.
func Fetch(ctx context.Context, s *Source) (err error) {
	for f := range s.endpoints() {
		b, failed := s.fetch(ctx, &f.spec)
		err = s.settle(f, b, failed)
	}
	return err
}

// Follow is the part of Run that fetches bundles.
func Follow(ctx context.Context, s *Source) error { return s.follow(ctx) }
