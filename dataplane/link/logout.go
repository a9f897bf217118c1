package link

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"connectrpc.com/connect"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

// LoggedOut has a session that has ended be cut off in the whole fleet. When it
// returns nil, that is committed; after an error it may be. It tries until ctx
// ends, at whichever replica keeps this proxy current, unless the proof is refused.
// It is safe for concurrent use.
func (l *Link) LoggedOut(ctx context.Context, proof *proxyv1.LogoutRequest) error {
	var retry backoff
	last := errors.New("no replica of the control plane is connected")
	for {
		client, err := l.replica.await(ctx)
		if err != nil {
			return fmt.Errorf("logout: %w: %w", err, last)
		}
		if _, err = client.Logout(ctx, connect.NewRequest(proof)); err == nil || isFinal(err) {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		pause(ctx, retry.next())
	}
}

// isFinal reports whether another replica, or a later time, would say the same.
func isFinal(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeUnimplemented:
		return true
	}
	return false
}

// reach is the replica that keeps a proxy current, for calls beside the stream. It
// is safe for concurrent use.
type reach struct {
	mu      sync.Mutex
	client  proxyv1connect.ProxyServiceClient // nil while there is none
	changed chan struct{}                     // closed when there is one; nil while nobody waits
}

// set has calls go to client, and wait while it is nil.
func (r *reach) set(client proxyv1connect.ProxyServiceClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.client = client
	if client != nil && r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// await returns the client once there is one. Its only error is that ctx has ended.
func (r *reach) await(ctx context.Context) (proxyv1connect.ProxyServiceClient, error) {
	for ctx.Err() == nil {
		r.mu.Lock()
		client := r.client
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if client != nil {
			return client, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil, ctx.Err()
}
