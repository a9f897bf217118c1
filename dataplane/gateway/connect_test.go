package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/sallyport/sallyport/internal/identity"
)

// Procedures of the service that Connect's handlers serve, in all of its protocols.
const (
	unaryCall      = "/grpc.testing.TestService/UnaryCall"
	inputCall      = "/grpc.testing.TestService/StreamingInputCall"
	outputCall     = "/grpc.testing.TestService/StreamingOutputCall"
	fullDuplexCall = "/grpc.testing.TestService/FullDuplexCall"
)

type (
	unaryRequest  = pb.SimpleRequest
	unaryResponse = pb.SimpleResponse
	inRequest     = pb.StreamingInputCallRequest
	inResponse    = pb.StreamingInputCallResponse
	outRequest    = pb.StreamingOutputCallRequest
	outResponse   = pb.StreamingOutputCallResponse
)

// connectHandlers answer with as much as they are asked for, and with metadata in
// front and behind.
func connectHandlers() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(unaryCall, connect.NewUnaryHandler(unaryCall, func(_ context.Context, r *connect.Request[unaryRequest]) (*connect.Response[unaryResponse], error) {
		if s := r.Msg.GetResponseStatus(); s != nil {
			err := connect.NewError(connect.Code(s.GetCode()), errors.New(s.GetMessage()))
			err.Meta().Set("X-Behind", "an error")
			return nil, err
		}
		res := connect.NewResponse(&unaryResponse{Payload: &pb.Payload{Body: make([]byte, r.Msg.GetResponseSize())}})
		res.Header().Set("X-Front", r.Header().Get("X-Asked"))
		res.Trailer().Set("X-Behind", "yes")
		return res, nil
	}))
	mux.Handle(inputCall, connect.NewClientStreamHandler(inputCall, func(_ context.Context, s *connect.ClientStream[inRequest]) (*connect.Response[inResponse], error) {
		sum := 0
		for s.Receive() {
			sum += len(s.Msg().GetPayload().GetBody())
		}
		return connect.NewResponse(&inResponse{AggregatedPayloadSize: int32(sum)}), s.Err()
	}))
	mux.Handle(outputCall, connect.NewServerStreamHandler(outputCall, func(_ context.Context, r *connect.Request[outRequest], s *connect.ServerStream[outResponse]) error {
		s.ResponseTrailer().Set("X-Behind", "yes")
		for _, p := range r.Msg.GetResponseParameters() {
			if err := s.Send(&outResponse{Payload: &pb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
				return err
			}
		}
		return nil
	}))
	mux.Handle(fullDuplexCall, connect.NewBidiStreamHandler(fullDuplexCall, func(_ context.Context, s *connect.BidiStream[outRequest, outResponse]) error {
		for {
			r, err := s.Receive()
			if errors.Is(err, io.EOF) {
				return connect.NewError(connect.CodeDataLoss, errors.New("it was enough"))
			}
			if err != nil {
				return err
			}
			if err := s.Send(&outResponse{Payload: r.GetPayload()}); err != nil {
				return err
			}
		}
	}))
	return mux
}

// Every kind of call arrives in each protocol of Connect, over each version of HTTP
// that has it.
func TestConnect(t *testing.T) {
	w := newWorld(t, options{})
	secure := newEchoTLS(t, identity.ServerConfig(w.identified("spiffe://prod.example/ns/shop/orders"), identity.Only(self)))
	secure.answerWith(connectHandlers().ServeHTTP)
	plain := newEcho(t)
	plain.answerWith(connectHandlers().ServeHTTP)
	for _, to := range []struct {
		http2    bool
		upstream string
	}{
		{true, fmt.Sprintf(`spiffe: {peerIds: ["spiffe://prod.example/ns/shop/*"]}, endpoints: [%q]`, secure.address())},
		{false, plaintext(plain.address())},
	} {
		w.apply(strings.Replace(w.usual(to.upstream), `paths: ["/v1/**"]`, `paths: ["/grpc.testing.TestService/**"]`, 1))
		for name, options := range map[string][]connect.ClientOption{
			"Connect": nil, "Connect JSON": {connect.WithProtoJSON(), connect.WithSendGzip()},
			"gRPC-Web": {connect.WithGRPCWeb()}, "gRPC": {connect.WithGRPC()},
		} {
			for _, from := range []bool{false, true} {
				if name == "gRPC" && !(from && to.http2) {
					continue
				}
				t.Run(fmt.Sprintf("%s, HTTP/2 %t to %t", name, from, to.http2), func(t *testing.T) {
					c := &caller{w: w, http: w.client(from, w.tls(host)), options: options, group: "shop"}
					for call, err := range map[string]error{
						"unary": c.unary(t.Context()), "error": c.failing(t.Context()),
						"client streams": c.clientStreams(t.Context()), "server streams": c.serverStreams(t.Context()),
					} {
						if err != nil {
							t.Errorf("%s: %v", call, err)
						}
					}
					if from && to.http2 {
						if err := c.bothWays(t.Context()); err != nil {
							t.Errorf("both ways: %v", err)
						}
					}
				})
			}
		}
	}
	w.settle()
}

