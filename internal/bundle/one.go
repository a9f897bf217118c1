package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// The first version: after the magic come the parts of a full update, as on the
// wire, each after its length; a length of zero; and the SHA-256 of everything
// before the digest.

// WriteSnapshot writes a snapshot alone, in the first version.
func WriteSnapshot(w io.Writer, s *snapshot.Snapshot) error {
	sum := sha256.New()
	both := io.MultiWriter(w, sum)
	if _, err := io.WriteString(both, magicOne); err != nil {
		return err
	}
	for part := range snapshot.Updates(nil, s) {
		if err := writePart(both, part); err != nil {
			return err
		}
	}
	if err := writeLength(both, 0); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// documentsField is the first field of an Update that a full snapshot has.
var documentsField = (&proxyv1.Update{}).ProtoReflect().Descriptor().Fields().ByName("documents").Number()

// writePart writes a part after its length, as Marshal encodes it. It makes no copy of
// the documents: a large snapshot that changes all the time would else leave a proxy
// with as much garbage, again and again.
func writePart(w io.Writer, part *proxyv1.Update) error {
	rest, err := proto.Marshal(&proxyv1.Update{Removed: part.GetRemoved(), Head: part.GetHead(), Unfinished: part.GetUnfinished()})
	if err != nil {
		return fmt.Errorf("marshal part: %w", err)
	}
	size := len(rest)
	for _, d := range part.GetDocuments() {
		size += protowire.SizeTag(documentsField) + protowire.SizeBytes(len(d))
	}
	if err := writeLength(w, size); err != nil {
		return err
	}
	var before [2 * binary.MaxVarintLen64]byte
	for _, d := range part.GetDocuments() {
		b := protowire.AppendTag(before[:0], documentsField, protowire.BytesType)
		if _, err := w.Write(protowire.AppendVarint(b, uint64(len(d)))); err != nil {
			return err
		}
		if _, err := w.Write(d); err != nil {
			return err
		}
	}
	_, err = w.Write(rest)
	return err
}

func (b *Bundle) readOne(d *digesting, v *snapshot.Verifier) error {
	s, err := readParts(d, v)
	if err != nil {
		return err
	}
	if err := d.checksum(); err != nil {
		return err
	}
	return b.hold(s)
}

// readParts reads up to the length of zero.
func readParts(r io.Reader, v *snapshot.Verifier) (*snapshot.Snapshot, error) {
	var assembly snapshot.Assembly
	for {
		payload, err := readPayload(r)
		if err != nil {
			return nil, err
		}
		if payload == nil {
			return nil, errors.New("it ends before the head")
		}
		s, err := addPart(&assembly, v, payload)
		if err != nil {
			return nil, err
		}
		if s == nil {
			continue
		}
		if payload, err = readPayload(r); err != nil || payload != nil {
			return nil, errors.New("it goes on after the head")
		}
		return s, nil
	}
}

// addPart takes the next part of a full update, and returns the snapshot after the
// last.
func addPart(a *snapshot.Assembly, v *snapshot.Verifier, payload []byte) (*snapshot.Snapshot, error) {
	part := &proxyv1.Update{}
	if err := proto.Unmarshal(payload, part); err != nil {
		return nil, fmt.Errorf("parse part: %w", err)
	}
	return a.Add(v, nil, part)
}

// readPayload reads a length and what it is the length of; nil for none.
func readPayload(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, fmt.Errorf("read length: %w", err)
	}
	n := binary.BigEndian.Uint32(length[:])
	switch {
	case n == 0:
		return nil, nil
	case n > snapshot.MaxPart:
		return nil, snapshot.ErrTooLarge
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read part: %w", err)
	}
	return b, nil
}

func writeLength(w io.Writer, n int) error {
	_, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) //nolint:gosec // a part is far below 4 GiB
	return err
}
