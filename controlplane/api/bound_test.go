package api_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/api"
)

// Whoever sends a request bit by bit is not waited for.
func TestARequestThatNeverEnds(t *testing.T) {
	const patience = 100 * time.Millisecond
	read := make(chan error, 1)
	server := httptest.NewServer(api.Bound(1<<20, patience, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	})))
	t.Cleanup(server.Close)
	conn := must(net.Dial("tcp", server.Listener.Addr().String()))
	defer conn.Close()
	began := time.Now()
	must(fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome"))
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading ended with %v", err)
	}
	if took := time.Since(began); took < patience || took > 300*patience {
		t.Errorf("took %s", took)
	}
}

// Whoever has sent a whole request may wait longer for the answer than the
// request had to be read: the deadline does not end the call.
func TestAnAnswerThatTakesLong(t *testing.T) {
	const patience = time.Second
	ended := make(chan error, 1)
	handler := api.Bound(1<<20, patience, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
		select {
		case <-r.Context().Done():
		case <-time.After(2 * patience):
		}
		ended <- r.Context().Err()
		_, _ = io.WriteString(w, "at last")
	}))
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(handler)
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("all of it")))
		res, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("HTTP/%d: the call was ended: %v", res.ProtoMajor, err)
		}
		text := must(io.ReadAll(res.Body))
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
		if string(text) != "at last" || (res.ProtoMajor == 2) != http2 {
			t.Errorf("HTTP/%d: answer %q", res.ProtoMajor, text)
		}
	}
}

// Whoever does not read the answer is not waited for either.
func TestAnAnswerThatNobodyReads(t *testing.T) {
	const patience = 100 * time.Millisecond
	written := make(chan error, 1)
	server := httptest.NewServer(api.Bound(1<<20, patience, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for {
			if _, err := w.Write(piece); err != nil {
				written <- err
				return
			}
		}
	})))
	t.Cleanup(server.Close)
	conn := must(net.Dial("tcp", server.Listener.Addr().String()))
	defer conn.Close()
	must(fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	must(bufio.NewReader(conn).ReadString('\n'))
	if err := <-written; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing ended with %v", err)
	}
}
