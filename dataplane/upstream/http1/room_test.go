package http1_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/dataplane/life"
	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// askIn asks over a connection of the client's pool, in a room.
func askIn(t *testing.T, c *client, m *http1.Room) *http.Response {
	t.Helper()
	conn := c.Take()
	if conn == nil {
		raw, socket, err := c.to.dial(t.Context())
		must(t, err)
		conn = c.New(raw, socket)
	}
	res, err := conn.RoundTripIn(m, c.to.request(http.MethodGet, nil).WithContext(&life.Life{}), nil)
	must(t, err)
	return res
}

func whole(t *testing.T, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	must(t, res.Body.Close())
	return string(body)
}

// Of an answer nothing is in the next one.
func TestRoom(t *testing.T) {
	c := newClient(t, listen(t, each(
		"HTTP/1.1 103 Early Hints\r\nLink: </mine>\r\n\r\nHTTP/1.1 203 Mine\r\nX-Mine: 1\r\nX-Mine: 2\r\nContent-Length: 4\r\n\r\nmine",
		"HTTP/1.1 200 OK\r\nX-Yours: 3\r\nTransfer-Encoding: chunked\r\nTrailer: X-Last\r\n\r\n5\r\nyours\r\n0\r\nX-Last: 4\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	)), limits, nil)
	var m http1.Room
	first := askIn(t, c, &m)
	if body := whole(t, first); first.StatusCode != http.StatusNonAuthoritativeInfo || body != "mine" || strings.Join(first.Header["X-Mine"], " ") != "1 2" {
		t.Errorf("the first answer is %+v with %q", first, body)
	}
	second := askIn(t, c, &m)
	if body := whole(t, second); second != first || second.StatusCode != http.StatusOK || body != "yours" || len(second.Header) != 1 || second.Trailer.Get("X-Last") != "4" {
		t.Errorf("the second answer is %+v with %q", second, body)
	}
	third := askIn(t, c, &m)
	if body := whole(t, third); third != second || body != "" || third.Header.Get("X-Yours") != "" || third.Trailer != nil || third.ContentLength != 0 {
		t.Errorf("the third answer is %+v with %q", third, body)
	}
}

// An answer that did not come to its end stays what it was.
func TestRoomOfOneThatWasCut(t *testing.T) {
	c := newClient(t, listen(t, inTurn(
		"HTTP/1.1 203 Mine\r\nX-Mine: 1\r\nContent-Length: 4\r\n\r\nmi",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	)), limits, nil)
	var m http1.Room
	first := askIn(t, c, &m)
	must(t, first.Body.Close())
	if second := askIn(t, c, &m); second == first || first.StatusCode != http.StatusNonAuthoritativeInfo || first.Header.Get("X-Mine") != "1" {
		t.Errorf("the first answer became %+v", first)
	}
}
