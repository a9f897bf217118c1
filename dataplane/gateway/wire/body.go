package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/internal/request"
)

// body is the body of a request. What is wrong with it fails reads with a
// *request.Error, from there on; so does every other error, deadlines included, as it is.
type body struct {
	answer  *Response
	trailer http.Header // announced; nil for none
	size    int64       // as announced; -1 for chunks
	over    atomic.Bool // it was read to its end, or there is none
	begun   atomic.Bool

	mu     sync.Mutex // held while it is read
	part   part
	left   int64 // of it, or of a chunk
	excess int   // bytes of chunks that are not their data, beyond what is usual
	err    error // of all further reads
	closed bool
}

// part is a part of a body, of which the rest of what was read is the beginning.
type part uint8

const (
	sized part = iota
	chunkLine
	chunkData
	chunkEnd
	trailer
)

// Whole reports whether all of the body, whose length was announced, has come, and none
// of it was read.
func (b *body) Whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.part == sized && !b.begun.Load() && int64(len(b.answer.conn.buf.bytes())) >= b.left
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	b.answer.proceed()
	return b.read(p)
}

// Close implements io.Closer. What was not read is dropped behind the answer.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// read is Read with mu held. Of chunks it reads as many as have come: who hands each on by
// itself works for nothing when they are small.
func (b *body) read(p []byte) (n int, err error) {
	b.begun.Store(true)
	for b.err == nil && (n == 0 || n < len(p) && b.ready()) {
		if b.part != sized && b.part != chunkData {
			b.fail(b.advance())
			continue
		}
		if len(p) == 0 {
			return 0, nil
		}
		read, err := b.readData(p[n:])
		n += read
		b.fail(err)
	}
	if n > 0 && b.part != sized {
		return n, nil // what is wrong behind it is for the next read
	}
	return n, b.err
}

// ready reports whether what follows within chunks has come already.
func (b *body) ready() bool {
	switch got := b.answer.conn.buf.bytes(); b.part {
	case chunkLine:
		return bytes.IndexByte(got, '\n') >= 0
	case chunkData:
		return len(got) > 0
	case chunkEnd:
		return len(got) >= 2
	}
	return false
}

// fail ends the body if there is an error, of which io.EOF is the good one.
func (b *body) fail(err error) {
	if err == nil {
		return
	}
	b.err = err
	switch c := b.answer.conn; {
	case errors.Is(err, io.EOF):
		if c.buf.empty() {
			c.buf.release()
		}
		b.over.Store(true)
		c.watch.bodyEnded()
	case isGone(err) && !isMalformed(err):
		b.answer.gone()
	}
}

func isMalformed(err error) bool {
	_, ok := errors.AsType[*request.Error](err)
	return ok
}

// readData reads what may be handed on as it is.
func (b *body) readData(p []byte) (n int, err error) {
	c := b.answer.conn
	p = p[:min(int64(len(p)), b.left)]
	if c.buf.empty() {
		c.reads.clear()
		if n, err = c.conn.Read(p); n > 0 {
			err = nil // it comes again
		}
	} else {
		n = copy(p, c.buf.bytes())
		c.buf.drop(n)
	}
	b.left -= int64(n)
	switch {
	case err != nil:
		return n, unexpected(err)
	case b.left > 0:
		return n, nil
	case b.part == sized:
		return n, io.EOF
	}
	b.part = chunkEnd
	return n, nil
}

// advance reads what stands between the data of chunks, or more of it.
func (b *body) advance() error {
	switch b.part {
	case chunkEnd:
		return b.readChunkEnd()
	case trailer:
		return b.readTrailer()
	}
	return b.readChunkLine()
}

// more reads more of the body into the buffer.
func (b *body) more() error {
	c := b.answer.conn
	c.reads.clear()
	return unexpected(c.buf.fill(c.conn))
}

// Bounds of what chunks may weigh beside their data (RFC 9112, section 7.1.1).
const (
	freeExcess = 16       // bytes for each chunk
	maxExcess  = 16 << 10 // bytes beyond that and twice the data, at any point
)

func (b *body) readChunkLine() error {
	buf := &b.answer.conn.buf
	end := bytes.IndexByte(buf.bytes(), '\n') + 1
	switch {
	case end > maxChunkLine || end == 0 && len(buf.bytes()) > maxChunkLine:
		return refusal(ReasonChunk, "a chunk begins with a line that is too long")
	case end == 0:
		return b.more()
	}
	size, err := chunkSize(string(buf.bytes()[:end]))
	if err != nil {
		return err
	}
	buf.drop(end)
	b.excess = max(0, b.excess+end-freeExcess-int(min(2*size, maxExcess)))
	if b.excess > maxExcess {
		return refusal(ReasonChunk, "the chunks are more than what is in them")
	}
	b.part, b.left = chunkData, size
	if size == 0 {
		b.part = trailer
	}
	return nil
}

func (b *body) readChunkEnd() error {
	buf := &b.answer.conn.buf
	switch got := buf.bytes(); {
	case len(got) < 2:
		return b.more()
	case got[0] != '\r' || got[1] != '\n':
		return refusal(ReasonChunk, "a chunk is longer than it says")
	}
	buf.drop(2)
	b.part = chunkLine
	return nil
}

func (b *body) readTrailer() error {
	buf := &b.answer.conn.buf
	end, _, refused := endOfHead(buf.bytes(), 0, maxTrailer)
	switch {
	case refused != nil:
		return refusal(ReasonTrailer, "the trailer is too large, or has a line that ends in LF alone")
	case end == 0:
		return b.more()
	}
	if err := readTrailer(string(buf.bytes()[:end]), b.trailer); err != nil {
		return err
	}
	buf.drop(end)
	return io.EOF
}

// tooMuch reports whether the rest of a body is more than would be read behind an answer.
func (b *body) tooMuch() bool {
	return !b.begun.Load() && b.size > lingerBytes
}

// end has nothing be read of the body any more, after what is left of it where keep says
// that the connection is used further. It reports whether its end was reached.
func (b *body) end(keep bool) bool {
	if b.over.Load() {
		return true
	}
	c := b.answer.conn
	c.reads.limit(lasting, lingerTime) // also for who reads it now
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if !keep || b.tooMuch() || b.answer.expects.Load() {
		return b.over.Load()
	}
	scratch := c.server.rooms.takeIn()
	defer c.server.rooms.in.Put(scratch)
	for dropped := 0; dropped < lingerBytes && b.err == nil; {
		n, _ := b.read(scratch[:])
		dropped += n
	}
	return b.over.Load()
}
