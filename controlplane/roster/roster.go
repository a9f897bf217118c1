// Package roster tells replicas that have no database who is admitted: the publisher
// signs it and writes it to etcd, and they read it there.
package roster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
)

// ErrTooLarge says that there are more enrollments and rulings than a roster holds.
var ErrTooLarge = errors.New("the roster is too large")

// Roster is who is admitted, as it was published. It is immutable.
type Roster struct {
	snapshot.Roster
	// Enrollments are ordered by key.
	Enrollments []storage.Version
	// Barred are the SPIFFE IDs that operators keep out, and Draining the processes
	// that are to tell load balancers to leave them out; both in order.
	Barred   []string
	Draining []storage.ProxyID
	// Election is the key in etcd by which the publisher is elected.
	Election string
}

// encode returns the bytes of a roster, the same for the same content; ErrTooLarge.
func encode(r storage.Roster, election string) ([]byte, error) {
	m := &distributionv1.Roster{ElectionKey: election}
	for _, v := range r.Enrollments {
		m.Enrollments = append(m.Enrollments, v.Document)
	}
	for _, ruling := range r.Rulings {
		if ruling.Quarantined || ruling.Approval == storage.Refused {
			m.Barred = append(m.Barred, ruling.Subject)
		}
		if ruling.Draining {
			m.Draining = append(m.Draining, ruling.Subject)
		}
	}
	slices.Sort(m.GetBarred())
	slices.Sort(m.GetDraining())
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal roster: %w", err)
	}
	if len(b) > etcd.MaxRoster {
		return nil, fmt.Errorf("%w: it has %d bytes, and may have %d", ErrTooLarge, len(b), etcd.MaxRoster)
	}
	return b, nil
}

// errDigest says that a body is not the one that a statement names.
var errDigest = errors.New("the body is not the one that was signed")

// open returns the roster whose statement was verified. It is understood whole, or not
// at all: what a later build added to it may be meant to keep proxies out.
func open(st snapshot.Roster, body []byte) (*Roster, error) {
	if sha256.Sum256(body) != st.Digest {
		return nil, errDigest
	}
	var m distributionv1.Roster
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("parse roster: %w", err)
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("the roster has a field that this build does not know")
	}
	r := &Roster{Roster: st, Barred: m.GetBarred(), Election: m.GetElectionKey()}
	for _, document := range m.GetEnrollments() {
		e, err := snapshot.NewEntry(document)
		if err != nil {
			return nil, fmt.Errorf("enrollment in the roster: %w", err)
		}
		if e.Key.Kind != resource.KindEnrollment {
			return nil, fmt.Errorf("the roster has a %s", e.Key.Kind)
		}
		r.Enrollments = append(r.Enrollments, storage.Version{Key: e.Key, Document: e.Document, Digest: e.Digest})
	}
	slices.SortFunc(r.Enrollments, func(a, b storage.Version) int { return a.Key.Compare(b.Key) })
	for _, id := range m.GetDraining() {
		r.Draining = append(r.Draining, storage.ProxyID(id))
	}
	return r, nil
}
