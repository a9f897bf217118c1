package courier

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// field is the number of a field, by the names of the schema's messages.
type field = protowire.Number

// message is a message of protobuf that is written field by field, which costs a
// quarter of what proto.Marshal does. As in proto.Marshal's, what is empty or zero is
// left out, and strings have to be UTF-8.
type message struct {
	bytes []byte
	bad   bool // a name is not text
}

// name writes a string that is text if all is well.
func (m *message) name(n field, s string) {
	if s == "" {
		return
	}
	m.bad = m.bad || !utf8.ValidString(s)
	m.bytes = protowire.AppendString(protowire.AppendTag(m.bytes, n, protowire.BytesType), s)
}

// text writes at most so many bytes of a string that may be anything: what is not UTF-8
// in them becomes U+FFFD.
func (m *message) text(n field, s string, most int) {
	if s = s[:min(len(s), most)]; s != "" {
		m.one(n, s)
	}
}

// one writes a string of several, which may be empty.
func (m *message) one(n field, s string) {
	m.bytes = protowire.AppendString(protowire.AppendTag(m.bytes, n, protowire.BytesType), valid(s))
}

func (m *message) number(n field, v int64) {
	if v != 0 {
		m.known(n, v)
	}
}

// known writes a number that may be zero.
func (m *message) known(n field, v int64) {
	m.bytes = protowire.AppendVarint(protowire.AppendTag(m.bytes, n, protowire.VarintType), uint64(v)) //nolint:gosec // as protobuf has it
}

func (m *message) flag(n field, v bool) {
	if v {
		m.known(n, 1)
	}
}

// begin begins a message within the message, or a string that is made in place. What it
// returns is for end.
func (m *message) begin(n field) (start int) {
	m.bytes = append(protowire.AppendTag(m.bytes, n, protowire.BytesType), 0) // a length that is short
	return len(m.bytes)
}

// end puts in the length of what has begun at start.
func (m *message) end(start int) {
	size := len(m.bytes) - start
	if size < 1<<7 {
		m.bytes[start-1] = byte(size) //nolint:gosec // it fits
		return
	}
	var room [8]byte
	length := protowire.AppendVarint(room[:0], uint64(size))
	m.bytes = append(m.bytes, length[1:]...) // as many bytes, which are then overwritten
	copy(m.bytes[start-1+len(length):], m.bytes[start:start+size])
	copy(m.bytes[start-1:], length)
}

// Fields of google.protobuf.Timestamp and google.protobuf.Duration.
const (
	partSeconds field = 1
	partNanos   field = 2
)

// time writes a time, unless that is zero.
func (m *message) time(n field, t time.Time) {
	if !t.IsZero() {
		m.seconds(n, t.Unix(), int64(t.Nanosecond()))
	}
}

func (m *message) duration(n field, d time.Duration) {
	m.seconds(n, int64(d/time.Second), int64(d%time.Second))
}

func (m *message) seconds(n field, whole, nanos int64) {
	start := m.begin(n)
	m.number(partSeconds, whole)
	m.number(partNanos, nanos)
	m.end(start)
}

// address writes an address without its zone, which may be any text.
func (m *message) address(n field, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	start := m.begin(n)
	m.bytes = a.WithZone("").AppendTo(m.bytes)
	m.end(start)
}

// digits writes an ID in hexadecimal digits, unless it is zero.
func (m *message) digits(n field, id [16]byte) {
	if id == ([16]byte{}) {
		return
	}
	start := m.begin(n)
	m.bytes = hex.AppendEncode(m.bytes, id[:])
	m.end(start)
}

// add adds the fields of another message, which may be further ones of a message within
// this one.
func (m *message) add(other proto.Message) {
	all, err := proto.MarshalOptions{}.MarshalAppend(m.bytes, other)
	if err != nil {
		m.bad = true
		return
	}
	m.bytes = all
}

// clip returns s as text of at most n bytes.
func clip(s string, n int) string { return valid(s[:min(len(s), n)]) }

// valid is s: what is not UTF-8 in it becomes U+FFFD.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
