package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

// mixed are requests of each kind that ends otherwise: what is made for one must not be
// found in another one, whatever came between.
var mixed = []func(r *http.Request) (ends bool){
	func(*http.Request) bool { return true },
	func(r *http.Request) bool { r.Header.Set("X-Wants", "trailer"); return true },
	func(r *http.Request) bool {
		r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("body"))
		return true
	},
	func(r *http.Request) bool { r.Header.Set("X-Wants", "nothing"); return true },
	func(r *http.Request) bool { r.Header.Del("Authorization"); return true },
	func(r *http.Request) bool { r.Header.Set("X-Wants", "cut"); return false },
	func(r *http.Request) bool { r.Header.Set("X-Wants", "time"); return false },
	func(r *http.Request) bool { r.Method = "HEAD"; return true },
}

// marks answers with the mark of the request alone, in the way that it wants.
func marks(w http.ResponseWriter, r *http.Request) {
	mark := r.Header.Values("X-Mark")
	w.Header().Set("X-Mark-"+r.URL.Query().Get("mark"), strings.Join(mark, ","))
	switch r.Header.Get("X-Wants") {
	case "trailer":
		w.Header().Set("Trailer", "X-Last")
		fmt.Fprint(w, mark)
		w.Header().Set("X-Last", mark[0])
	case "nothing":
		w.WriteHeader(http.StatusNoContent)
	case "cut":
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, mark)
	case "time":
		<-r.Context().Done()
	default:
		fmt.Fprint(w, mark)
	}
}

// Requests that follow on one another, on as many connections at once, have nothing of each
// other, while streams are looked at and some are closed.
func TestNothingIsLeftOfARequest(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(marks)
	w.apply(w.usual(plaintext(up.address())))
	token := w.tokens.sign(nil)
	ctx, end := context.WithCancel(t.Context())
	var looks, asks sync.WaitGroup
	looks.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			w.gateway.CloseStreams(func(*gateway.Stream) bool { return n%50 == 0 }, revoked)
			<-tick.C
		}
	})
	for client := range 8 {
		c := w.client(client%4 == 3, w.tls(host))
		asks.Go(func() {
			for n := range 60 {
				if err := askMarked(t.Context(), c, token, fmt.Sprintf("%d-%d", client, n), mixed[(client+n)%len(mixed)]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	asks.Wait()
	end()
	looks.Wait()
	if n := up.requests.Load(); n < 300 {
		t.Errorf("only %d requests have got to the upstream", n)
	}
}

func askMarked(ctx context.Context, c *http.Client, token, mark string, kind func(*http.Request) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+"/v1/orders/7?mark="+mark, nil)
	if err != nil {
		return err
	}
	r.Header = http.Header{"X-Mark": {mark}, "Authorization": {"Bearer " + token}}
	ends := kind(r)
	if r.Header.Get("X-Wants") == "time" {
		time.AfterFunc(5*time.Millisecond, cancel)
	}
	res, err := c.Do(r)
	if err != nil {
		return nil // it was closed, or had no time
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil, res.StatusCode >= 400 && res.Header.Get("X-Mark-"+mark) == "":
		return nil // it was closed, or denied
	case !ends:
		return errors.New(mark + " is whole")
	}
	for name := range res.Header {
		if strings.HasPrefix(name, "X-Mark-") && name != "X-Mark-"+mark {
			return fmt.Errorf("%s got %s", mark, name)
		}
	}
	if got := res.Header.Get("X-Mark-" + mark); got != mark {
		return fmt.Errorf("%s was asked as %q", mark, got)
	}
	if r.Method != "HEAD" && res.StatusCode == http.StatusOK && string(body) != "["+mark+"]" {
		return fmt.Errorf("%s was answered with %q", mark, body)
	}
	if last := res.Trailer.Get("X-Last"); (last != "") != (r.Header.Get("X-Wants") == "trailer") || last != "" && last != mark {
		return fmt.Errorf("%s ended with %q", mark, last)
	}
	return nil
}
