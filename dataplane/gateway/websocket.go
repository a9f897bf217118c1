package gateway

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it, and it protects nothing there
	"encoding/base64"
	"io"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/dataplane/record"
)

// The fields of a WebSocket's handshake that are ours to say.
const (
	headerKey    = "Sec-Websocket-Key"
	headerAccept = "Sec-Websocket-Accept"
)

// handshake is that of a WebSocket: the client's with the gateway, and the
// gateway's own with the upstream.
type handshake struct {
	accept  string // for the client's key
	expects string // of the upstream, for ours
}

// newHandshake takes the client's key out of a canonical header, and puts ours
// there.
func newHandshake(h http.Header) *handshake {
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	key := base64.StdEncoding.EncodeToString(random[:])
	s := &handshake{accept: acceptFor(h.Get(headerKey)), expects: acceptFor(key)}
	h[headerKey] = []string{key}
	return s
}

// acceptFor proves that a key was read (RFC 6455, section 4.2.2).
func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// holds reports whether the upstream has understood what it was asked for.
func (s *handshake) holds(h http.Header) bool {
	upgrade, accept := h["Upgrade"], h[headerAccept]
	if len(upgrade) != 1 || !strings.EqualFold(upgrade[0], "websocket") || len(accept) != 1 || accept[0] != s.expects {
		return false
	}
	for _, value := range h["Connection"] {
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(option), "upgrade") {
				return true
			}
		}
	}
	return false
}

// tunnel makes the client's connection a WebSocket, as the upstream has made
// its own, and carries it until its end.
func (x *exchange) tunnel(answer *http.Response, o *record.Outcome) error {
	upstream, ok := answer.Body.(io.ReadWriteCloser)
	if !ok || !x.handshake.holds(answer.Header) {
		return failure{reason: ReasonHandshake, status: http.StatusBadGateway}
	}
	client, err := x.http1.Switch()
	if err != nil {
		return err
	}
	x.switches = true
	o.Status = http.StatusSwitchingProtocols
	t := newTunnel(client, upstream, x.stream.why)
	t.down.idle, t.up.idle = x.idle, x.idle
	if _, err := client.Write(x.switched(answer.Header)); err != nil {
		t.cut()
		return failure{reason: ReasonClientGone}
	}
	err = t.run(x.out.Context())
	o.Sent, _ = t.down.carried()
	o.Received, _ = t.up.carried()
	return err
}

// switched is the head that ends HTTP on the client's connection, made of the upstream's.
func (x *exchange) switched(h http.Header) []byte {
	strip(h, x.verdict.way.route.ServerHeaders)
	x.verdict.way.route.Rewrites.Response.Apply(h)
	x.tag(h)
	h["Upgrade"], h["Connection"], h[headerAccept] = []string{"websocket"}, []string{"Upgrade"}, []string{x.handshake.accept}
	delete(h, "Content-Length") // nothing else is left of a body
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&b) // to memory
	b.WriteString("\r\n")
	return b.Bytes()
}
