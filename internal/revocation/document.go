package revocation

import (
	"encoding/binary"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// kind is what of a principal a revocation goes by, or of a request a device is
// known by.
type kind uint8

const (
	tokens kind = iota
	subjects
	sessions
	keys
	spiffeIDs
	issuers
	everyone
	devices // revoked ones; those below are devices themselves
	deviceCertificates
	deviceSPIFFEIDs
	deviceSubjects
	deviceKeys
	kinds
)

// subject is whom a revocation of some kind means, or who a device is: an
// identifier, within an issuer for those kinds whose identifiers mean nothing
// without.
type subject struct{ issuer, id string }

// anybody is the one identifier of the kind everyone.
const anybody = "*"

// document is one of the lane. It is immutable once it is read, and kept from set
// to set while its digest stays.
type document struct {
	entry  snapshot.Entry
	reject string // why it is rejected; empty when it is not

	// places is where it is found in the indexes: one of a revocation, all that it
	// is known by of a device.
	places []place

	// Of a revocation.
	issuedBefore time.Time // zero: whenever it was
	expires      time.Time // zero: never

	device *policy.Device // nil of a revocation
}

// place is one in an index.
type place struct {
	kind    kind
	subject subject
}

var errElsewhere = errors.New("does not belong into the security lane")

// read never fails: what cannot be understood is rejected.
func (r *document) read() {
	parsed, err := resource.Understand(r.entry.Document)
	if err == nil {
		err = r.understand(parsed.Spec)
	}
	if err != nil {
		r.reject = resource.RejectReason(err)
	}
}

func (r *document) understand(spec proto.Message) error {
	switch s := spec.(type) {
	case *resourcev1.Revocation:
		return r.aim(s)
	case *resourcev1.Device:
		return r.know(s)
	}
	return errElsewhere
}

var errNobody = errors.New("does not say whose credentials are revoked")

func (r *document) aim(spec *resourcev1.Revocation) error {
	r.issuedBefore, r.expires = moment(spec.GetIssuedBefore()), moment(spec.GetExpiresAt())
	switch t := spec.GetTarget().(type) {
	case *resourcev1.Revocation_Token:
		r.at(tokens, t.Token.GetIssuer(), t.Token.GetId())
	case *resourcev1.Revocation_Subject:
		r.at(subjects, t.Subject.GetIssuer(), t.Subject.GetId())
	case *resourcev1.Revocation_Session:
		r.at(sessions, t.Session.GetIssuer(), t.Session.GetId())
	case *resourcev1.Revocation_Key:
		r.at(keys, "", t.Key)
	case *resourcev1.Revocation_SpiffeId:
		r.at(spiffeIDs, "", t.SpiffeId)
	case *resourcev1.Revocation_Device:
		r.at(devices, "", t.Device)
	case *resourcev1.Revocation_Issuer:
		r.at(issuers, "", t.Issuer)
	case *resourcev1.Revocation_Everyone:
		r.at(everyone, "", anybody)
	default:
		return errNobody
	}
	return nil
}

func (r *document) at(k kind, issuer, id string) {
	r.places = append(r.places, place{k, subject{issuer, id}})
}

func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// cuts reports whether the revocation is in effect at now for a credential that
// was issued at a time, zero when that is not known.
func (r *document) cuts(issued, now time.Time) bool {
	if !r.expires.IsZero() && !now.Before(r.expires) {
		return false
	}
	return r.issuedBefore.IsZero() || issued.IsZero() || issued.Before(r.issuedBefore)
}

// tally tells sets of documents apart without hashing them: whatever a fault
// adds, loses or leaves changes it.
type tally struct {
	count int
	sum   uint64
}

func (t *tally) add(r *document) {
	t.count++
	t.sum += binary.BigEndian.Uint64(r.entry.Digest[:])
}

func (t *tally) join(o tally) {
	t.count += o.count
	t.sum += o.sum
}
