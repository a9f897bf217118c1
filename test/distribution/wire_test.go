package distribution_test

import (
	"encoding/binary"
	"errors"
)

var errMessage = errors.New("no message of protobuf")

// field is a field of a message of protobuf: a number, or what has a length.
type field struct {
	number int
	value  uint64
	bytes  []byte
}

// message is a message of protobuf by its numbers, without generated code.
type message []field

// parse reads a message. The proxies' protocol has numbers and what has a length,
// and nothing else.
func parse(b []byte) (m message, err error) {
	for len(b) > 0 {
		var tag, value uint64
		if tag, b, err = varint(b); err != nil {
			return nil, err
		}
		if value, b, err = varint(b); err != nil {
			return nil, err
		}
		f := field{number: int(tag >> 3), value: value}
		switch tag & 7 {
		case 0:
		case 2:
			if value > uint64(len(b)) {
				return nil, errMessage
			}
			f.bytes, b = b[:value], b[value:]
		default:
			return nil, errMessage
		}
		m = append(m, f)
	}
	return m, nil
}

func varint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errMessage
	}
	return v, b[n:], nil
}

// number returns the last value of a field; 0 without one.
func (m message) number(number int) (value uint64) {
	for _, f := range m {
		if f.number == number {
			value = f.value
		}
	}
	return value
}

// bytes returns the last value of a field; nil without one.
func (m message) bytes(number int) []byte {
	if all := m.all(number); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// all returns every value of a field that is repeated.
func (m message) all(number int) (all [][]byte) {
	for _, f := range m {
		if f.number == number {
			all = append(all, f.bytes)
		}
	}
	return all
}

// known reports whether m has no field above the last one that a statement has.
func (m message) known(last int) bool {
	for _, f := range m {
		if f.number < 1 || f.number > last {
			return false
		}
	}
	return true
}

// appendNumber and appendBytes write a field. What is zero is left out.
func appendNumber(b []byte, number int, value uint64) []byte {
	if value == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(number)<<3)
	return binary.AppendUvarint(b, value)
}

func appendBytes(b []byte, number int, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(number)<<3|2)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}
