package stream

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// prefixBytes come before each message of a stream, in Connect as in gRPC: a
	// byte of flags and four of length.
	prefixBytes = 5
	// maxPiece is how much is written at once. HTTP/2 keeps a buffer of the size of
	// the largest frame for as long as a connection lives; what it gathers in one of
	// its own it sends in frames of this size.
	maxPiece = 4 << 10
)

// frame is a message of the stream as it goes over the wire. Thousands of proxies
// that need the same share one, so that it is not encoded for each of them; and its
// documents are those of the snapshot, so that a large one takes no memory for as
// long as proxies are slow to receive it. It is not to be changed.
type frame struct {
	head      []byte   // the prefix, and the message without its documents
	documents [][]byte // of an update
}

// messageFrame encodes a message.
func messageFrame(m *proxyv1.StreamResponse) (frame, error) {
	head, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, prefixBytes, prefixBytes+proto.Size(m)), m)
	if err != nil {
		return frame{}, fmt.Errorf("encode message: %w", err)
	}
	return frame{head: sealed(head, len(head))}, nil
}

// sealed sets the prefix of a message that begins with head and has length bytes
// with its prefix.
func sealed(head []byte, length int) []byte {
	binary.BigEndian.PutUint32(head[1:], uint32(length-prefixBytes)) //nolint:gosec // at most snapshot.MaxPart and a little
	return head
}

// Numbers of fields that frames are made of by hand.
var (
	numberOfUpdate    = number(&proxyv1.StreamResponse{}, "update")
	numberOfSecurity  = number(&proxyv1.StreamResponse{}, "security")
	numberOfDocuments = number(&proxyv1.Update{}, "documents")
)

func number(m proto.Message, field protoreflect.Name) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(field).Number()
}

// updateFrame encodes a part of an update of an environment, or of the security
// lane. The order of fields is free: documents come last.
func updateFrame(environment string, u *proxyv1.Update) (frame, error) {
	rest, err := proto.Marshal(&proxyv1.Update{BaseRoot: u.GetBaseRoot(), Removed: u.GetRemoved(), Head: u.GetHead(), Unfinished: u.GetUnfinished()})
	if err != nil {
		return frame{}, fmt.Errorf("encode update: %w", err)
	}
	size := len(rest)
	for _, d := range u.GetDocuments() {
		size += protowire.SizeTag(numberOfDocuments) + protowire.SizeBytes(len(d))
	}
	lane := numberOfUpdate
	if environment == snapshot.SecurityLane {
		lane = numberOfSecurity
	}
	head := make([]byte, prefixBytes, prefixBytes+protowire.SizeTag(lane)+protowire.SizeVarint(uint64(size))+len(rest))
	head = protowire.AppendTag(head, lane, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	length := len(head) + size
	return frame{head: sealed(append(head, rest...), length), documents: u.GetDocuments()}, nil
}

const (
	// packed is the flag of a message that is compressed.
	packed = 1
	// smallestPacked is from how many bytes on a message is compressed: a change of a
	// policy takes longer to be unpacked by each proxy than to be sent.
	smallestPacked = 32 << 10
)

// size is how many bytes the frame has on the wire, or a few less.
func (f frame) size() int {
	n := len(f.head)
	for _, d := range f.documents {
		n += len(d)
	}
	return n
}

// pack compresses the frame with gzip, if it is worth it.
func (f frame) pack() (frame, error) {
	if f.size() < smallestPacked {
		return f, nil
	}
	var b bytes.Buffer
	b.Write(make([]byte, prefixBytes))
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return frame{}, err
	}
	if _, err := z.Write(f.head[prefixBytes:]); err != nil {
		return frame{}, fmt.Errorf("compress message: %w", err)
	}
	if err := cmp.Or(f.writeDocuments(z), z.Close()); err != nil {
		return frame{}, fmt.Errorf("compress message: %w", err)
	}
	if b.Len() >= f.size() {
		return f, nil
	}
	head := sealed(bytes.Clone(b.Bytes()), b.Len())
	head[0] |= packed
	return frame{head: head}, nil
}

// writeTo writes the frame in small pieces.
func (f frame) writeTo(w io.Writer) error {
	if err := writePieces(w, f.head); err != nil {
		return err
	}
	return f.writeDocuments(w)
}

func (f frame) writeDocuments(w io.Writer) error {
	var field [2 * binary.MaxVarintLen64]byte
	for _, d := range f.documents {
		b := protowire.AppendTag(field[:0], numberOfDocuments, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(d)))
		if _, err := w.Write(b); err != nil {
			return err
		}
		if err := writePieces(w, d); err != nil {
			return err
		}
	}
	return nil
}

func writePieces(w io.Writer, b []byte) error {
	for len(b) > 0 {
		n, err := w.Write(b[:min(len(b), maxPiece)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