// Clients of each protocol understand why they are refused.
func TestConnectRefusals(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(strings.Replace(w.usual(plaintext("127.0.0.1:1")), `paths: ["/v1/**"]`, `paths: ["/grpc.testing.TestService/**"]`, 1))
	for name, options := range map[string][]connect.ClientOption{"Connect": nil, "gRPC-Web": {connect.WithGRPCWeb()}} {
		for _, http2 := range []bool{false, true} {
			for subject, want := range map[string]connect.Code{
				"bank": connect.CodePermissionDenied, "": connect.CodeUnauthenticated, "shop": connect.CodeUnavailable,
			} {
				c := &caller{w: w, http: w.client(http2, w.tls(host)), options: options, group: subject}
				if err := c.unary(t.Context()); connect.CodeOf(err) != want {
					t.Errorf("%s, HTTP/2 %t, group %q: %v", name, http2, subject, err)
				}
			}
		}
	}
}

// caller calls as a user of a group; as nobody when it is empty.
type caller struct {
	w       *world
	http    *http.Client
	options []connect.ClientOption
	group   string
}

func clientOf[Req, Res any](c *caller, procedure string) *connect.Client[Req, Res] {
	return connect.NewClient[Req, Res](c.http, "https://"+host+procedure, c.options...)
}

func (c *caller) token(h http.Header) {
	if c.group != "" {
		h.Set("Authorization", "Bearer "+c.w.tokens.sign(map[string]any{"groups": []string{c.group}}))
	}
}

func (c *caller) unary(ctx context.Context) error {
	r := connect.NewRequest(&unaryRequest{ResponseSize: 100_000, Payload: &pb.Payload{Body: make([]byte, 50_000)}})
	c.token(r.Header())
	r.Header().Set("X-Asked", "so")
	res, err := clientOf[unaryRequest, unaryResponse](c, unaryCall).CallUnary(ctx, r)
	if err != nil {
		return err
	}
	if n := len(res.Msg.GetPayload().GetBody()); n != 100_000 || res.Header().Get("X-Front") != "so" || res.Trailer().Get("X-Behind") != "yes" {
		return fmt.Errorf("%d bytes between %v and %v", n, res.Header(), res.Trailer())
	}
	return nil
}

func (c *caller) failing(ctx context.Context) error {
	r := connect.NewRequest(&unaryRequest{ResponseStatus: &pb.EchoStatus{Code: 9, Message: "tea \u2615"}})
	c.token(r.Header())
	_, err := clientOf[unaryRequest, unaryResponse](c, unaryCall).CallUnary(ctx, r)
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != connect.CodeFailedPrecondition || e.Message() != "tea \u2615" || e.Meta().Get("X-Behind") != "an error" {
		return fmt.Errorf("got %w", err)
	}
	return nil
}

func (c *caller) clientStreams(ctx context.Context) error {
	s := clientOf[inRequest, inResponse](c, inputCall).CallClientStream(ctx)
	c.token(s.RequestHeader())
	for _, size := range []int{27182, 8, 1828, 45904} {
		if err := s.Send(&inRequest{Payload: &pb.Payload{Body: make([]byte, size)}}); err != nil {
			return err
		}
	}
	res, err := s.CloseAndReceive()
	if err == nil && res.Msg.GetAggregatedPayloadSize() != 74922 {
		return fmt.Errorf("%d bytes", res.Msg.GetAggregatedPayloadSize())
	}
	return err
}

func (c *caller) serverStreams(ctx context.Context) error {
	r := connect.NewRequest(&outRequest{ResponseParameters: []*pb.ResponseParameters{{Size: 31415}, {Size: 9}, {Size: 2653}}})
	c.token(r.Header())
	s, err := clientOf[outRequest, outResponse](c, outputCall).CallServerStream(ctx, r)
	if err != nil {
		return err
	}
	defer s.Close()
	sum := 0
	for s.Receive() {
		sum += len(s.Msg().GetPayload().GetBody())
	}
	if s.Err() != nil || sum != 34077 || s.ResponseTrailer().Get("X-Behind") != "yes" {
		return fmt.Errorf("%d bytes, %w, behind them %v", sum, s.Err(), s.ResponseTrailer())
	}
	return nil
}

func (c *caller) bothWays(ctx context.Context) error {
	s := clientOf[outRequest, outResponse](c, fullDuplexCall).CallBidiStream(ctx)
	c.token(s.RequestHeader())
	for _, size := range []int{1, 31415, 0, 9} {
		if err := s.Send(&outRequest{Payload: &pb.Payload{Body: make([]byte, size)}}); err != nil {
			return err
		}
		if r, err := s.Receive(); err != nil || len(r.GetPayload().GetBody()) != size {
			return fmt.Errorf("%d bytes, %w", len(r.GetPayload().GetBody()), err)
		}
	}
	if err := s.CloseRequest(); err != nil {
		return err
	}
	if _, err := s.Receive(); connect.CodeOf(err) != connect.CodeDataLoss {
		return fmt.Errorf("at the end %w", err)
	}
	return s.CloseResponse()
}
