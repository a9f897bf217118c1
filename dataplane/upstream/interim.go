package upstream

import (
	"net/textproto"
	"sync"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// interim hands on what an endpoint says over HTTP/2 before it answers. net/http tells of it
// on the goroutine that reads for all requests of the connection, and leaves it to whoever
// listens how much that may be. So a hint, which may have to wait for a client, is told by
// another goroutine, and there is an end to them.
type interim struct {
	hint    Hint
	telling sync.WaitGroup // for the goroutine, if there is one

	mu    sync.Mutex
	count int
	line  []said // what is still to be told
	busy  bool   // there is a goroutine that tells it
	ended bool   // nothing more is told
	err   error  // why there will be no answer
}

// said is an answer before the answer.
type said struct {
	status int
	fields textproto.MIMEHeader
}

// add is an httptrace.ClientTrace's Got1xxResponse.
func (i *interim) add(status int, fields textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended || i.err != nil {
		return i.err
	}
	if i.count++; i.count > http1.MaxInterim {
		i.err = http1.Malformed("too many interim answers")
		return i.err
	}
	i.line = append(i.line, said{status, fields})
	if !i.busy {
		i.busy = true
		i.telling.Go(i.tell)
	}
	return nil
}

func (i *interim) tell() {
	for {
		s, ok := i.next()
		if !ok {
			return
		}
		if err := i.hint(s.status, s.fields); err != nil {
			i.fail(err)
		}
	}
}

func (i *interim) next() (s said, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.line) == 0 || i.err != nil {
		i.busy = false
		return said{}, false
	}
	s, i.line = i.line[0], i.line[1:]
	return s, true
}

func (i *interim) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = err
}

// end returns when all has been told, with why there is no answer, nil for nothing.
func (i *interim) end() error {
	i.mu.Lock()
	i.ended = true
	i.mu.Unlock()
	i.telling.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}
