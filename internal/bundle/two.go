package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// The second version: after the magic come sections, each a type of four bytes, the
// length of its payload in four, and the payload; then the section that ends it,
// without a payload, and the SHA-256 of everything before the digest.
//
// A type that begins with a lower-case letter may be passed over by who does not
// know it, and any other not: a later build can add what is good to know to a file,
// and an earlier one goes on without it.
const (
	sectionKeys      = "keys" // a proxyv1.KeySets, before what their keys signed
	sectionPart      = "part" // of a full update, which ends with its head
	sectionFreshness = "frsh" // a proxyv1.SignedFreshness
	sectionEnd       = "END\x00"
)

// keySetsAtOnce is how many key sets make a section, of at most 100 KiB.
const keySetsAtOnce = 100

// Write writes a bundle, the security lane first, in the second version.
func Write(w io.Writer, b *Bundle) error {
	sum := sha256.New()
	out := &sections{w: io.MultiWriter(w, sum)}
	out.raw([]byte(magicTwo))
	for some := range slices.Chunk(b.KeySets, keySetsAtOnce) {
		out.message(sectionKeys, &proxyv1.KeySets{Sets: some})
	}
	for _, lane := range [...]struct {
		s *snapshot.Snapshot
		f *proxyv1.SignedFreshness
	}{{b.Security, b.SecurityFreshness}, {b.Policy, b.Freshness}} {
		if lane.s == nil {
			continue
		}
		for part := range snapshot.Updates(nil, lane.s) {
			out.message(sectionPart, part)
		}
		if lane.f != nil {
			out.message(sectionFreshness, lane.f)
		}
	}
	out.section(sectionEnd, nil)
	if out.err != nil {
		return out.err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// sections writes until there is an error, which it keeps.
type sections struct {
	w   io.Writer
	err error
}

func (s *sections) raw(b []byte) {
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
}

func (s *sections) section(name string, payload []byte) {
	s.raw([]byte(name))
	if s.err == nil {
		s.err = writeLength(s.w, len(payload))
	}
	s.raw(payload)
}

func (s *sections) message(name string, m proto.Message) {
	b, err := proto.Marshal(m)
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("marshal section %s: %w", name, err)
	}
	s.section(name, b)
}

// maxUnknown bounds what is passed over, in bytes.
const maxUnknown = 16 << 20

func (b *Bundle) readTwo(d *digesting, v *snapshot.Verifier) error {
	var assembly snapshot.Assembly
	begun, unknown := false, 0 // a snapshot, that has no head so far; bytes passed over
	for {
		var name [4]byte
		if _, err := io.ReadFull(d, name[:]); err != nil {
			return fmt.Errorf("read section: %w", err)
		}
		payload, err := readPayload(d)
		if err != nil {
			return fmt.Errorf("section %q: %w", name, err)
		}
		switch string(name[:]) {
		case sectionPart:
			var s *snapshot.Snapshot
			if s, err = addPart(&assembly, v, payload); err == nil && s != nil {
				err = b.hold(s)
			}
			begun = s == nil
		case sectionKeys:
			err = b.extend(payload, v)
		case sectionFreshness:
			err = b.confirm(payload, v)
		case sectionEnd:
			if begun || len(payload) > 0 {
				return errors.New("it ends before the head")
			}
			return d.checksum()
		default:
			if unknown += len(payload); unknown > maxUnknown {
				return snapshot.ErrTooLarge
			}
			if name[0] < 'a' || name[0] > 'z' {
				err = errors.New("this build does not know it, and cannot do without")
			}
		}
		if err != nil {
			return fmt.Errorf("section %q: %w", name, err)
		}
	}
}
