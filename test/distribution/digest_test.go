package distribution_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
)

// "Digests" of the document.

func sum(parts ...[]byte) []byte {
	s := sha256.Sum256(slices.Concat(parts...))
	return s[:]
}

func documentDigest(document []byte) []byte {
	return sum([]byte("sallyport document v1\x00"), document)
}

func keyDigest(kind, namespace, name []byte) []byte {
	b := []byte("sallyport key v1\x00")
	for _, part := range [][]byte{kind, namespace, name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return sum(b)
}

// documents are those of a snapshot, by their key digests.
type documents map[string][]byte

// put takes a document under its key.
func (d documents) put(document []byte) error {
	m, err := parse(document)
	if err != nil {
		return err
	}
	kind, namespace, name := m.bytes(1), m.bytes(2), m.bytes(3)
	if len(kind) == 0 || len(name) == 0 {
		return errMessage
	}
	d[string(keyDigest(kind, namespace, name))] = document
	return nil
}

// buckets returns the 256 digests of buckets.
func (d documents) buckets() [][]byte {
	all := slices.Repeat([][]byte{make([]byte, sha256.Size)}, 256)
	text := map[byte][]byte{}
	for _, key := range slices.Sorted(maps.Keys(d)) {
		if text[key[0]] == nil {
			text[key[0]] = []byte("sallyport bucket v1\x00")
		}
		text[key[0]] = append(append(text[key[0]], key...), documentDigest(d[key])...)
	}
	for i, b := range text {
		all[i] = sum(b)
	}
	return all
}

func (d documents) root() []byte {
	return sum([]byte("sallyport root v1\x00"), bytes.Join(d.buckets(), nil))
}

// counts returns how many documents there are of each kind.
func (d documents) counts() map[string]uint64 {
	counts := map[string]uint64{}
	for _, document := range d {
		m, _ := parse(document) // put has parsed it
		counts[string(m.bytes(1))]++
	}
	return counts
}
