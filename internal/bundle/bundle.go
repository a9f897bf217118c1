// Package bundle is the form in which what a fleet enforces is kept and carried: one
// file that proves itself, whoever brings it.
//
// Two versions are read. The first is a snapshot alone, and what proxies write as
// their last good one: builds of before read it. The second is made of sections,
// among them some that a later build may add: see docs/architecture.md.
package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	magicOne = "sallyport last-good v1\n"
	magicTwo = "sallyport last-good v2\n" // of the same length
)

// MaxBytes bounds a bundle that is read, in bytes: both lanes at their largest, and
// as much again as is around documents.
const MaxBytes = 2*snapshot.MaxBytes + 256<<20

// Bundle is what a file holds: of one lane or of both. The zero Bundle holds nothing.
type Bundle struct {
	// KeySets lead from the pinned key to those that signed the rest, by ascending
	// generation; none where the pinned key did.
	KeySets []*proxyv1.SignedKeySet
	// Policy is of an environment, and Security of the security lane; nil for none.
	Policy, Security *snapshot.Snapshot
	// Freshness are statements that confirm them, verified, as they were signed; nil
	// for none.
	Freshness, SecurityFreshness *proxyv1.SignedFreshness
}

// Read returns what a bundle holds, verified by v as if it came from the network, in
// which it may have been: it is read within bounds, and not at all unless it is
// whole. It reads to the end of r. What v learns of key sets stays, whatever comes
// after them.
func Read(r io.Reader, v *snapshot.Verifier) (*Bundle, error) {
	limited := &io.LimitedReader{R: r, N: MaxBytes}
	b, err := read(limited, v)
	if err != nil && limited.N == 0 {
		return nil, snapshot.ErrTooLarge
	}
	return b, err
}

func read(r io.Reader, v *snapshot.Verifier) (*Bundle, error) {
	d := &digesting{r: r, sum: sha256.New()}
	magic := make([]byte, len(magicOne))
	if _, err := io.ReadFull(d, magic); err != nil {
		return nil, errNoBundle
	}
	b := &Bundle{}
	var err error
	switch string(magic) {
	case magicOne:
		err = b.readOne(d, v)
	case magicTwo:
		err = b.readTwo(d, v)
	default:
		err = errNoBundle
	}
	if err != nil {
		return nil, err
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return nil, errors.New("it goes on after its checksum")
	}
	if b.Policy == nil && b.Security == nil {
		return nil, errors.New("it holds no snapshot")
	}
	return b, nil
}

var errNoBundle = errors.New("not a snapshot file")

// digesting digests what is read through it.
type digesting struct {
	r   io.Reader
	sum hash.Hash
}

// Read implements io.Reader.
func (d *digesting) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	d.sum.Write(b[:n])
	return n, err
}

// checksum reads the digest of everything before it.
func (d *digesting) checksum() error {
	want := d.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(d, got); err != nil || !bytes.Equal(got, want) {
		return errors.New("checksum differs")
	}
	return nil
}

// hold takes a snapshot, of which there is one of each lane.
func (b *Bundle) hold(s *snapshot.Snapshot) error {
	lane := &b.Policy
	if s.Head().Environment == snapshot.SecurityLane {
		lane = &b.Security
	}
	if *lane != nil {
		return fmt.Errorf("it holds two snapshots, of %q and %q", (*lane).Head().Environment, s.Head().Environment)
	}
	*lane = s
	return nil
}

// extend has v follow key sets.
func (b *Bundle) extend(payload []byte, v *snapshot.Verifier) error {
	m := &proxyv1.KeySets{}
	if err := proto.Unmarshal(payload, m); err != nil {
		return fmt.Errorf("parse key sets: %w", err)
	}
	b.KeySets = append(b.KeySets, m.GetSets()...)
	_, err := v.Extend(m.GetSets())
	return err
}

// confirm takes a freshness statement.
func (b *Bundle) confirm(payload []byte, v *snapshot.Verifier) error {
	signed := &proxyv1.SignedFreshness{}
	if err := proto.Unmarshal(payload, signed); err != nil {
		return fmt.Errorf("parse freshness: %w", err)
	}
	f, err := v.VerifyFreshness(signed)
	if err != nil {
		return err
	}
	lane := &b.Freshness
	if f.Environment == snapshot.SecurityLane {
		lane = &b.SecurityFreshness
	}
	if *lane != nil {
		return errors.New("it holds two freshness statements of a lane")
	}
	*lane = signed
	return nil
}
