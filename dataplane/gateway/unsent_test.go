package gateway_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// The kernel keeps little for a client that does not read, and so a proxy fetches little
// for it, and encrypts little.
func TestSocketsKeepLittle(t *testing.T) {
	const most = 1 << 20 // the upstream is 256 KiB ahead
	w := newWorld(t, options{})
	taken := &counter{from: zeros{}}
	w.apply(w.usual(w.upstreams(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(rw, taken) // until the client is gone
	})["HTTP/2"]))
	raw, err := net.Dial("tcp", w.address("edge/public"))
	w.must(err)
	defer raw.Close()
	w.must(raw.(*net.TCPConn).SetReadBuffer(4096))
	conn := tls.Client(raw, w.tls(host))
	w.send(conn, fmt.Sprintf("GET /v1/orders HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer TOKEN\r\n\r\n", host))
	_, err = io.ReadFull(conn, make([]byte, 1)) // it has begun
	w.must(err)
	taken.settle()
	if n := taken.n.Load(); n == 0 || n > most {
		t.Errorf("%d KiB were fetched for who does not read", n>>10)
	}
}
