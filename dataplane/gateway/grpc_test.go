package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/internal/identity"
)

// service answers as gRPC's interoperability tests expect.
type service struct {
	pb.UnimplementedTestServiceServer
}

func (service) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-behind", "yes", "x-forwarded-for-was", strings.Join(in["x-forwarded-for"], ",")))
	if s := r.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.GetCode()), s.GetMessage())
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, r.GetResponseSize())}}, nil
}

func (service) StreamingOutputCall(r *pb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, p := range r.GetResponseParameters() {
		if err := s.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	return nil
}

func (service) StreamingInputCall(s grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	sum := 0
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(r.GetPayload().GetBody())
	}
}

func (service) FullDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	s.SetTrailer(metadata.Pairs("x-behind", "yes"))
	for {
		r, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case r.GetResponseStatus() != nil: // while the client's side is open
			return status.Error(codes.Code(r.GetResponseStatus().GetCode()), r.GetResponseStatus().GetMessage())
		}
		if err := s.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// dialGRPC returns a client of the service as id, through the gateway.
func (w *world) dialGRPC(id identity.ID) pb.TestServiceClient {
	w.t.Helper()
	address := w.address("edge/public")
	conn, err := grpc.NewClient("passthrough:///"+host,
		grpc.WithTransportCredentials(credentials.NewTLS(w.as(w.tls(host), id))),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}))
	w.must(err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return pb.NewTestServiceClient(conn)
}

func grpcWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, options{})
	cfg := identity.ServerConfig(w.identified("spiffe://prod.example/ns/shop/orders"), identity.Only(self))
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	pb.RegisterTestServiceServer(server, service{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	usual := w.usual(fmt.Sprintf(`spiffe: {peerIds: ["spiffe://prod.example/ns/shop/orders"]}, endpoints: [%q]`, ln.Addr()))
	w.apply(strings.Replace(usual, `paths: ["/v1/**"]`, `paths: ["/grpc.testing.TestService/**"]`, 1))
	return w
}

// What gRPC clients and servers say to each other arrives, all of it, every
// time: a proxy that loses trailers now and then passes most single tries.
func TestGRPC(t *testing.T) {
	w := grpcWorld(t)
	c := w.dialGRPC("spiffe://prod.example/ns/shop/web")
	for name, try := range map[string]func(context.Context, pb.TestServiceClient) error{
		"unary": unary, "status": failing, "server streams": serverStreams, "client streams": clientStreams,
		"ping-pong": pingPong, "empty stream": emptyStream, "server ends first": serverEndsFirst, "client cancels": clientCancels,
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if err := try(ctx, c); err != nil {
					t.Fatalf("try %d: %v", i, err)
				}
				cancel()
			}
		})
	}
	w.settle()
}

func unary(ctx context.Context, c pb.TestServiceClient) error {
	var behind metadata.MD
	out := metadata.AppendToOutgoingContext(ctx, "x-forwarded-for", "6.6.6.6")
	r, err := c.UnaryCall(out, &pb.SimpleRequest{ResponseSize: 100_000, Payload: &pb.Payload{Body: make([]byte, 50_000)}}, grpc.Trailer(&behind))
	if err != nil || len(r.GetPayload().GetBody()) != 100_000 {
		return fmt.Errorf("%d bytes, %w", len(r.GetPayload().GetBody()), err)
	}
	if fmt.Sprint(behind["x-behind"], behind["x-forwarded-for-was"]) != "[yes] [127.0.0.1]" {
		return fmt.Errorf("trailers %v", behind)
	}
	return nil
}

func failing(ctx context.Context, c pb.TestServiceClient) error {
	var behind metadata.MD
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: 9, Message: "tea\r\n\u2615"}}, grpc.Trailer(&behind))
	if s, _ := status.FromError(err); s.Code() != codes.FailedPrecondition || s.Message() != "tea\r\n\u2615" || len(behind["x-behind"]) != 1 {
		return fmt.Errorf("%w, trailers %v", err, behind)
	}
	return nil
}

