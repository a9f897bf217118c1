package wire

import (
	"net/http"
	"net/url"
	"strings"
)

// exchange makes what a handler gets for the head that w has; the zero head stands for a
// refused one.
func (c *Conn) exchange(w *Response) *http.Request {
	h := &w.asked
	f, r := &h.fields, w.request
	w.conn, w.length, w.head = c, -1, h.method == http.MethodHead
	w.closes, w.upgrades = f.closes || f.upgrades, f.upgrades
	r.Method, r.Host, r.RequestURI, r.URL = h.method, h.host, h.target, w.setURL(h.target)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.Header, r.Close, r.Body = h.header, f.closes, http.NoBody
	b := &w.body
	b.answer, b.size = w, f.length
	switch {
	case h.header == nil:
		r.Header = http.Header{}
		b.over.Store(true)
	case f.chunked:
		r.Body, r.ContentLength, r.TransferEncoding, b.part = b, -1, []string{"chunked"}, chunkLine
		r.Trailer = announced(h)
		b.trailer = r.Trailer
	case f.length > 0:
		r.Body, r.ContentLength, b.part, b.left = b, f.length, sized, f.length
	default:
		b.over.Store(true)
	}
	w.expects.Store(f.expects && !b.over.Load())
	w.ended.Store(false)
	return r
}

// announced returns the names of what comes behind a body of chunks, nil for nothing.
func announced(h *head) http.Header {
	delete(h.header, "Trailer")
	if len(h.fields.trailer) == 0 {
		return nil
	}
	t := make(http.Header, len(h.fields.trailer))
	for _, name := range h.fields.trailer {
		t[name] = nil
	}
	return t
}

// setURL makes the URL of a plain target.
func (w *Response) setURL(target string) *url.URL {
	path, query, found := strings.Cut(target, "?")
	if strings.IndexByte(path, '%') < 0 && !strings.HasPrefix(path, "//") {
		w.url = url.URL{Path: path, RawQuery: query, ForceQuery: found && query == ""}
	} else if u, err := url.ParseRequestURI(target); err == nil { // as isPlainTarget has seen to
		w.url = *u
	}
	return &w.url
}
