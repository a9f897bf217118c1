package stream_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

// What goes over the wire is the update, however it was encoded.
func TestUpdatesOnTheWire(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("document "), 50_000)
	removed := []*proxyv1.DocumentKey{{Kind: "Policy", Namespace: "shop", Name: "a"}, {Kind: "Environment", Name: "aws"}}
	head := &proxyv1.SignedHead{Head: []byte("head"), Signature: bytes.Repeat([]byte{7}, 64)}
	root := bytes.Repeat([]byte{1}, 32)
	for name, u := range map[string]*proxyv1.Update{
		"nothing":   {},
		"a change":  {BaseRoot: root, Documents: [][]byte{[]byte("one")}, Head: head},
		"a removal": {BaseRoot: root, Removed: removed, Head: head},
		"all":       {BaseRoot: root, Documents: [][]byte{[]byte("one"), {}, []byte("two")}, Removed: removed, Head: head, Unfinished: true},
		"large":     {Documents: [][]byte{large, []byte("small"), large}, Head: head},
	} {
		for environment, want := range map[string]*proxyv1.StreamResponse{
			"aws":                 {Lane: &proxyv1.StreamResponse_Update{Update: u}},
			snapshot.SecurityLane: {Lane: &proxyv1.StreamResponse_Security{Security: u}},
		} {
			wire, largest, err := stream.Framed(environment, u)
			if err != nil {
				t.Fatal(err)
			}
			got := &proxyv1.StreamResponse{}
			if err := proto.Unmarshal(wire[5:], got); err != nil || !proto.Equal(got, want) {
				t.Errorf("%s, %s: it is another message: %v", name, environment, err)
			}
			if wire[0] != 0 || int(binary.BigEndian.Uint32(wire[1:])) != len(wire)-5 || largest > 4096 {
				t.Errorf("%s, %s: prefix %v of %d bytes, in pieces of up to %d", name, environment, wire[:5], len(wire)-5, largest)
			}
		}
	}
}

func TestTheStreamIsInBinary(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(aws(t, 5, documents{"a": "5"}))
	l.served("aws", 5)
	client := &http.Client{Transport: l.client(awsID, time.Hour).transport}
	s := proxyv1connect.NewProxyServiceClient(client, "https://"+l.address, connect.WithProtoJSON()).Stream(t.Context())
	defer func() { _ = s.CloseRequest(); _ = s.CloseResponse() }()
	hello := &proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{Instance: "a"}}}
	if err := s.Send(hello); err != nil && !errors.Is(err, io.EOF) { // it is told why by receiving
		t.Fatal(err)
	}
	if m, err := s.Receive(); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("got %v, %v", m, err)
	}
}

// Large updates are compressed, once for all, for those who say that they take it.
func TestLargeUpdatesArePacked(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	for name, c := range map[string]struct {
		document []byte
		packed   bool
	}{
		"a change": {[]byte("one"), false},
		"text":     {bytes.Repeat([]byte("document "), 50_000), true},
		"noise":    {noise, false},
	} {
		u := &proxyv1.Update{Documents: [][]byte{c.document, []byte("last")}, Head: &proxyv1.SignedHead{Head: []byte("head")}}
		wire, err := stream.Packed("aws", u)
		if err != nil {
			t.Fatal(err)
		}
		message := wire[5:]
		if c.packed {
			message = unpack(t, message)
		}
		if int(binary.BigEndian.Uint32(wire[1:])) != len(wire)-5 || (wire[0] == 1) != c.packed || c.packed && len(wire) > len(c.document)/10 {
			t.Errorf("%s: prefix %v of %d bytes", name, wire[:5], len(wire)-5)
		}
		got := &proxyv1.StreamResponse{}
		if err := proto.Unmarshal(message, got); err != nil || !proto.Equal(got.GetUpdate(), u) {
			t.Errorf("%s: it is another message: %v", name, err)
		}
	}
}

func unpack(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Those who do not say so, such as proxies of before, get them as they are.
func TestUpdatesArePackedForWhoTakesIt(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(aws(t, 5, documents{"a": strings.Repeat("document ", 20_000), "b": "small"}))
	l.served("aws", 5)
	for instance, takes := range map[string]bool{"takes": true, "does-not": false} {
		c := l.client(awsID, time.Hour)
		counted := &counting{RoundTripper: c.transport}
		options := []connect.ClientOption{connect.WithReadMaxBytes(snapshot.MaxPart + 64<<10)}
		if !takes {
			options = append(options, connect.WithAcceptCompression("gzip", nil, nil))
		}
		c.ProxyServiceClient = proxyv1connect.NewProxyServiceClient(&http.Client{Transport: counted}, "https://"+l.address, options...)
		p := l.stream(c, instance, nil)
		p.updated(5, nil)
		if got := counted.read.Load(); (got < 50_000) != takes {
			t.Errorf("%s: %d bytes", instance, got)
		}
		p.ack()
		l.enforcement(awsID, instance, adminv1.Enforcement_ENFORCEMENT_ENFORCED)
	}
}

// counting counts what is read of bodies.
type counting struct {
	http.RoundTripper
	read atomic.Int64
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = &countedBody{res.Body, &c.read}
	}
	return res, err
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// BenchmarkPack compresses a part of a first snapshot as it is made of routes.
func BenchmarkPack(b *testing.B) {
	u := &proxyv1.Update{}
	for i := range 4000 {
		u.Documents = append(u.Documents, fmt.Appendf(nil, "Route shop route-%d app-%d.example /v1/things-%d/** inventory demo-tokens %x", i, i/10, i, i*7919))
	}
	plain, _, err := stream.Framed("aws", u)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		wire, err := stream.Packed("aws", u)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(plain))/float64(len(wire)), "times")
	}
}
