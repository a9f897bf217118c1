package wire

import "net/http"

// Released is told that an answer was written, or will not be: what its handler has
// given it is of no use to it any more.
type Released interface{ Released() }

// Release is for a handler that is about to return, and of whose request nobody else
// knows then: what it was given becomes that of another request. by is told once what it
// has given in turn can be used again, unless the handler panics.
func (w *Response) Release(by Released) { w.by = by }

// release tells so.
func (w *Response) release() {
	if w.by != nil {
		w.by.Released()
	}
}

// isOurs reports whether nobody can know of w any more. Of a body somebody may, who has
// not noticed yet that it is closed.
func (w *Response) isOurs() bool {
	f := &w.asked.fields
	return w.by != nil && !f.chunked && f.length <= 0 && !w.upgrades && !w.timed.Load() && w.context.Alone()
}

// takeResponse returns a Response that has ended, with a request that is blank but for
// its context, and with room for a head.
func (r *rooms) takeResponse() *Response {
	if w, ok := r.responses.Get().(*Response); ok {
		return w
	}
	w := &Response{}
	w.ended.Store(true)
	w.request = (&http.Request{}).WithContext(&w.context) // there is no other way to give it one
	w.blank = *w.request
	return w
}

// giveResponse takes back a Response that is ours. Who uses it nevertheless is told that
// it has ended, for as long as that is so.
func (r *rooms) giveResponse(w *Response) {
	w.reply, w.asked, *w.request = reply{}, w.asked.blank(), w.blank
	w.ended.Store(true)
	r.responses.Put(w)
}
