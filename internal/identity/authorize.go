package identity

import (
	"errors"
	"fmt"
	"slices"
)

// Authorizer says whether the peer whose identity was just verified may be on the
// other side of this connection: nil lets it in, an error keeps it out and says
// why. It is asked in every handshake and must be safe for concurrent use. A nil
// Authorizer lets nobody in.
type Authorizer func(ID) error

func (a Authorizer) authorize(id ID) error {
	if a == nil {
		return errors.New("nobody is expected")
	}
	return a(id)
}

// Only expects one of ids; without ids it lets nobody in.
func Only(ids ...ID) Authorizer {
	ids = slices.Clone(ids)
	return func(id ID) error {
		if id == "" || !slices.Contains(ids, id) {
			return fmt.Errorf("%q is not one of the expected %q", id, ids)
		}
		return nil
	}
}

// Member expects any workload of the trust domain td.
func Member(td TrustDomain) Authorizer {
	return func(id ID) error {
		if td == "" || id.TrustDomain() != td {
			return fmt.Errorf("%q is not of the trust domain %q", id, td)
		}
		return nil
	}
}

// Pattern is a set of SPIFFE IDs, such as the one that pattern.ParseSPIFFE returns.
type Pattern interface {
	Match(id string) bool
	String() string
}

// Matching expects an ID that one of patterns matches; without patterns it lets
// nobody in.
func Matching(patterns ...Pattern) Authorizer {
	patterns = slices.Clone(patterns)
	return func(id ID) error {
		for _, p := range patterns {
			if p.Match(string(id)) {
				return nil
			}
		}
		return fmt.Errorf("%q matches none of the expected %q", id, patterns)
	}
}
