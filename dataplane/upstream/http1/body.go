package http1

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// part is a part of the body of an answer.
type part uint8

const (
	ended part = iota
	sized
	chunkLine
	chunkData
	chunkEnd
	trailer
	unsized // it ends with the connection
)

// content is how far the body of an answer was read.
type content struct {
	part part
	left int64 // of a sized body or a chunk
	// idle is what chunks have cost beyond what they carry: bytes that are not the
	// body's, less what a body of small chunks may have.
	idle int
	err  error // of all further reads
}

// Read implements io.Reader for the body of the answer.
func (x *exchange) Read(p []byte) (int, error) {
	if x.content.err != nil {
		return 0, x.content.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := x.read(p)
	if err == nil && x.content.part == ended {
		if err = x.finish(); err == nil {
			err = io.EOF
		}
	} else if err != nil {
		err = x.fail(err)
	}
	x.content.err = err
	return n, err
}

// Ready reports whether a Read returns without waiting. It is for who reads.
func (x *exchange) Ready() bool {
	for x.content.part == chunkLine || x.content.part == chunkEnd {
		if more, err := x.advance(); more || err != nil {
			return err != nil // which comes again
		}
	}
	unread := x.conn.unread()
	if x.content.part == trailer {
		end, _, err := endOfHead(unread, 0, maxTrailer)
		return end > 0 || err != nil
	}
	return len(unread) > 0 || x.content.err != nil
}

// read reads without an end being told: then the part is ended.
func (x *exchange) read(p []byte) (int, error) {
	switch x.content.part {
	case sized:
		n, err := x.take(p)
		if x.content.left == 0 {
			x.content.part = ended
		}
		return n, err
	case unsized:
		return x.readUnsized(p)
	}
	return x.readChunks(p)
}

// take reads some of the next left bytes.
func (x *exchange) take(p []byte) (int, error) {
	c := x.conn
	p = p[:min(int64(len(p)), x.content.left)]
	var n int
	var err error
	switch {
	case len(c.unread()) == 0 && len(p) < usualRoom:
		if err = c.fill(); err != nil {
			break
		}
		fallthrough
	case len(c.unread()) > 0:
		n = copy(p, c.unread())
		c.skip(n)
	default:
		n, err = c.conn.Read(p)
	}
	x.content.left -= int64(n)
	if n > 0 {
		return n, nil // an error comes again
	}
	return 0, unexpected(err)
}

// readUnsized reads up to the end of the connection. Over TLS that has to be told:
// else whoever cuts the connection decides where the answer ends (RFC 9112, section
// 9.8).
func (x *exchange) readUnsized(p []byte) (int, error) {
	c := x.conn
	if unread := c.unread(); len(unread) > 0 {
		n := copy(p, unread)
		c.skip(n)
		return n, nil
	}
	n, err := c.conn.Read(p)
	switch {
	case n > 0:
		return n, nil
	case !errors.Is(err, io.EOF):
		return 0, err
	case c.socket != c.conn && c.socket.ended:
		return 0, io.ErrUnexpectedEOF
	}
	x.content.part = ended
	return 0, nil
}

// readChunks reads what is there of one or more chunks, and waits only for the
// first byte.
func (x *exchange) readChunks(p []byte) (n int, err error) {
	c := x.conn
	for n < len(p) && x.content.part != ended {
		if x.content.part == chunkData {
			if n > 0 && len(c.unread()) == 0 {
				return n, nil
			}
			m, err := x.take(p[n:])
			n += m
			if err != nil {
				return n, err
			}
			if x.content.left == 0 {
				x.content.part = chunkEnd
			}
			continue
		}
		more, err := x.advance()
		switch {
		case err != nil:
			return n, err
		case !more:
		case n > 0:
			return n, nil
		default:
			if err := c.fill(); err != nil {
				return n, unexpected(err)
			}
		}
	}
	return n, x.endChunks()
}

// endChunks goes on to the end of the body if it is there, for the sake of telling
// it with the last bytes.
func (x *exchange) endChunks() error {
	for x.content.part == chunkEnd || x.content.part == chunkLine || x.content.part == trailer {
		if more, err := x.advance(); more || err != nil {
			return err
		}
	}
	return nil
}

// advance reads what stands between the data of chunks, and reports whether more
// has to come for that.
func (x *exchange) advance() (more bool, err error) {
	switch x.content.part {
	case chunkLine:
		return x.readChunkLine()
	case chunkEnd:
		return x.readChunkEnd()
	}
	return x.readTrailer()
}

// mostIdle bounds what the chunks of a body may cost beyond what they carry. Those
// of one byte are no attack, and those that are all extension are.
const mostIdle = 16 << 10

func (x *exchange) readChunkLine() (more bool, err error) {
	unread := x.conn.unread()
	end := bytes.IndexByte(unread, '\n') + 1
	switch {
	case end > maxChunkLine || end == 0 && len(unread) > maxChunkLine:
		return false, Malformed("a chunk begins with a line that is too long")
	case end == 0:
		return true, nil
	}
	size, err := chunkSize(unread[:end])
	if err != nil {
		return false, err
	}
	idle := max(x.content.idle+end-16-int(min(size, mostIdle)), 0)
	if idle > mostIdle {
		return false, Malformed("chunks carry less than they cost")
	}
	x.conn.skip(end)
	x.content.part, x.content.left, x.content.idle = chunkData, size, idle
	if size == 0 {
		x.content.part = trailer
	}
	return false, nil
}

func (x *exchange) readChunkEnd() (more bool, err error) {
	unread := x.conn.unread()
	switch {
	case len(unread) > 0 && unread[0] != '\r' || len(unread) > 1 && unread[1] != '\n':
		return false, Malformed("a chunk is longer than it says")
	case len(unread) < 2:
		return true, nil
	}
	x.conn.skip(2)
	x.content.part = chunkLine
	return false, nil
}

func (x *exchange) readTrailer() (more bool, err error) {
	end, _, err := endOfHead(x.conn.unread(), 0, maxTrailer)
	if err != nil || end == 0 {
		return err == nil, err
	}
	text := string(x.conn.unread()[:end])
	x.conn.skip(end)
	x.content.part = ended
	for count := 0; len(text) > 2; count++ {
		var line string
		line, text, _ = strings.Cut(text, "\r\n")
		if err := x.addTrailer(line); err != nil || count == maxFields {
			return false, Malformed("the trailer is malformed, or has too many fields")
		}
	}
	return false, nil
}

func (x *exchange) addTrailer(line string) error {
	name, value, err := splitField(line)
	if err != nil {
		return err
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if isFraming(name) {
		return Malformed("framing in a trailer")
	}
	if x.response.Trailer == nil {
		x.response.Trailer = http.Header{}
	}
	x.response.Trailer[name] = append(x.response.Trailer[name], value)
	return nil
}
