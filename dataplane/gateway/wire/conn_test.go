package wire_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/request"
)

var limits = wire.Timeouts{Head: 10 * time.Second, Idle: 2 * time.Minute, Write: time.Minute}

// talk is a conversation, in which no time passes but where all wait for it.
type talk struct {
	t      *testing.T
	server *wire.Server
	net.Conn
	answers *bufio.Reader
}

// converse is for a bubble of synctest.
func converse(t *testing.T, h wire.Handler) *talk {
	client, conn := net.Pipe()
	below := wire.NewSocket(conn)
	s := wire.NewServer(limits, slog.New(slog.DiscardHandler))
	s.Serve(below, below, h)
	return &talk{t, s, client, bufio.NewReader(client)}
}

func (k *talk) say(s string) {
	k.t.Helper()
	if s == "" {
		return // a pipe would wait for somebody to read nothing
	}
	if _, err := io.WriteString(k, s); err != nil {
		k.t.Fatal(err)
	}
}

// sayMeanwhile says s as far as it is listened to.
func (k *talk) sayMeanwhile(s string) {
	go func() { _, _ = io.WriteString(k, s) }()
}

// hear returns status and body of the next answer.
func (k *talk) hear() (*http.Response, string) {
	k.t.Helper()
	res, err := http.ReadResponse(k.answers, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return res, string(b)
}

// endsAfter says that the server ends the conversation so much later.
func (k *talk) endsAfter(least, most time.Duration) {
	k.t.Helper()
	began := time.Now()
	rest, err := io.ReadAll(k.answers)
	if took := time.Since(began); err != nil || len(rest) > 0 || took < least || took > most {
		k.t.Errorf("after %s: %v, %q, want it to end after %s to %s", took, err, rest, least, most)
	}
	_ = k.Close()
}

func ok(*wire.Response, *http.Request, *request.Error) {}

func TestSlowClients(t *testing.T) {
	for _, c := range []struct {
		says        string
		least, most time.Duration
	}{
		{"", 10 * time.Second, 12 * time.Second},
		{"G", 10 * time.Second, 10 * time.Second},
		{"GET / HT", 10 * time.Second, 10 * time.Second},
		{get + "\r\n", 2 * time.Minute, 3 * time.Minute},
		{get + "\r\nG", 10 * time.Second, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := converse(t, ok)
			k.say(c.says)
			if strings.HasPrefix(c.says, get) {
				k.hear()
			}
			k.endsAfter(c.least, c.most)
		})
	}
	synctest.Test(t, func(t *testing.T) { // one byte in nine seconds is too slow as well
		k := converse(t, ok)
		for range 2 {
			k.say("G")
			<-time.After(6 * time.Second)
		}
		k.endsAfter(0, 0)
	})
}

func TestClientThatStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan time.Duration)
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			began := time.Now()
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, 1<<20))
			}
			if !errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil {
				t.Errorf("%v, and the request goes on", err)
			}
			failed <- time.Since(began)
		})
		k.say(get + "\r\n")
		if took := <-failed; took > time.Minute {
			t.Errorf("it took %s", took)
		}
		_ = k.Close()
	})
}

// A client that leaves is noticed, once its request has been read, and not before it
// matters; what it says before its answer is kept.
func TestClientLeaves(t *testing.T) {
	for _, sends := range []string{get + "\r\n", post + "Content-Length: 4\r\n\r\nbody"} {
		synctest.Test(t, func(t *testing.T) {
			gone := make(chan struct{})
			k := converse(t, func(_ *wire.Response, r *http.Request, _ *request.Error) {
				_, _ = io.Copy(io.Discard, r.Body)
				context.AfterFunc(r.Context(), func() { close(gone) })
				<-gone
			})
			k.say(sends)
			_ = k.Close()
			<-gone
		})
	}
	synctest.Test(t, func(t *testing.T) { // in the middle of a body
		ended := make(chan error)
		k := converse(t, func(_ *wire.Response, r *http.Request, _ *request.Error) {
			_, err := io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			ended <- err
		})
		k.say(post + "Content-Length: 5\r\n\r\nbody")
		_ = k.Close()
		if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // while it is sent what it does not wait for
		ended := make(chan error)
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("data: 1\n\n"))
				w.Flush()
			}
			ended <- r.Context().Err()
		})
		k.say(get + "\r\n")
		_, _ = k.Read(make([]byte, 10))
		_ = k.Close()
		if err := <-ended; err == nil {
			t.Error("the request goes on")
		}
	})
}

func TestSlowHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			body, _ := io.ReadAll(r.Body)
			<-time.After(5 * time.Minute)
			if r.Context().Err() != nil {
				t.Error("the client is there")
			}
			_, _ = w.Write(append(body, '!'))
		})
		for range 3 { // one after the other
			k.say(post + "Content-Length: 4\r\n\r\nbody")
			if res, body := k.hear(); body != "body!" || res.Close {
				t.Errorf("heard %q", body)
			}
		}
		k.say(get + "\r\n")
		k.sayMeanwhile(get + "Connection: close\r\n\r\n") // before the answer to the first
		for range 2 {
			if _, body := k.hear(); body != "!" {
				t.Errorf("heard %q", body)
			}
		}
		k.endsAfter(0, 0)
	})
}

// A body has no time of its own, but for what its handler gives it.
func TestSlowBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			_, _ = io.Copy(w, r.Body)
		})
		k.say(post + "Content-Length: 2\r\n\r\n")
		for range 2 {
			<-time.After(time.Hour)
			k.say("x")
		}
		if _, body := k.hear(); body != "xx" {
			t.Errorf("heard %q", body)
		}
		_ = k.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			_ = w.SetReadDeadline(time.Now().Add(time.Second))
			_, err := io.Copy(io.Discard, r.Body)
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() || r.Context().Err() != nil {
				t.Errorf("%v, and the request is %v", err, r.Context().Err())
			}
		})
		k.say(post + "Content-Length: 2\r\n\r\nx")
		k.hear()
		k.endsAfter(0, time.Second)
	})
}

// What a handler does not read of a body is read behind the answer, if it comes soon and
// is not much; else the connection ends.
func TestBodiesThatAreNotRead(t *testing.T) {
	const most = 256 << 10
	for _, c := range []struct {
		name, sends, more string
		close, goesOn     bool
	}{
		{"short", post + "Content-Length: 4\r\n\r\nbody", "", false, true},
		{"late", post + "Content-Length: 4\r\n\r\n", "body", false, true},
		{"chunks", post + "Transfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n", false, true},
		{"never", post + "Content-Length: 4\r\n\r\n", "", false, false},
		{"too long", post + "Content-Length: 262145\r\n\r\n", strings.Repeat("x", most/2), true, false},
		{"malformed", post + "Transfer-Encoding: chunked\r\n\r\n", "zz\r\n" + get + "\r\n", false, false},
		{"not asked for", post + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", "", true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := converse(t, func(w *wire.Response, _ *http.Request, _ *request.Error) { _, _ = io.WriteString(w, "done") })
			k.say(c.sends)
			res, body := k.hear()
			if res.Close != c.close || body != "done" {
				t.Errorf("%s: heard %q, close %t", c.name, body, res.Close)
			}
			if !c.goesOn {
				k.sayMeanwhile(c.more)
				k.endsAfter(0, time.Second)
				return
			}
			k.say(c.more)
			k.say(get + "\r\n")
			if _, body := k.hear(); body != "done" {
				t.Errorf("%s: heard %q", c.name, body)
			}
			_ = k.Close()
		})
	}
}

func TestContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) { _, _ = io.Copy(w, r.Body) })
		k.say(post + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		if res, _ := k.hear(); res.StatusCode != http.StatusContinue {
			t.Errorf("heard %s", res.Status)
		}
		k.say("body")
		if res, body := k.hear(); body != "body" || res.Close {
			t.Errorf("heard %q", body)
		}
		_ = k.Close()
	})
	synctest.Test(t, func(t *testing.T) { // who has an answer is not told to go on
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			_, _ = io.WriteString(w, "no ")
			w.Flush()
			_, _ = io.Copy(w, r.Body)
		})
		k.say(post + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		k.sayMeanwhile("body")
		if res, body := k.hear(); body != "no body" || !res.Close {
			t.Errorf("heard %q, close %t", body, res.Close)
		}
		_ = k.Close()
	})
}

// Nothing of a request may be used when it has ended.
func TestAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept *http.Request
		var answer *wire.Response
		k := converse(t, func(w *wire.Response, r *http.Request, _ *request.Error) {
			if kept == nil {
				kept, answer = r, w
			}
		})
		k.say(post + "Content-Length: 4\r\n\r\nbody")
		k.hear()
		k.say(post + "Content-Length: 4\r\n\r\n")
		if n, err := kept.Body.Read(make([]byte, 10)); n > 0 || !errors.Is(err, http.ErrBodyReadAfterClose) || kept.Context().Err() == nil {
			t.Errorf("%d bytes, %v, context %v", n, err, kept.Context().Err())
		}
		_, err := answer.Write([]byte("more"))
		if err == nil || answer.FlushError() == nil || answer.SetReadDeadline(time.Now()) == nil || answer.SetWriteDeadline(time.Now()) == nil {
			t.Error("the answer goes on")
		}
		answer.Cut()
		k.hear()
		k.say("body")
		k.say(get + "\r\n")
		k.hear()
		_ = k.Close()
	})
}

