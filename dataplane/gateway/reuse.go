package gateway

import (
	"net/http"
	"sync"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// exchanges holds *exchange: to make one, and to find out later that it is not used any
// more, costs as much as to decide on a request. It is safe for concurrent use.
type exchanges struct{ pool sync.Pool }

func (p *exchanges) get() *exchange {
	if x, ok := p.pool.Get().(*exchange); ok {
		return x
	}
	return &exchange{}
}

// put takes back an exchange that has ended and is alone.
func (p *exchanges) put(x *exchange) {
	x.room.clear()
	x.passage = passage{}
	p.pool.Put(x)
}

// room is what an exchange has for what it makes, and leaves to the next one.
type room struct {
	out    *http.Request // with the life of the exchange; nil before the first
	header http.Header   // of out
	answer http1.Room
	hint   upstream.Hint // of the exchange; nil before the first
	values [10]string    // lists of one
	used   int           // of values
}

// clear leaves nothing of a request in the room, but what the answer was made of.
func (m *room) clear() {
	const most = 32 // fields, beyond which room is not kept
	if len(m.header) > most {
		m.header = nil
	}
	clear(m.header)
	clear(m.values[:m.used])
	m.used = 0
}

// one makes a list of one value.
func (m *room) one(value string) []string {
	if m.used == len(m.values) {
		return []string{value}
	}
	m.used++
	list := m.values[m.used-1 : m.used : m.used]
	list[0] = value
	return list
}

// sends returns what is to be sent on, which lives as long as x.
func (x *exchange) sends() *http.Request {
	if x.room.out == nil {
		x.room.out = (&http.Request{}).WithContext(&x.life) // there is no other way to give it one
	}
	return x.room.out
}

// hint returns who is told of what comes before the answer.
func (x *exchange) hint() upstream.Hint {
	if x.room.hint == nil {
		x.room.hint = x.hints.pass
	}
	return x.room.hint
}

// plain is for an exchange that has ended well: it may be another request's soon if it was
// of the usual kind, of which nobody else keeps anything.
func (x *exchange) plain(answer *http.Response) {
	x.alone = x.sent == nil && x.handshake == nil && x.idle == nil && x.call.Attempts == 1 &&
		len(answer.Trailer) == 0 && x.trace.Attempts() == nil
}

// Released implements wire.Released.
func (x *exchange) Released() { x.gateway.exchanges.put(x) }
