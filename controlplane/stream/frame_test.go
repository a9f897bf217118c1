package stream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/snapshot"
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