func serverStreams(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: []*pb.ResponseParameters{{Size: 31415}, {Size: 9}, {Size: 2653}}})
	if err != nil {
		return err
	}
	for _, size := range []int{31415, 9, 2653} {
		if r, err := s.Recv(); err != nil || len(r.GetPayload().GetBody()) != size {
			return fmt.Errorf("%d bytes, %w", len(r.GetPayload().GetBody()), err)
		}
	}
	return wants(io.EOF, s.RecvMsg(&pb.StreamingOutputCallResponse{}))
}

func wants(want, err error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("got %w, want %w", err, want)
	}
	return nil
}

func clientStreams(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	for _, size := range []int{27182, 8, 1828, 45904} {
		if err := s.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, size)}}); err != nil {
			return err
		}
	}
	r, err := s.CloseAndRecv()
	if err != nil || r.GetAggregatedPayloadSize() != 74922 {
		return fmt.Errorf("%d bytes, %w", r.GetAggregatedPayloadSize(), err)
	}
	return nil
}

func pingPong(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for _, size := range []int{1, 31415, 0, 9} {
		if err := s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, size)}}); err != nil {
			return err
		}
		if r, err := s.Recv(); err != nil || len(r.GetPayload().GetBody()) != size {
			return fmt.Errorf("%d bytes, %w", len(r.GetPayload().GetBody()), err)
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) || len(s.Trailer()["x-behind"]) != 1 {
		return fmt.Errorf("%w, trailers %v", err, s.Trailer())
	}
	return nil
}

func emptyStream(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	_, err = s.Recv()
	return wants(io.EOF, err)
}

// serverEndsFirst leaves the client's side open for ever.
func serverEndsFirst(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&pb.StreamingOutputCallRequest{ResponseStatus: &pb.EchoStatus{Code: 10, Message: "enough"}}); err != nil {
		return err
	}
	if _, err = s.Recv(); status.Code(err) != codes.Aborted || len(s.Trailer()["x-behind"]) != 1 {
		return fmt.Errorf("%w, trailers %v", err, s.Trailer())
	}
	return nil
}

func clientCancels(ctx context.Context, c pb.TestServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, 10)}}); err != nil {
		return err
	}
	if _, err := s.Recv(); err != nil {
		return err
	}
	cancel()
	if _, err := s.Recv(); status.Code(err) != codes.Canceled {
		return err
	}
	return nil
}

// gRPC clients understand why they are refused.
func TestGRPCRefusals(t *testing.T) {
	w := grpcWorld(t)
	for _, c := range []struct {
		name   string
		as     identity.ID
		before func()
		code   codes.Code
		reason string
	}{
		{"of another namespace", "spiffe://prod.example/ns/bank/web", func() {}, codes.PermissionDenied, "no_matching_policy"},
		{"with a bad token", "spiffe://prod.example/ns/shop/web", func() {}, codes.Unauthenticated, "token_malformed"},
		{"no upstream", "spiffe://prod.example/ns/shop/web", func() {
			w.apply(strings.Replace(w.usual(plaintext("127.0.0.1:1")), `paths: ["/v1/**"]`, `paths: ["/grpc.testing.TestService/**"]`, 1))
		}, codes.Unavailable, "upstream_unreachable"},
		{"no route", "spiffe://prod.example/ns/shop/web", func() { w.apply(w.usual(plaintext("127.0.0.1:1"))) }, codes.Unimplemented, "no_route"},
	} {
		c.before()
		ctx := t.Context()
		if strings.Contains(c.name, "token") {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer rubbish")
		}
		_, err := w.dialGRPC(c.as).UnaryCall(ctx, &pb.SimpleRequest{})
		if s, _ := status.FromError(err); s.Code() != c.code || !strings.HasPrefix(s.Message(), c.reason+": ") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A conversation in small messages is no flood: gRPC's clients ping for each that comes.
func TestGRPCManySmallMessages(t *testing.T) {
	const messages = 10_000
	w := grpcWorld(t)
	s, err := w.dialGRPC("spiffe://prod.example/ns/shop/web").FullDuplexCall(t.Context())
	w.must(err)
	for n := range messages {
		w.must(s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte("?")}}))
		if _, err := s.Recv(); err != nil {
			t.Fatalf("after %d messages: %v", n, err)
		}
	}
}
