package revocation

import (
	"encoding/binary"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// kind is what of a principal a revocation goes by.
type kind uint8

const (
	tokens kind = iota
	subjects
	sessions
	keys
	spiffeIDs
	issuers
	everyone
	kinds
)

// subject is whom a revocation of some kind means: an identifier, within an
// issuer for those kinds whose identifiers mean nothing without.
type subject struct{ issuer, id string }

// anybody is the one identifier of the kind everyone.
const anybody = "*"

// revocation is a document of the lane. It is immutable, and kept from set to
// set while its digest stays.
type revocation struct {
	entry  snapshot.Entry
	reject string // why it is rejected; empty when it is not

	kind         kind
	subject      subject
	issuedBefore time.Time // zero: whenever it was
	expires      time.Time // zero: never
}

var errElsewhere = errors.New("does not belong into the security lane")

// read never fails: what cannot be understood is rejected.
func read(e snapshot.Entry) *revocation {
	r := &revocation{entry: e}
	parsed, err := resource.Understand(e.Document)
	spec, ok := parsed.Spec.(*resourcev1.Revocation)
	if err == nil && !ok {
		err = errElsewhere
	}
	if err == nil {
		err = r.aim(spec)
	}
	if err != nil {
		r.reject = resource.RejectReason(err)
	}
	return r
}

var errNobody = errors.New("does not say whose credentials are revoked")

func (r *revocation) aim(spec *resourcev1.Revocation) error {
	r.issuedBefore, r.expires = moment(spec.GetIssuedBefore()), moment(spec.GetExpiresAt())
	switch t := spec.GetTarget().(type) {
	case *resourcev1.Revocation_Token:
		r.kind, r.subject = tokens, subject{t.Token.GetIssuer(), t.Token.GetId()}
	case *resourcev1.Revocation_Subject:
		r.kind, r.subject = subjects, subject{t.Subject.GetIssuer(), t.Subject.GetId()}
	case *resourcev1.Revocation_Session:
		r.kind, r.subject = sessions, subject{t.Session.GetIssuer(), t.Session.GetId()}
	case *resourcev1.Revocation_Key:
		r.kind, r.subject = keys, subject{"", t.Key}
	case *resourcev1.Revocation_SpiffeId:
		r.kind, r.subject = spiffeIDs, subject{"", t.SpiffeId}
	case *resourcev1.Revocation_Issuer:
		r.kind, r.subject = issuers, subject{"", t.Issuer}
	case *resourcev1.Revocation_Everyone:
		r.kind, r.subject = everyone, subject{"", anybody}
	default:
		return errNobody
	}
	return nil
}

func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// cuts reports whether the revocation is in effect at now for a credential that
// was issued at a time, zero when that is not known.
func (r *revocation) cuts(issued, now time.Time) bool {
	if !r.expires.IsZero() && !now.Before(r.expires) {
		return false
	}
	return r.issuedBefore.IsZero() || issued.IsZero() || issued.Before(r.issuedBefore)
}

// tally tells sets of revocations apart without hashing them: whatever a fault
// adds, loses or leaves changes it.
type tally struct {
	count int
	sum   uint64
}

func (t *tally) add(r *revocation) {
	t.count++
	t.sum += binary.BigEndian.Uint64(r.entry.Digest[:])
}

func (t *tally) join(o tally) {
	t.count += o.count
	t.sum += o.sum
}
