package gateway

import (
	"context"
	"errors"
	"net"
	"runtime"
	"time"
)

// turnTime is how long a handshake may wait for its turn: by then its client has given
// up, or soon will.
const turnTime = 3 * time.Second

// turns bound the handshakes that are worked on at once. What they cost is the
// processor's time: as many as there are processors are all that gains anything, and
// leave time to the requests of those who are connected, however many come.
type turns struct {
	places chan struct{}
	wait   time.Duration
}

func newTurns() turns {
	return turns{places: make(chan struct{}, runtime.GOMAXPROCS(0)), wait: turnTime}
}

// greeting is a connection whose handshake is worked on when it is its turn. While it waits
// for its client it is somebody else's: those who say nothing keep nobody waiting. It is
// for the goroutine of the handshake.
type greeting struct {
	net.Conn
	turns *turns
	ctx   context.Context //nolint:containedctx // of the handshake, which is all that it is for
	taken bool
	over  bool // it took too long for its turn to come
}

// errTurn ends a handshake whose turn did not come in time.
var errTurn = errors.New("too many handshakes before this one")

// Read implements net.Conn.
func (g *greeting) Read(p []byte) (int, error) {
	g.give()
	n, err := g.Conn.Read(p)
	if err == nil {
		err = g.take()
	}
	return n, err
}

// Write implements net.Conn.
func (g *greeting) Write(p []byte) (int, error) {
	g.give()
	n, err := g.Conn.Write(p)
	if err == nil {
		err = g.take()
	}
	return n, err
}

// give lets others have their turn. It may be called again.
func (g *greeting) give() {
	if g.taken {
		<-g.turns.places
		g.taken = false
	}
}

func (g *greeting) take() error {
	select {
	case g.turns.places <- struct{}{}:
		g.taken = true
		return nil
	default:
	}
	late := time.NewTimer(g.turns.wait)
	defer late.Stop()
	select {
	case g.turns.places <- struct{}{}:
		g.taken = true
		return nil
	case <-late.C:
		g.over = true
		return errTurn
	case <-g.ctx.Done():
		return g.ctx.Err()
	}
}
