package distribution_test

import (
	"bytes"
	"encoding/binary"
	"errors"
)

var errFile = errors.New("no file")

// read takes a file of either version: "Files" of the document.
func (p *proxy) read(b []byte) error {
	if len(b) < 23+32 {
		return errFile
	}
	text, checksum := b[:len(b)-32], b[len(b)-32:]
	if !bytes.Equal(sum(text), checksum) {
		return errFile
	}
	switch magic, rest := string(text[:23]), text[23:]; magic {
	case "sallyport last-good v1\n":
		return p.readParts(rest)
	case "sallyport last-good v2\n":
		return p.readSections(rest)
	}
	return errFile
}

// readParts takes parts of a full update up to the length of zero.
func (p *proxy) readParts(b []byte) error {
	for {
		part, rest, err := payload(b)
		if err != nil {
			return err
		}
		if b = rest; len(part) == 0 {
			if len(b) > 0 {
				return errFile
			}
			return nil
		}
		if err := p.update(p.environment, part); err != nil {
			return err
		}
	}
}

func (p *proxy) readSections(b []byte) error {
	for len(b) > 4 {
		name := string(b[:4])
		section, rest, err := payload(b[4:])
		if err != nil {
			return err
		}
		b = rest
		switch {
		case name == "keys":
			err = p.follow(section)
		case name == "part":
			err = p.part(section)
		case name == "frsh":
			err = p.confirm(section)
		case name == "END\x00" && len(section)+len(b) == 0:
			return nil
		case name[0] < 'a' || name[0] > 'z':
			return errFile
		}
		if err != nil {
			return err
		}
	}
	return errFile
}

// part takes the part of a lane that its head names. In a file of the example each
// snapshot has one part.
func (p *proxy) part(section []byte) error {
	m, err := parse(section)
	if err != nil {
		return err
	}
	signed, err := parse(m.bytes(4))
	if err != nil {
		return err
	}
	h, err := parse(signed.bytes(1))
	if err != nil {
		return err
	}
	if string(h.bytes(2)) == securityLane {
		return p.update(securityLane, section)
	}
	return p.update(p.environment, section)
}

func payload(b []byte) (payload, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errFile
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, errFile
	}
	return b[:n], b[n:], nil
}
