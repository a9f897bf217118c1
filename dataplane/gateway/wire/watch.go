package wire

import (
	"sync"
	"time"
)

// watchAfter is how long a request may take before anybody looks whether its client is
// still there. Most have ended by then, and pay nothing for it.
const watchAfter = 25 * time.Millisecond

// watch notices that a client leaves while its request is answered: once the body has
// been read, it reads on.
type watch struct {
	conn *Conn

	mu    sync.Mutex
	timer *time.Timer   // nil before the first request
	over  *Response     // the request that is answered; nil for none
	due   bool          // it is time, but the body has not been read
	read  chan struct{} // closed when the read that is under way has ended; nil for none
}

// begin is for a request that is about to be answered.
func (w *watch) begin(over *Response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over, w.due = over, false
	switch {
	case over.upgrades: // what comes before the answer is refused
		w.due = true
		w.start()
	case w.timer == nil:
		w.timer = time.AfterFunc(watchAfter, w.look)
	default:
		w.timer.Reset(watchAfter)
	}
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = true
	w.start()
}

// bodyEnded says that nothing else reads the connection any more.
func (w *watch) bodyEnded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start()
}

// start begins to read, if that is due and possible. mu is held.
func (w *watch) start() {
	c := w.conn
	if !w.due || w.over == nil || w.read != nil || !w.over.body.over.Load() || c.held || !c.buf.empty() {
		return
	}
	w.due, w.read = false, make(chan struct{})
	c.reads.clear()
	go w.wait(w.over, w.read)
}

// wait waits for the client to leave, or to send what comes next.
func (w *watch) wait(over *Response, read chan struct{}) {
	defer close(read)
	c := w.conn
	n, err := c.conn.Read(c.early[:])
	c.held = n > 0
	switch {
	case n > 0 && over.upgrades:
		over.broken.Store(errEarly)
		over.gone()
	case n == 0 && isGone(err):
		over.gone()
	}
}

// end is for a request that was answered. When it returns, nothing reads.
func (w *watch) end() {
	w.mu.Lock()
	read := w.read
	w.over, w.read = nil, nil
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	if read == nil {
		return
	}
	w.conn.reads.interrupt()
	<-read
}
