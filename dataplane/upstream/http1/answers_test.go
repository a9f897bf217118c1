package http1_test

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const (
	ok      = "HTTP/1.1 200 OK\r\n"
	chunked = ok + "Transfer-Encoding: chunked\r\n\r\n"
)

// Whatever is let through is read as net/http reads it.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct{ method, sends string }{
		"with a length":              {"GET", ok + "Content-Length: 5\r\n\r\nhello"},
		"with a length of zero":      {"GET", ok + "Content-Length: 0\r\n\r\n"},
		"in chunks":                  {"GET", chunked + "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"},
		"in chunks that say more":    {"GET", chunked + "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"},
		"in chunks with zeros":       {"GET", chunked + "00005\r\nhello\r\n000\r\n\r\n"},
		"in chunks with capitals":    {"GET", chunked + "A\r\n0123456789\r\n0\r\n\r\n"},
		"in many small chunks":       {"GET", chunked + strings.Repeat("1\r\nx\r\n", 50_000) + "0\r\n\r\n"},
		"in one large chunk":         {"GET", chunked + "30d40\r\n" + strings.Repeat("x", 200_000) + "\r\n0\r\n\r\n"},
		"in chunks, empty":           {"GET", chunked + "0\r\n\r\n"},
		"coding in capitals":         {"GET", ok + "transfer-encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		"up to the end":              {"GET", ok + "\r\nhello"},
		"up to the end, and closes":  {"GET", ok + "Connection: close\r\n\r\nhello"},
		"large, up to the end":       {"GET", ok + "\r\n" + strings.Repeat("x", 300_000)},
		"large, with a length":       {"GET", ok + "Content-Length: 300000\r\n\r\n" + strings.Repeat("x", 300_000)},
		"of HTTP/1.0":                {"GET", "HTTP/1.0 200 OK\r\n\r\nhello"},
		"of HTTP/1.0 with a length":  {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		"to HEAD":                    {"HEAD", ok + "Content-Length: 5\r\n\r\n"},
		"to HEAD, in chunks":         {"HEAD", ok + "Transfer-Encoding: chunked\r\n\r\n"},
		"to HEAD, of unknown length": {"HEAD", ok + "\r\n"},
		"204":                        {"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		"304":                        {"GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"7\"\r\nContent-Length: 5\r\n\r\n"},
		"205":                        {"GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"},
		"206":                        {"GET", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nhe"},
		"no reason":                  {"GET", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi"},
		"no reason and no space":     {"GET", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi"},
		"a reason in Latin-1":        {"GET", "HTTP/1.1 200 \xfcber\r\nContent-Length: 2\r\n\r\nhi"},
		"an unusual status":          {"GET", "HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\nhi"},
		"fields":                     {"GET", ok + "x-a: b\r\nX-A:\tc \t\r\nSet-Cookie: a=b\r\nsEt-cOOkie: c=d\r\nX-Empty:\r\nX-Latin: caf\xe9\r\nContent-Length: 2\r\n\r\nhi"},
		"trailer":                    {"GET", ok + "Trailer: X-Sum, x-more\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-Other: 8\r\n\r\n"},
		"trailer, unannounced":       {"GET", chunked + "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"},
		"trailer, never sent":        {"GET", ok + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		"100":                        {"POST", "HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nhi"},
		"102 and 103":                {"GET", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nhi"},
		"as much as is let through":  {"GET", ok + "Content-Length: 2\r\nX: " + strings.Repeat("y", 60<<10) + "\r\n\r\nhi"},
	} {
		e := listen(t, say(c.sends))
		want, err := ask(stock(t, e), e.request(c.method, nil))
		if err != nil {
			t.Errorf("%s: net/http refuses it: %v", name, err)
			continue
		}
		got, err := ask(newClient(t, e, limits, nil), e.request(c.method, nil))
		if got != nil {
			delete(got.Header, "Connection") // net/http forgets one that closes, whatever else it says
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n got %.500q\nwant %.500q", name, err, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

// What two parsers could read differently is refused, also where net/http takes one
// of the readings.
func TestRefusals(t *testing.T) {
	many := func(n int) string { return ok + strings.Repeat("X-A: b\r\n", n) + "Content-Length: 2\r\n\r\nhi" }
	for name, c := range map[string]struct {
		sends, want string
		stricter    bool // than net/http
	}{
		// Lines.
		"LF alone":                     {"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "a line ends in LF alone", true},
		"LF alone in a field":          {ok + "X-A: b\nContent-Length: 2\r\n\r\nhi", "a line ends in LF alone", true},
		"CR in a field":                {ok + "X-A: b\rX-B: c\r\nContent-Length: 2\r\n\r\nhi", "a field holds a control byte", false},
		"folded":                       {ok + "X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nhi", "a field is continued on the next line", true},
		"folded coding":                {ok + "Transfer-Encoding:\r\n chunked\r\nContent-Length: 2\r\n\r\nhi", "a transfer encoding other than chunked", false},
		"folded status":                {ok + " X-A: b\r\nContent-Length: 2\r\n\r\nhi", "a field is continued on the next line", false},
		"an empty line before":         {"\r\n" + ok + "\r\n", "the status line is not version, number and reason", false},
		"space before the colon":       {ok + "Content-Length : 2\r\n\r\nhi", "the name of a field is not a token", true},
		"space in a name":              {ok + "X A: b\r\nContent-Length: 2\r\n\r\nhi", "the name of a field is not a token", true},
		"no colon":                     {ok + "X-A\r\nContent-Length: 2\r\n\r\nhi", "the name of a field is not a token", false},
		"no name":                      {ok + ": b\r\nContent-Length: 2\r\n\r\nhi", "the name of a field is not a token", false},
		"NUL in a name":                {ok + "X\x00A: b\r\nContent-Length: 2\r\n\r\nhi", "the name of a field is not a token", false},
		"NUL in a value":               {ok + "X-A: b\x00c\r\nContent-Length: 2\r\n\r\nhi", "a field holds a control byte", false},
		"control byte in a value":      {ok + "X-A: b\x0bc\r\nContent-Length: 2\r\n\r\nhi", "a field holds a control byte", false},
		"control byte in the reason":   {"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nhi", "the status line is not version, number and reason", true},
		"HTTP/1.2":                     {"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi", "the version is neither HTTP/1.1 nor HTTP/1.0", true},
		"HTTP/2.0":                     {"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "the status line is not version, number and reason", true},
		"HTTP/0.9":                     {"hello\r\n\r\n", "the status line is not version, number and reason", false},
		"version in small letters":     {"http/1.1 200 OK\r\n\r\n", "the status line is not version, number and reason", false},
		"status of four digits":        {"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi", "the status line is not version, number and reason", false},
		"status of two digits":         {"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi", "the status is not a number", false},
		"status with a sign":           {"HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\nhi", "the status is not a number", true},
		"status below 100":             {"HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nhi", "the status line is not version, number and reason", true},
		"two spaces before the status": {"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi", "the status is not a number", true},

		// Where the body ends.
		"length and chunks":          {ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "Content-Length stands beside Transfer-Encoding", true},
		"two lengths":                {ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", "the field Content-Length occurs more than once", false},
		"one length twice":           {ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "the field Content-Length occurs more than once", true},
		"a list of lengths":          {ok + "Content-Length: 2, 2\r\n\r\nhi", "Content-Length is not a number", false},
		"a length with a sign":       {ok + "Content-Length: +2\r\n\r\nhi", "Content-Length is not a number", false},
		"a negative length":          {ok + "Content-Length: -2\r\n\r\nhi", "Content-Length is not a number", false},
		"a length in hex":            {ok + "Content-Length: 0x2\r\n\r\nhi", "Content-Length is not a number", false},
		"an empty length":            {ok + "Content-Length:\r\n\r\nhi", "Content-Length is not a number", false},
		"a length beyond all bounds": {ok + "Content-Length: 99999999999999999999\r\n\r\nhi", "Content-Length is not a number", false},
		"another coding":             {ok + "Transfer-Encoding: gzip\r\n\r\nhi", "a transfer encoding other than chunked", false},
		"two codings":                {ok + "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "a transfer encoding other than chunked", false},
		"identity":                   {ok + "Transfer-Encoding: identity\r\n\r\nhi", "a transfer encoding other than chunked", false},
		"chunked twice":              {ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "a transfer encoding other than chunked", false},
		"chunked in quotes":          {ok + "Transfer-Encoding: \"chunked\"\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "a transfer encoding other than chunked", false},
		"a vertical tab in a coding": {ok + "Transfer-Encoding: \x0bchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "a field holds a control byte", false},
		"chunks in HTTP/1.0":         {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "a transfer encoding in HTTP/1.0", true},
		"204 with a body":            {"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", "a body where there is none", true},
		"204 in chunks":              {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "a body where there is none", true},
		"100 with a body":            {"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nhi" + ok + "\r\n", "a body where there is none", false},
		"framing as a trailer":       {ok + "Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "framing is announced as a trailer", false},
		"framing in the trailer":     {chunked + "0\r\nContent-Length: 2\r\n\r\n", "the trailer is malformed, or has too many fields", true},
		"a trailer that is no token": {ok + "Trailer: a b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "the name of a trailer is not a token", true},
		"a folded trailer":           {chunked + "0\r\nX-A: b\r\n c\r\n\r\n", "the trailer is malformed, or has too many fields", true},
		"a trailer with LF alone":    {chunked + "0\r\nX-A: b\n\r\n", "a line ends in LF alone", false},
		"a trailer without end":      {chunked + "0\r\n" + strings.Repeat("X-A: b\r\n", 10_000) + "\r\n", "the head is too large", false},

		// Chunks.
		"a size that is no number": {chunked + "zz\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"an empty size":            {chunked + "\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"a size with a sign":       {chunked + "+2\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"a negative size":          {chunked + "-2\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"a size with 0x":           {chunked + "0x2\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"space behind a size":      {chunked + "2 \r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", true},
		"space before a size":      {chunked + " 2\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"a size beyond all bounds": {chunked + "ffffffffffffffffff\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"a size that wraps around": {chunked + "10000000000000002\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"a size with LF alone":     {chunked + "2\nhi\r\n0\r\n\r\n", "a line ends in LF alone", false},
		"a chunk with LF alone":    {chunked + "2\r\nhi\n0\r\n\r\n", "a chunk is longer than it says", false},
		"a chunk that is too long": {chunked + "2\r\nhi!\r\n0\r\n\r\n", "a chunk is longer than it says", false},
		"CR in an extension":       {chunked + "2;a\rb\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", false},
		"NUL in an extension":      {chunked + "2;a\x00b\r\nhi\r\n0\r\n\r\n", "the size of a chunk is not a number", true},
		"an extension without end": {chunked + "2;" + strings.Repeat("a", 1<<20) + "\r\nhi\r\n0\r\n\r\n", "a chunk begins with a line that is too long", false},
		"a million extensions":     {chunked + strings.Repeat("1;aaaaaaaaaaaaaaaaaaaa\r\nx\r\n", 1_000_000) + "0\r\n\r\n", "chunks carry less than they cost", false},

		// How much.
		"a head without end":          {ok + "X-A: " + strings.Repeat("b", 128<<10) + "\r\n\r\n", "the head is too large", false},
		"fields without end":          {many(10_000), "the head is too large", false},
		"257 fields":                  {many(256), "the head has too many fields", true},
		"interim answers without end": {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100) + ok + "\r\n", "too many interim answers", true},
		"interim answers of any size": {strings.Repeat("HTTP/1.1 103 Early Hints\r\nX-A: "+strings.Repeat("b", 20<<10)+"\r\n\r\n", 4) + ok + "\r\n", "the head is too large", true},
	} {
		e := listen(t, say(c.sends))
		a, err := ask(newClient(t, e, limits, nil), e.request("GET", nil))
		if refusal(err) != c.want {
			t.Errorf("%s: got %.200v, %v, want %q", name, a, err, c.want)
		}
		if _, err := ask(stock(t, e), e.request("GET", nil)); (err == nil) != c.stricter {
			t.Errorf("%s: net/http says %v, stricter is %t", name, err, c.stricter)
		}
	}
}
