package stream

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// logoutWithin bounds a logout, however long the proxy would wait.
const logoutWithin = 8 * time.Second

// ErrProof says that what should prove that a session has ended proves nothing.
var ErrProof = errors.New("the proof was refused")

// Logout implements proxyv1connect.ProxyServiceHandler.
func (s *Service) Logout(ctx context.Context, req *connect.Request[proxyv1.LogoutRequest]) (*connect.Response[proxyv1.LogoutResponse], error) {
	p, err := peerOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	if err := s.known(); err != nil {
		return nil, err
	}
	admission, err := s.registry.Admit(string(p.id))
	if err != nil {
		return nil, public(err)
	}
	if s.ended == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("logouts are not passed on here"))
	}
	ctx, cancel := context.WithTimeout(ctx, logoutWithin)
	defer cancel()
	if err := s.ended(ctx, admission.Environment, string(p.id), req.Msg); err != nil {
		s.log.ErrorContext(ctx, "logout was not passed on to the fleet", "proxy", string(p.id), "err", err)
		return nil, LogoutError(err)
	}
	return connect.NewResponse(&proxyv1.LogoutResponse{}), nil
}

// LogoutError is what a proxy sees of why a logout was not passed on.
func LogoutError(err error) error {
	if errors.Is(err, ErrProof) {
		return connect.NewError(connect.CodeInvalidArgument, ErrProof)
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("nothing was committed yet"))
}
