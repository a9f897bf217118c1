package gateway

import (
	"errors"
	"io"
	"sync"
)

// side is one end of a tunnel.
type side struct {
	io.ReadWriter
	closeWrite func() error
	reason     string // of an outcome, when it leaves without a word
}

// direction carries the bytes of a WebSocket from one side to the other, and can end
// them with a frame of our own, which is never put into another one.
type direction struct {
	from, to *side
	idle     *idle // nil for none

	mu     sync.Mutex // held while to is written to
	frames frames
	count  int64
	last   []byte // what to end with when the frame under way is whole
	ending bool   // last is set
	ended  bool   // nothing is written any more
}

// directionBuffer is small: a WebSocket that says nothing costs two of them.
const directionBuffer = 4 << 10

// run carries until a side leaves, and says which one, and why if it was not in
// order.
func (d *direction) run() (*side, error) {
	buffer := make([]byte, directionBuffer)
	for {
		n, err := d.from.Read(buffer)
		if n > 0 {
			d.idle.touch()
			if err := d.write(buffer[:n]); err != nil {
				return d.to, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return d.from, nil
		case err != nil:
			return d.from, err
		}
	}
}

// write hands p on, but for what comes after the end: that is read, so that the
// side which sends it can read that it is the end, and dropped.
func (d *direction) write(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
		return nil
	case d.ending:
		p = p[:d.frames.finish(p)]
	default:
		d.frames.see(p)
	}
	n, err := d.to.Write(p)
	d.count += int64(n)
	switch {
	case err != nil:
		d.ended = true
	case d.ending && d.frames.between():
		d.conclude()
	}
	return err
}

// finishBytes bounds what is still carried of a frame for the sake of ending in
// order.
const finishBytes = 64 << 10

// close ends the direction with a frame, after the one that is under way, and
// reports whether it can be hoped to come to an end.
func (d *direction) close(frame []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.ending {
		return true
	}
	d.ending = true
	if !d.frames.closes { // nothing follows that
		d.last = frame
	}
	switch {
	case d.frames.between():
		d.conclude()
	case d.frames.left > finishBytes:
		d.ended = true
		return false
	}
	return true
}

// prepare has the direction end with a frame, if none is under way, even when the side
// that it comes from leaves before stop is called. It waits for no write.
func (d *direction) prepare(frame []byte) {
	if !d.mu.TryLock() {
		return
	}
	defer d.mu.Unlock()
	if !d.ended && d.frames.between() && !d.frames.closes {
		d.last, d.ending = frame, true
	}
}

// stop ends the direction where it is, with a frame if none is under way.
func (d *direction) stop(frame []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	if d.frames.between() && !d.frames.closes {
		d.last = frame
	}
	d.conclude()
}

// conclude writes the last frame. Whoever does not hear it is cut off.
func (d *direction) conclude() {
	d.ended = true
	if _, err := d.to.Write(d.last); err == nil {
		_ = d.to.closeWrite()
	}
}

// shut tells the side that is written to that the other one has left.
func (d *direction) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
	case d.ending && d.frames.between():
		d.conclude()
	default:
		d.ended = true
		_ = d.to.closeWrite() // it may have left as well
	}
}

func (d *direction) carried() (bytes int64, closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count, d.frames.closes
}
