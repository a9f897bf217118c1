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

// lane carries the bytes of a WebSocket from one side to the other, and can end
// them with a frame of our own, which is never put into another one.
type lane struct {
	from, to *side

	mu     sync.Mutex // held while to is written to
	frames frames
	count  int64
	last   []byte // what to end with when the frame under way is whole
	ending bool   // last is set
	ended  bool   // nothing is written any more
}

// laneBuffer is small: a WebSocket that says nothing costs two of them.
const laneBuffer = 4 << 10

// run carries until a side leaves, and says which one, and why if it was not in
// order.
func (l *lane) run() (*side, error) {
	buffer := make([]byte, laneBuffer)
	for {
		n, err := l.from.Read(buffer)
		if n > 0 {
			if err := l.write(buffer[:n]); err != nil {
				return l.to, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return l.from, nil
		case err != nil:
			return l.from, err
		}
	}
}

// write hands p on, but for what comes after the end: that is read, so that the
// side which sends it can read that it is the end, and dropped.
func (l *lane) write(p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return nil
	case l.ending:
		p = p[:l.frames.finish(p)]
	default:
		l.frames.see(p)
	}
	n, err := l.to.Write(p)
	l.count += int64(n)
	switch {
	case err != nil:
		l.ended = true
	case l.ending && l.frames.between():
		l.conclude()
	}
	return err
}

// finishBytes bounds what is still carried of a frame for the sake of ending in
// order.
const finishBytes = 64 << 10

// close ends the lane with a frame, after the one that is under way, and
// reports whether it can be hoped to come to an end.
func (l *lane) close(frame []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.ending {
		return true
	}
	l.ending = true
	if !l.frames.closes { // nothing follows that
		l.last = frame
	}
	switch {
	case l.frames.between():
		l.conclude()
	case l.frames.left > finishBytes:
		l.ended = true
		return false
	}
	return true
}

// prepare has the lane end with a frame, if none is under way, even when the side
// that it comes from leaves before stop is called. It waits for no write.
func (l *lane) prepare(frame []byte) {
	if !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	if !l.ended && l.frames.between() && !l.frames.closes {
		l.last, l.ending = frame, true
	}
}

// stop ends the lane where it is, with a frame if none is under way.
func (l *lane) stop(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.frames.between() && !l.frames.closes {
		l.last = frame
	}
	l.conclude()
}

// conclude writes the last frame. Whoever does not hear it is cut off.
func (l *lane) conclude() {
	l.ended = true
	if _, err := l.to.Write(l.last); err == nil {
		_ = l.to.closeWrite()
	}
}

// shut tells the side that is written to that the other one has left.
func (l *lane) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
	case l.ending && l.frames.between():
		l.conclude()
	default:
		l.ended = true
		_ = l.to.closeWrite() // it may have left as well
	}
}

func (l *lane) carried() (bytes int64, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count, l.frames.closes
}
