package admission

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// Rollback says how far a request to go back may go.
type Rollback struct {
	Now time.Time
	// Trust says that whom to trust comes back as well, though it was taken away
	// since.
	Trust bool
}

// NewRollback reads what is to be as it was: differences from the revision that the
// request is planned at. What they say is admitted by the rules of an Apply, but
// for grants that have run out since: they have no effect, then as now.
func NewRollback(differences []storage.Difference, how Rollback) *Request {
	r := &Request{entries: make([]entry, len(differences))}
	inParallel(len(differences), func(i int) { r.entries[i] = pastEntry(differences[i], how) })
	r.number()
	return r
}

func pastEntry(d storage.Difference, how Rollback) entry {
	e := entry{key: d.Key, deletion: d.After.Deleted, valid: d.After.Deleted}
	if e.deletion {
		return e
	}
	refuse := func(reason, format string, args ...any) {
		e.problems.Add(resource.Problem{Resource: e.key.String(), Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	file, err := resource.Present(d.After.Document)
	if err != nil {
		refuse(resource.ReasonUnknownField, "cannot be brought back: %v", err)
		return e
	}
	parsed, problems := resource.Decode(file)
	if e.problems = problems; problems.Total > 0 {
		return e
	}
	e.document, e.valid = d.After.Document, true
	e.item = newItem(parsed, d.After.Document, d.After.Digest)
	grant, isGrant := e.item.Spec.(*resourcev1.Grant)
	e.lapsed = isGrant && grant.GetNotAfter() != nil && !grant.GetNotAfter().AsTime().After(how.Now)
	if !how.Trust && !e.lapsed && restoresTrust(d.Before, e.item, how.Now) {
		refuse(ReasonRestoresTrust, "would be trusted as it was, which has been changed since: restore trust if that is meant, and revoke what has leaked")
	}
	return e
}

// restoresTrust reports whether something that says whom to trust, or to let in,
// would say so again that does not now. Of an ApiKey those are its secrets.
func restoresTrust(present storage.Version, past *item, now time.Time) bool {
	switch spec := past.Spec.(type) {
	case *resourcev1.ApiKey:
		key, _ := specOf(present).(*resourcev1.ApiKey)
		return slices.ContainsFunc(spec.GetSecrets(), func(s *resourcev1.ApiKeySecret) bool {
			lapsed := s.GetNotAfter() != nil && !s.GetNotAfter().AsTime().After(now)
			return !lapsed && !slices.ContainsFunc(key.GetSecrets(), func(o *resourcev1.ApiKeySecret) bool { return proto.Equal(s, o) })
		})
	case *resourcev1.IdentityProvider, *resourcev1.TrustDomain, *resourcev1.Enrollment, *resourcev1.Grant:
		return true
	}
	return false
}

// specOf returns what a version says; nil when it is deleted, or not understood.
func specOf(v storage.Version) proto.Message {
	if v.Deleted {
		return nil
	}
	p, err := resource.ParseDocument(v.Document)
	if err != nil {
		return nil
	}
	return p.Spec
}