func switching(t *testing.T, before func()) wire.Handler {
	return func(w *wire.Response, r *http.Request, refused *request.Error) {
		if refused != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		before()
		c, err := w.Switch()
		if err != nil {
			if (w.Broken() != nil) != (r.Context().Err() != nil) {
				t.Errorf("broken %v, and the request is %v", w.Broken(), r.Context().Err())
			}
			w.WriteHeader(http.StatusConflict)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		_, _ = io.Copy(c, c)
	}
}

// Behind a wish for another protocol nothing is handed on, unless it is granted,
// and then as it comes.
func TestSwitch(t *testing.T) {
	const upgrade = get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	synctest.Test(t, func(t *testing.T) {
		k := converse(t, switching(t, func() {}))
		k.say(get + "\r\n")
		if res, _ := k.hear(); res.StatusCode != http.StatusConflict {
			t.Errorf("nobody has asked for another protocol: %s", res.Status)
		}
		k.say(upgrade)
		if res, _ := k.hear(); res.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("heard %s", res.Status)
		}
		for _, s := range []string{"\x81\x02ok", get + "\r\n", "X : y\n"} {
			k.sayMeanwhile(s)
			got := make([]byte, len(s))
			if _, err := io.ReadFull(k.answers, got); err != nil || string(got) != s {
				t.Errorf("heard %q, %v", got, err)
			}
		}
		_ = k.Close()
	})
	synctest.Test(t, func(t *testing.T) { // before the answer
		k := converse(t, switching(t, func() { <-time.After(time.Second) }))
		k.say(upgrade)
		k.sayMeanwhile(get + "\r\n")
		if res, _ := k.hear(); res.StatusCode != http.StatusConflict || !res.Close {
			t.Errorf("heard %s", res.Status)
		}
		k.endsAfter(0, time.Second)
	})
	synctest.Test(t, func(t *testing.T) { // with the question
		k := converse(t, switching(t, func() {}))
		k.say(upgrade + get + "\r\n")
		if res, _ := k.hear(); res.StatusCode != http.StatusBadRequest || !res.Close {
			t.Errorf("heard %s", res.Status)
		}
		k.endsAfter(0, time.Second)
	})
}

func TestShutdown(t *testing.T) {
	for name, c := range map[string]struct {
		says   string // before
		within time.Duration
		least  time.Duration
	}{
		"nothing has come":  {"", time.Minute, 5 * time.Second},
		"between requests":  {get + "\r\n", time.Minute, 0},
		"in a request":      {get + "X-Slow: 1\r\n\r\n", time.Minute, 10 * time.Second},
		"in a long request": {get + "X-Slow: 1\r\n\r\n", time.Second, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := converse(t, func(_ *wire.Response, r *http.Request, _ *request.Error) {
				if r.Header.Get("X-Slow") != "" {
					<-time.After(10 * time.Second)
				}
			})
			slow := strings.Contains(c.says, "Slow")
			k.say(c.says)
			if c.says != "" && !slow {
				k.hear()
			}
			synctest.Wait()
			began := time.Now()
			ended := make(chan error)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), c.within)
				defer cancel()
				ended <- k.server.Shutdown(ctx)
			}()
			if slow {
				if res, _ := k.hear(); !res.Close {
					t.Errorf("%s: the connection seems to go on", name)
				}
			}
			k.endsAfter(0, time.Minute)
			took := time.Since(began)
			if err := <-ended; (err != nil) != (c.within < c.least || slow && c.within < 10*time.Second) || took < c.least || took > c.least+10*time.Second {
				t.Errorf("%s: %v, after %s", name, err, took)
			}
			k.server.Close()
		})
	}
}

// A connection that comes too late is closed.
func TestServeAfterTheEnd(t *testing.T) {
	s := wire.NewServer(limits, slog.New(slog.DiscardHandler))
	s.Close()
	client, conn := net.Pipe()
	below := wire.NewSocket(conn)
	s.Serve(below, below, ok)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
