package wire_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/request"
)

// taken counts how often an answer was written.
type taken struct{ times int }

func (r *taken) Released() { r.times++ }

// What a request leaves behind is nothing that the next one has.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var by taken
		var first *wire.Response
		asked := 0
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			defer w.Release(&by)
			if asked++; asked == 1 {
				first = w
				r.Header["X-Mine"], r.Form = []string{"mine"}, map[string][]string{"mine": {"mine"}}
				w.UseHeader(http.Header{"X-Mine": {"mine"}})
				w.WriteHeader(http.StatusTeapot)
				return
			}
			if by.times != asked-1 {
				t.Errorf("%d answers were written before request %d", by.times, asked)
			}
			if len(r.Header) != 1 || r.Header.Get("Accept") != "text/plain" || r.Form != nil || r.URL.RawQuery != "x=1" || r.Context().Err() != nil {
				t.Errorf("the next request is %+v", r)
			}
			_, _ = io.WriteString(w, "yours")
		})
		k.say("POST /mine?of=mine HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-One: 2\r\nX-Two: 3\r\n\r\n")
		if res, _ := k.hear(); res.StatusCode != http.StatusTeapot || res.Header.Get("X-Mine") != "mine" {
			t.Errorf("heard %d, %v", res.StatusCode, res.Header)
		}
		synctest.Wait()
		if _, err := first.Write([]byte("late")); err == nil {
			t.Error("it is written to before it is another request's")
		}
		for range 3 {
			k.say(get + "Accept: text/plain\r\n\r\n")
			if res, body := k.hear(); res.StatusCode != http.StatusOK || body != "yours" || res.Header.Get("X-Mine") != "" {
				t.Errorf("heard %d, %q, %v", res.StatusCode, body, res.Header)
			}
		}
		_ = k.Close()
	})
}

// A Response that somebody may still know of is not used again, whatever its handler says.
func TestKnownAfterRelease(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		does func(r *http.Request)
	}{
		"a body":                  {post + "Content-Length: 4\r\n\r\nbody", func(*http.Request) {}},
		"chunks":                  {post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", func(*http.Request) {}},
		"a wait for the end":      {get + "\r\n", func(r *http.Request) { r.Context().Done() }},
		"a context that rests on": {get + "\r\n", func(r *http.Request) { _, cancel := context.WithCancel(r.Context()); cancel() }},
	} {
		synctest.Test(t, func(t *testing.T) {
			var known []*wire.Response
			k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
				known = append(known, w)
				c.does(r)
				w.Release(&taken{})
			})
			for range 2 {
				k.say(c.says)
				k.hear()
			}
			if len(known) != 2 || known[0] == known[1] {
				t.Errorf("%s: it was used again", name)
			}
			_ = k.Close()
		})
	}
}
