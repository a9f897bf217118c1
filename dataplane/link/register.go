package link

import (
	"bytes"
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

// introduce tells the control plane of this process. Its keys are bound to an SVID that
// lasts for as long as that of the connection: when it was renewed on the way there, they
// are bound to the new one.
func (l *Link) introduce(ctx context.Context, client proxyv1connect.ProxyServiceClient) (*connect.Response[proxyv1.RegisterResponse], error) {
	req := l.registration(ctx)
	res, err := client.Register(ctx, connect.NewRequest(req))
	if err != nil || l.bound(req) {
		return res, err
	}
	return client.Register(ctx, connect.NewRequest(l.registration(ctx)))
}

// registration is what this process says of itself.
func (l *Link) registration(ctx context.Context) *proxyv1.RegisterRequest {
	return &proxyv1.RegisterRequest{
		Instance:        l.cfg.Instance,
		Build:           clip(l.cfg.Build, 256),
		ProtocolVersion: int32(snapshot.NewestProtocol),
		SealingKey:      l.cookies.public(),
		Cloud:           l.cfg.Cloud,
		Region:          l.cfg.Region,
		StartedAt:       timestamppb.New(l.started),
		AckKey:          l.signs.Public(),
		Binding:         l.binding(ctx),
	}
}

// binding binds the keys of this process to its SVID; nil without one, which cannot
// connect either, and if it cannot be done: then only who has the proxy's connection
// knows whose keys they are.
func (l *Link) binding(ctx context.Context) *proxyv1.KeyBinding {
	svid, err := l.cfg.Identity.SVID()
	if err != nil {
		return nil
	}
	b, err := proof.Bind(proof.Keys{
		SPIFFEID: string(svid.ID), Instance: l.cfg.Instance, Ack: l.signs.Public(), Sealing: l.cookies.public(),
	}, svid)
	if err != nil {
		l.log.WarnContext(ctx, "keys of this process were not bound to its svid", "err", err)
		return nil
	}
	return b
}

// bound reports whether the SVID of a registration is that of now, if there is one.
func (l *Link) bound(req *proxyv1.RegisterRequest) bool {
	svid, err := l.cfg.Identity.SVID()
	return err != nil || req.GetBinding() == nil || bytes.Equal(req.GetBinding().GetChain(), svid.Chain())
}
