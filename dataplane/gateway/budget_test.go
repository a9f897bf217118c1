package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// flood resets requests of a client as soon as they are made, until its connection is
// closed, and returns how many went through.
func (w *world) flood(from string) (resets int) {
	w.t.Helper()
	conn := w.knockFor(from, "h2")
	_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(frameSettings, 0, 0, ""))
	w.must(err)
	for ; resets < 10_000; resets++ {
		stream := uint32(2*resets + 1)
		_, err := io.WriteString(conn, frame(frameHeaders, endHeaders|endStream, stream, block(":method: GET", ":scheme: https", ":authority: api.shop.example", ":path: /v1/orders"))+
			frame(frameReset, 0, stream, "\x00\x00\x00\x08")+frame(framePing, 0, 0, "through?"))
		for kind := byte(0); kind != framePing && err == nil; {
			kind, _, _, _, err = next(conn)
		}
		if err != nil {
			return resets
		}
	}
	return resets
}

// Who floods finds less to spend over further connections, until some time has passed.
// Others do not, and nobody is kept from a connection.
func TestFloodsAreRemembered(t *testing.T) {
	w := doored(t, "clientIp: {proxyProtocol: {trustedCidrs: [127.0.0.0/8]}}")
	const refused = `sallyport_connections_refused_total{limit="budget",listener="edge/public"}`
	for n := range 4 {
		w.flood("192.0.2.1")
		if got := w.metric(refused); got != itoa(n+1) {
			t.Errorf("after %d floods %s are counted", n+1, got)
		}
	}
	cut := w.flood("192.0.2.1")
	if other := w.flood("192.0.2.2"); other < 5*cut {
		t.Errorf("who has flooded before is cut off after %d resets, and others after %d", cut, other)
	}
	w.pass(time.Minute)
	if later := w.flood("192.0.2.1"); later < 5*cut {
		t.Errorf("a minute later it is cut off after %d resets, and before after %d", later, cut)
	}
}

// Clients that are used as they are meant to be give up now and then on what they have
// asked for: many at once, before an answer or within it, and none of their other
// streams ends for it.
func TestWhoGivesUpOnRequestsIsNoFlood(t *testing.T) {
	w := grpcWorld(t)
	c := w.dialGRPC("spiffe://prod.example/ns/shop/web")
	stays, err := c.FullDuplexCall(t.Context())
	w.must(err)
	for range 5 {
		var calls errgroup.Group
		for range 40 {
			calls.Go(func() error { return clientCancels(t.Context(), c) })
		}
		w.must(calls.Wait())
	}
	w.must(stays.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte("still there?")}}))
	if _, err := stays.Recv(); err != nil {
		t.Errorf("a stream beside them: %v", err)
	}
}

// What was reset before anybody looked at it goes nowhere.
func TestResetsGoNowhere(t *testing.T) {
	w, up := newWorld(t, options{}), newEcho(t)
	w.apply(w.everybody(plaintext(up.address())))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", "/v1/orders", http.NoBody)
	w.must(err)
	w.gateway.ServeHTTP(nil, r)
	if n := up.requests.Load(); n != 0 || strings.Contains(w.records.all(), "decision") {
		t.Errorf("the upstream was asked %d times, recorded was %s", n, w.records.all())
	}
}
