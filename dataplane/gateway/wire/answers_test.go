package wire_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/request"
)

// front serves one end of a pipe.
type front func(net.Conn, http.Handler) (stop func())

func ours(conn net.Conn, h http.Handler) (stop func()) {
	s := wire.NewServer(wire.Timeouts{}, slog.New(slog.DiscardHandler))
	below := wire.NewSocket(conn)
	s.Serve(below, below, func(w *wire.Response, r *http.Request, _ *request.Error) { h.ServeHTTP(w, r) })
	return s.Close
}

func standard(conn net.Conn, h http.Handler) (stop func()) {
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	l := &one{conn: conn, closed: make(chan struct{})}
	go func() { _ = s.Serve(l) }()
	return func() { _ = s.Close() }
}

// one is a listener of one connection.
type one struct {
	once   sync.Once
	conn   net.Conn
	closed chan struct{}
	over   sync.Once
}

func (l *one) Accept() (conn net.Conn, err error) {
	l.once.Do(func() { conn = l.conn })
	if conn == nil {
		<-l.closed
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *one) Close() error {
	l.over.Do(func() { close(l.closed) })
	return nil
}

func (*one) Addr() net.Addr { return &net.TCPAddr{} }

// told returns what a client is told that sends all of a text, and then waits.
func told(f front, sends string, h http.HandlerFunc) (all string) {
	client, server := net.Pipe()
	stop := f(server, h)
	go func() { _, _ = io.WriteString(client, sends) }()
	got := make(chan string)
	go func() {
		b, _ := io.ReadAll(client)
		got <- string(b)
	}()
	synctest.Wait()
	stop()
	return <-got
}

// answerOf is one answer in words, in which nothing is left to chance.
func answerOf(in *bufio.Reader, method string) (string, error) {
	var head []string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == "\r\n" {
			break
		}
		if strings.HasPrefix(line, "Date: ") {
			line = "Date: today\r\n"
		}
		head = append(head, line)
	}
	slices.Sort(head[1:])
	text := strings.Join(head, "")
	res, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(text+"\r\n"), in)), &http.Request{Method: method})
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%s%q %v %v", text, body, err, res.Trailer), nil
}

func answersOf(t *testing.T, all, method string) []string {
	t.Helper()
	// An answer is read from what is left, byte by byte, so that nothing is lost.
	in := bufio.NewReader(strings.NewReader(all))
	var answers []string
	for {
		a, err := answerOf(in, method)
		if err != nil {
			return answers
		}
		answers = append(answers, a)
	}
}

// What net/http's server answers for a handler is answered here as well.
func TestAnswers(t *testing.T) {
	kind := func(w http.ResponseWriter) http.Header {
		h := w.Header()
		h["Content-Type"] = []string{"text/plain"} // which net/http would guess
		return h
	}
	write := func(w http.ResponseWriter, s string) { _, _ = io.WriteString(w, s) }
	flush := func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
	for name, h := range map[string]http.HandlerFunc{
		"nothing":     func(http.ResponseWriter, *http.Request) {},
		"a body":      func(w http.ResponseWriter, _ *http.Request) { kind(w); write(w, "answer") },
		"two parts":   func(w http.ResponseWriter, _ *http.Request) { kind(w); write(w, "ans"); write(w, "wer") },
		"a status":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
		"no name":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(599) },
		"two":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(404) },
		"too late":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.Header()["X-Late"] = []string{"1"} },
		"values":      func(w http.ResponseWriter, _ *http.Request) { w.Header()["X-A"] = []string{"1", " 2 ", ""} },
		"no date":     func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil },
		"line breaks": func(w http.ResponseWriter, _ *http.Request) { w.Header()["X-A"] = []string{"a\r\nX-B: c"} },
		"bad names":   func(w http.ResponseWriter, _ *http.Request) { w.Header()["X A"] = []string{"1"} },
		"a length": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)["Content-Length"] = []string{"6"}
			write(w, "ans")
			flush(w)
			write(w, "wer")
		},
		"too short": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)["Content-Length"] = []string{"7"}
			write(w, "answer")
		},
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)["Content-Length"] = []string{"5"}
			write(w, "ans")
			write(w, "wer")
		},
		"chunks":    func(w http.ResponseWriter, _ *http.Request) { kind(w); write(w, "ans"); flush(w); write(w, "wer") },
		"no chunks": func(w http.ResponseWriter, _ *http.Request) { kind(w); flush(w) },
		"much":      func(w http.ResponseWriter, _ *http.Request) { kind(w); write(w, strings.Repeat("x", 100<<10)) },
		"much in pieces": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)
			for range 3000 {
				write(w, "0123456789")
			}
		},
		"much with a length": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)["Content-Length"] = []string{"100003"}
			write(w, "abc")
			write(w, strings.Repeat("x", 100_000))
		},
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204); write(w, "answer") },
		"not modified": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)["Content-Length"] = []string{"6"}
			w.WriteHeader(304)
		},
		"hints": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Link"] = []string{"</a>; rel=preload"}
			w.WriteHeader(http.StatusEarlyHints)
			delete(w.Header(), "Link")
			kind(w)
			write(w, "answer")
		},
		"closes": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)["Connection"] = []string{"close"}
			write(w, "answer")
		},
		"trailers": func(w http.ResponseWriter, _ *http.Request) {
			h := kind(w)
			h["Trailer"] = []string{"X-Sum, X-Missing"}
			write(w, "answer")
			h["X-Sum"] = []string{"1"}
			h[http.TrailerPrefix+"X-Surprise"] = []string{"2"}
		},
		"surprises": func(w http.ResponseWriter, _ *http.Request) {
			h := kind(w)
			write(w, "answer")
			flush(w)
			h[http.TrailerPrefix+"X-Surprise"] = []string{"2"}
		},
		"reads": func(w http.ResponseWriter, r *http.Request) { kind(w); _, _ = io.Copy(w, r.Body) },
		"reads late": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex() // here it always is
			kind(w)
			write(w, "first ")
			flush(w)
			_, _ = io.Copy(w, r.Body)
		},
		"breaks off": func(w http.ResponseWriter, _ *http.Request) { kind(w); write(w, "ans"); panic(http.ErrAbortHandler) },
		"breaks off later": func(w http.ResponseWriter, _ *http.Request) {
			kind(w)
			write(w, "ans")
			flush(w)
			panic(http.ErrAbortHandler)
		},
	} {
		for _, sends := range []string{
			get + "\r\n", get + "Connection: close\r\n\r\n", strings.Replace(get, "GET", "HEAD", 1) + "\r\n",
			post + "Content-Length: 4\r\n\r\nbody", post + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
			get + "\r\n" + get + "\r\n", post + "Content-Length: 4\r\n\r\nbody" + get + "\r\n",
		} {
			method, _, _ := strings.Cut(sends, " ")
			if method == "HEAD" && strings.HasPrefix(name, "much") {
				continue // net/http forgets how much it would have been
			}
			t.Run(name+" to "+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got, want := answersOf(t, told(ours, sends, h), method), answersOf(t, told(standard, sends, h), method)
					if !slices.Equal(got, want) {
						t.Errorf("to %q the answer is\n%s\nand not\n%s", sends, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				})
			})
		}
	}
}
