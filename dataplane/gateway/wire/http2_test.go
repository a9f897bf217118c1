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
	budget := wire.Budget{Start: 10, Burst: 10, PerSecond: 5, PerKiB: 2}
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

// A request that is reset has been decided on, and sent on, for nothing. Settings may have
// each stream say a byte.
func TestResetsAndSettingsCostMore(t *testing.T) {
	const headers, reset, settings, ping, endStream, ack = 1, 3, 4, 6, 1, 1
	change := frame(settings, 0, 6)
	request, cancel := frame(headers, endStream, 20), frame(reset, 0, 4)
	for _, c := range []struct {
		name  string
		sends string
		ok    bool
	}{
		{"as many as can be afforded", request + cancel + request + cancel, true},
		{"one more", request + cancel + request + cancel + request + cancel, false},
		{"what is left pays for less", request + cancel + request + cancel + frame(ping, 0, 8), true},
		{"as many settings as can be afforded", change + change + change + frame(settings, ack, 0), true},
		{"one more of them", change + change + change + change, false},
	} {
		w := wire.NewHTTP2(newSent(strings.NewReader(preface+c.sends)), wire.Budget{Start: 25, Burst: 25, PerReset: 10, PerChange: 8}, standing)
		if _, err := io.ReadAll(w); c.ok != (err == nil) || !c.ok && !errors.Is(err, wire.ErrFlood) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// numbered is an HTTP/2 frame of a stream.
func numbered(kind, flags byte, stream uint32, payload int) string {
	b := []byte(frame(kind, flags, payload))
	binary.BigEndian.PutUint32(b[5:], stream)
	return string(b)
}

// What has been open for a while was bounded by how many may be open: to give it up
// costs little. What was begun just now costs as much as ever.
func TestResetsOfWhatTookItsTime(t *testing.T) {
	const headers, reset, endStream = 1, 3, 1
	const settled = time.Second
	at := standing()
	feed, sends := io.Pipe()
	w := wire.NewHTTP2(newSent(feed), wire.Budget{Start: 10, Burst: 10, PerReset: 8, PerSecond: 5, Settled: settled}, func() time.Time { return at })
	say := func(text string) error {
		go func() { _, _ = io.WriteString(sends, text) }()
		_, err := io.ReadFull(w, make([]byte, len(text)))
		return err
	}
	request := func(stream uint32) string { return numbered(headers, endStream, stream, 20) }
	cancel := func(stream uint32) string { return numbered(reset, 0, stream, 4) }
	for _, c := range []struct {
		name  string
		after time.Duration
		sends string
		ok    bool
	}{
		{"three begin", 0, preface + request(1) + request(3) + request(5), true},           // 7 points are left
		{"another, when they have been open for a while", settled, request(7), true},       // 6
		{"the three are given up", 0, cancel(1) + cancel(3) + cancel(5), true},             // 3
		{"others come all the time", settled / 2, request(9), true},                        // 2
		{"and again", settled / 2, request(11), true},                                      // 1
		{"and again", settled / 2, request(13), true},                                      // 0
		{"an old one is given up beside them", settled / 2, request(15) + cancel(7), true}, // 8, as time has passed
		{"one of just now", 0, cancel(15), true},                                           // 0
		{"another one of just now", 0, request(17), false},
	} {
		at = at.Add(c.after)
		if err := say(c.sends); c.ok != (err == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// An answer pays for its request, and one that has begun for a part of what it costs to
// give it up.
func TestAnswersThatHaveBegun(t *testing.T) {
	const headers, reset, endStream = 1, 3, 1
	for _, c := range []struct {
		name    string
		answers string
		n       int // exchanges that can be afforded
	}{
		{"nothing", "", 3},
		{"the beginning of an answer", frame(headers, 0, 10), 8},
		{"an answer", frame(headers, 0, 10) + frame(0, endStream, 0), 1000},
		{"an answer that is a head", frame(headers, endStream, 10), 1000},
	} {
		feed, sends := io.Pipe()
		w := wire.NewHTTP2(newSent(feed), wire.Budget{Start: 40, Burst: 40, PerReset: 10, PerAnswer: 6}, standing)
		exchange := frame(headers, endStream, 20) + frame(reset, 0, 4)
		go func() { _, _ = io.WriteString(sends, preface+strings.Repeat(exchange, 1000)) }()
		_, err := io.ReadFull(w, make([]byte, len(preface)))
		n := 0
		for ; n < 1000 && err == nil; n++ {
			_, err = io.ReadFull(w, make([]byte, len(frame(headers, endStream, 20))))
			if err == nil {
				_, _ = io.WriteString(w, c.answers)
				_, err = io.ReadFull(w, make([]byte, len(frame(reset, 0, 4))))
			}
		}
		if err != nil {
			n--
		}
		if n != c.n {
			t.Errorf("%s, and then a reset: %d times, want %d (%v)", c.name, n, c.n, err)
		}
	}
}

// Each part of an answer pays for what a client has to say to it, however many frames
// it is written in.
func TestPartsOfAnswers(t *testing.T) {
	const data, ping = 0, 6
	sends := preface + strings.Repeat(frame(ping, 0, 8), 1000)
	w := wire.NewHTTP2(newSent(strings.NewReader(sends)), wire.Budget{Start: 10, Burst: 10, PerPart: 2}, standing)
	_, err := io.ReadFull(w, make([]byte, len(preface)))
	for n := 0; n < 100 && err == nil; n++ {
		w.Part()
		_, err = io.ReadFull(w, make([]byte, 2*len(frame(ping, 0, 8))))
	}
	if err != nil {
		t.Errorf("two pings for each part: %v", err)
	}
	for range 100 {
		_, _ = io.WriteString(w, frame(data, 0, 1))
	}
	if _, err := io.ReadFull(w, make([]byte, 11*len(frame(ping, 0, 8)))); !errors.Is(err, wire.ErrFlood) {
		t.Errorf("frames without parts: %v", err)
	}
}

// Who has spent what there is has it told, once.
func TestFloodIsTold(t *testing.T) {
	sends := preface + strings.Repeat(frame(6, 0, 8), 11)
	w, told := wire.NewHTTP2(newSent(strings.NewReader(sends)), wire.Budget{Start: 10, Burst: 100}, standing), 0
	w.OnFlood(func() { told++ })
	for range 2 {
		if _, err := io.ReadAll(w); !errors.Is(err, wire.ErrFlood) {
			t.Error(err)
		}
	}
	if told != 1 {
		t.Errorf("it was told %d times", told)
	}
}

func standing() time.Time { return time.Unix(1, 0) }

func TestHTTP2BudgetIsEarned(t *testing.T) {
	now := standing()
	ping := frame(6, 0, 8)
	sends := []byte(preface + string(bytes.Repeat([]byte(ping), 100)))
	w := wire.NewHTTP2(newSent(bytes.NewReader(sends)), wire.Budget{Start: 10, Burst: 10, PerSecond: 5, PerKiB: 2}, func() time.Time { return now })
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
	w := wire.NewHTTP2(newSent(bytes.NewReader([]byte(sends))), wire.Budget{Start: 10, Burst: 10, PerAnswer: 1}, standing)
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

// What is said of windows is followed, in whatever pieces it comes.
func TestHTTP2Windows(t *testing.T) {
	const data, ping, settings, update, ack, size = 0, 6, 4, 8, 1, 65535
	change := func(stream byte, by uint32) string {
		f := []byte(frame(update, 0, 4))
		f[8] = stream
		return string(binary.BigEndian.AppendUint32(f[:9], by))
	}
	set := func(values ...uint32) string {
		f := []byte(frame(settings, 0, 6*len(values)/2))[:9]
		for i := 0; i < len(values); i += 2 {
			f = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(f, uint16(values[i])), values[i+1])
		}
		return string(f)
	}
	for _, c := range []struct {
		name   string
		sends  string
		said   int // bytes of answers
		answer int64
		room   bool
	}{
		{"at first", "", 0, size, true},
		{"a large answer", "", 0, size + 1, false},
		{"the window of streams is larger", set(3, 100, 4, 1<<20, 5, 1<<14), 0, size + 1, true},
		{"the window of streams is closed", set(4, 0), 0, 1, false},
		{"and opened", set(4, 0) + set(4, size), 0, 1, true},
		{"nothing is said of it", set(3, 0), 0, 1, true},
		{"half of the connection's is used", "", size / 2, 1, true},
		{"more of it", "", size/2 + 2, 1, false},
		{"and opened again", change(0, 16), size/2 + 2, 1, true},
		{"and that of a stream", change(1, 16), size/2 + 2, 1, false},
		{"with a bit that means nothing", change(0, 1<<31), size/2 + 2, 1, false},
		{"what is no window", frame(settings, ack, 0) + frame(ping, 0, 8) + frame(data, 0, 100), 0, 1, true},
	} {
		for name, split := range splits {
			w := wire.NewHTTP2(newSent(split(strings.NewReader(preface+c.sends))), wire.DefaultBudget, standing)
			if _, err := io.ReadAll(w); err != nil {
				t.Errorf("%s %s: %v", c.name, name, err)
			}
			for said := c.said; said > 0; said -= min(said, 1<<14) {
				if _, err := io.WriteString(w, frame(data, 0, min(said, 1<<14))); err != nil {
					t.Error(err)
				}
			}
			if room := w.HasRoom(c.answer); room != c.room {
				t.Errorf("%s %s: there is room for %d: %t", c.name, name, c.answer, room)
			}
		}
	}
}
