package http1

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// wholeMost is the longest body that is read before the head is written, so that
// one write does for both.
const wholeMost = 16 << 10

// settleTime is how long an answer that has ended waits for the end of a request
// that is as good as sent, to keep the connection.
const settleTime = 50 * time.Millisecond

// upload sends the body of a request in a goroutine of its own: the answer may
// come before it has ended.
type upload struct {
	conn    *Conn
	request *http.Request
	chunked bool
	broken  func(error) // told of a body that cannot be read, or is not taken
	close   func()      // has the body not be read any more

	proceed chan bool     // says, once, whether the body is wanted; nil for at once
	done    chan struct{} // closed behind the last use of the connection
	last    atomic.Bool   // all of the body was read, and is written or being written
	err     error         // set before done
}

// uploads holds *[]byte for bodies on their way.
var uploads = sync.Pool{New: func() any {
	p := make([]byte, chunkRoom+32<<10+2)
	return &p
}}

// chunkRoom is what the line before a chunk may need.
const chunkRoom = 18

// run sends all of the body.
func (u *upload) run(patience time.Duration) {
	defer close(u.done)
	defer u.close()
	if u.err = u.wait(patience); u.err != nil {
		return
	}
	buffer, _ := uploads.Get().(*[]byte)
	defer uploads.Put(buffer)
	if u.err = u.copy(*buffer); isTimeout(u.err) {
		u.broken(u.err)
	}
}

// wait returns when the body is wanted, or nobody has said within patience that it
// is not.
func (u *upload) wait(patience time.Duration) error {
	if u.proceed == nil {
		return nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case wanted := <-u.proceed:
		if !wanted {
			return errUnwanted
		}
	case <-timer.C:
	}
	return nil
}

// decide says whether the body is wanted, if nobody has said it yet.
func (u *upload) decide(wanted bool) {
	if u == nil || u.proceed == nil {
		return
	}
	select {
	case u.proceed <- wanted:
	default:
	}
}

func (u *upload) copy(buffer []byte) error {
	left := u.request.ContentLength
	for {
		n, err := u.request.Body.Read(buffer[chunkRoom : len(buffer)-2])
		ended := errors.Is(err, io.EOF)
		left -= int64(n)
		switch {
		case err != nil && !ended:
			u.broken(err)
			return err
		case !u.chunked && (left < 0 || ended && left != 0):
			u.broken(errLength)
			return errLength
		case ended || !u.chunked && left == 0:
			u.last.Store(true)
		}
		if err := u.write(buffer, n, ended); err != nil || ended {
			return err
		}
	}
}

// write sends n bytes of the body that are in buffer, and the end.
func (u *upload) write(buffer []byte, n int, ended bool) error {
	piece := buffer[chunkRoom : chunkRoom+n]
	if u.chunked {
		piece = chunk(buffer, n)
		if ended {
			var err error
			if piece, err = appendEnd(piece, u.request.Trailer); err != nil {
				u.broken(err)
				return err
			}
		}
	}
	if len(piece) == 0 {
		return nil
	}
	_, err := u.conn.conn.Write(piece)
	return err
}

// chunk makes the n bytes that begin at chunkRoom a chunk, in place.
func chunk(buffer []byte, n int) []byte {
	if n == 0 {
		return buffer[:0]
	}
	var line [chunkRoom]byte
	size := append(strconv.AppendInt(line[:0], int64(n), 16), "\r\n"...)
	start := chunkRoom - len(size)
	copy(buffer[start:], size)
	return append(buffer[start:chunkRoom+n], "\r\n"...)
}

// appendEnd appends the last chunk, and the trailer.
func appendEnd(b []byte, trailer http.Header) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name, values := range trailer {
		for _, value := range values {
			var err error
			if b, err = appendField(b, name, value); err != nil {
				return nil, err
			}
		}
	}
	return append(b, "\r\n"...), nil
}

// settled reports whether all was sent. It waits only for what cannot take long. A
// nil upload has nothing to send.
func (u *upload) settled() bool {
	switch {
	case u == nil:
		return true
	case u.last.Load():
		timer := time.NewTimer(settleTime)
		defer timer.Stop()
		select {
		case <-u.done:
		case <-timer.C:
			return false
		}
	default:
		select {
		case <-u.done:
		default:
			return false
		}
	}
	return u.err == nil
}
