package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frame is an HTTP/2 frame with a payload of so many zeros.
func frame(kind, flags byte, payload int) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(payload)<<8|uint32(kind))
	b = append(b, flags, 0, 0, 0, 1)
	return string(append(b, make([]byte, payload)...))
}

func TestHTTP2Budget(t *testing.T) {
	const (
		data, headers, priority, reset, settings, ping, update, continuation = 0, 1, 2, 3, 4, 6, 8, 9
		endStream                                                            = 1
	)
	budget := wire.Budget{Burst: 10, PerSecond: 5, PerKiB: 2}
	for _, c := range []struct {
		name   string
		frame  string
		afford bool // a hundred of them
	}{
		{"data", frame(data, 0, 100), true},
		{"end of a body", frame(data, endStream, 0), true},
		{"empty data", frame(data, 0, 0), false},
		{"requests that nobody answers", frame(headers, endStream, 20), false},
		{"resets", frame(reset, 0, 4), false},
		{"settings", frame(settings, 0, 6), false},
		{"pings", frame(ping, 0, 8), false},
		{"window updates", frame(update, 0, 4), false},
		{"priorities", frame(priority, 0, 5), false},
		{"continuations", frame(continuation, 0, 1), false},
		{"what nobody knows", frame(77, 0, 300), false},
	} {
		for name, split := range splits {
			sends := preface + string(bytes.Repeat([]byte(c.frame), 100))
			w := wire.NewHTTP2(newSent(split(bytes.NewReader([]byte(sends)))), budget, standing)
			got, err := io.ReadAll(w)
			switch {
			case c.afford && (err != nil || string(got) != sends):
				t.Errorf("%s %s: %v after %d of %d bytes", c.name, name, err, len(got), len(sends))
			case !c.afford && !errors.Is(err, wire.ErrFlood):
				t.Errorf("%s %s: %v", c.name, name, err)
			}
			if n, again := w.Read(make([]byte, 1)); err != nil && (n != 0 || !errors.Is(again, err)) {
				t.Errorf("%s %s: %v, and then %v", c.name, name, err, again)
			}
		}
	}
}

// A request that is reset has been decided on, and sent on, for nothing.
func TestResetsCostMore(t *testing.T) {
	const headers, reset, ping, endStream = 1, 3, 6, 1
	request, cancel := frame(headers, endStream, 20), frame(reset, 0, 4)
	for _, c := range []struct {
		name  string
		sends string
		ok    bool
	}{
		{"as many as can be afforded", request + cancel + request + cancel, true},
		{"one more", request + cancel + request + cancel + request + cancel, false},
		{"what is left pays for less", request + cancel + request + cancel + frame(ping, 0, 8), true},
	} {
		w := wire.NewHTTP2(newSent(strings.NewReader(preface+c.sends)), wire.Budget{Burst: 25, PerReset: 10}, standing)
		if _, err := io.ReadAll(w); c.ok != (err == nil) || !c.ok && !errors.Is(err, wire.ErrFlood) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func standing() time.Time { return time.Unix(1, 0) }

func TestHTTP2BudgetIsEarned(t *testing.T) {
	now := standing()
	ping := frame(6, 0, 8)
	sends := []byte(preface + string(bytes.Repeat([]byte(ping), 100)))
	w := wire.NewHTTP2(newSent(bytes.NewReader(sends)), wire.Budget{Burst: 10, PerSecond: 5, PerKiB: 2}, func() time.Time { return now })
	pings := func(n int) error {
		t.Helper()
		_, err := io.ReadFull(w, make([]byte, n*len(ping)))
		return err
	}
	if _, err := io.ReadFull(w, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	if err := pings(10); err != nil {
		t.Fatalf("the first ten: %v", err)
	}
	now = now.Add(time.Second)
	if err := pings(5); err != nil {
		t.Fatalf("five after a second: %v", err)
	}
	if _, err := w.Write(make([]byte, 2<<10)); err != nil {
		t.Fatal(err)
	}
	if err := pings(4); err != nil {
		t.Fatalf("four for two KiB: %v", err)
	}
	now = now.Add(time.Hour)
	if err := pings(10); err != nil {
		t.Fatalf("ten after an hour: %v", err)
	}
	if err := pings(1); !errors.Is(err, wire.ErrFlood) {
		t.Fatalf("more than the burst: %v", err)
	}
}

// However many requests there are, and however small the answers: a client that is
// answered is none that floods.
func TestHTTP2AnswersAreWorthTheirRequests(t *testing.T) {
	const headers, endStream = 1, 1
	request, answer := frame(headers, endStream, 20), frame(headers, endStream, 10)
	sends := preface + string(bytes.Repeat([]byte(request), 1000))
	w := wire.NewHTTP2(newSent(bytes.NewReader([]byte(sends))), wire.Budget{Burst: 10, PerAnswer: 1}, standing)
	if _, err := io.ReadFull(w, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		if _, err := io.ReadFull(w, make([]byte, len(request))); err != nil {
			t.Fatalf("after %d requests: %v", n, err)
		}
		for _, part := range []string{answer[:5], answer[5:]} {
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestHTTP2Preface(t *testing.T) {
	for _, sends := range []string{get + "\r\n", "PRI * HTTP/2.0\r\n\r\nXX", "\r\n" + preface} {
		w := wire.NewHTTP2(newSent(iotest.OneByteReader(bytes.NewReader([]byte(sends)))), wire.DefaultBudget, nil)
		if _, err := io.ReadAll(w); !errors.Is(err, wire.ErrNotHTTP2) {
			t.Errorf("%q: %v", sends, err)
		}
		if n, err := w.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); n != 0 || !errors.Is(err, wire.ErrNotHTTP2) {
			t.Errorf("%q: answered with %d bytes, %v", sends, n, err)
		}
	}
}
