package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/internal/identity"
)

// Requests are empty messages from a handful of local processes.
const (
	maxRequest = 64 << 10
	maxStreams = 100
)

// Endpoint is the Workload API of one workload. It is safe for concurrent use.
type Endpoint struct {
	issuer *Issuer
	id     identity.ID
	addr   string
	path   string
	ln     net.Listener
}

// Listen binds a unix socket at the absolute path: whoever mode lets open it is the
// workload id. A zero mode is 0600. A socket that nobody serves any longer is
// replaced; one in use, and anything that is no socket, is left alone and refused.
//
// Clients may connect as soon as Listen returns; Run answers them, and removes the
// socket in the end.
func (i *Issuer) Listen(id identity.ID, path string, mode fs.FileMode) (*Endpoint, error) {
	if err := i.owns(id); err != nil {
		return nil, fmt.Errorf("listen for workload: %w", err)
	}
	addr, err := identity.SocketAddr(path)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", id, err)
	}
	if mode == 0 {
		mode = 0o600
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen for %s: %w", id, err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", id, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for %s: %w", id, err), ln.Close())
	}
	return &Endpoint{issuer: i, id: id, addr: addr, path: path, ln: ln}, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is in use", path), conn.Close())
	}
	// Only this says that nobody listens; a slow owner is an owner.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Addr is where clients find the endpoint, as identity.Config.SocketAddr takes it.
func (e *Endpoint) Addr() string { return e.addr }

// Run serves until ctx ends, then closes every stream, removes the socket and
// returns nil. Call it once.
func (e *Endpoint) Run(ctx context.Context) error {
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.UnaryInterceptor(requireHeaderUnary),
		grpc.StreamInterceptor(requireHeaderStream),
	)
	workload.RegisterSpiffeWorkloadAPIServer(srv, &service{issuer: e.issuer, id: e.id})
	e.issuer.cfg.Log.Info("workload api opened", "spiffe_id", e.id, "socket", e.path)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(e.ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve Workload API of %s: %w", e.id, err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		srv.Stop()
		return nil
	})
	return g.Wait()
}

// requireHeader refuses calls without the header that a forged request from
// elsewhere cannot carry (Workload Endpoint sections 3 and 6).
func requireHeader(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if !slices.Equal(md.Get("workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header workload.spiffe.io is missing")
	}
	return nil
}

func requireHeaderUnary(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	if err := requireHeader(ctx); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func requireHeaderStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := requireHeader(ss.Context()); err != nil {
		return err
	}
	return handle(srv, ss)
}

// service answers the X.509 and the JWT profile; the embedded server says
// Unimplemented to the others, as the Workload API allows.
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	issuer *Issuer
	id     identity.ID
}

// FetchX509SVID sends a fresh SVID at once, at half of its life, and on a push.
func (s *service) FetchX509SVID(
	_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse],
) error {
	for {
		federated, changed := s.issuer.trust()
		resp, err := s.svid()
		if err != nil {
			return err
		}
		resp.FederatedBundles = bundles(federated)
		if err := stream.Send(resp); err != nil {
			return err
		}
		if err := wait(stream.Context(), changed, time.After(s.issuer.cfg.TTL/2)); err != nil {
			return err
		}
	}
}

// FetchX509Bundles sends the bundles at once and on a push.
func (s *service) FetchX509Bundles(
	_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse],
) error {
	for {
		federated, changed := s.issuer.trust()
		resp := &workload.X509BundlesResponse{Bundles: bundles(federated)}
		resp.Bundles[bundleKey(s.issuer.cfg.TrustDomain)] = s.issuer.svids.cert.Raw
		if err := stream.Send(resp); err != nil {
			return err
		}
		if err := wait(stream.Context(), changed, nil); err != nil {
			return err
		}
	}
}

func (s *service) svid() (*workload.X509SVIDResponse, error) {
	cert, err := s.issuer.Issue(s.id, s.issuer.cfg.TTL)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId:    string(s.id),
		X509Svid:    slices.Concat(cert.Certificate...),
		X509SvidKey: key,
		Bundle:      s.issuer.svids.cert.Raw,
	}}}, nil
}

func bundles(federated map[identity.TrustDomain][]*x509.Certificate) map[string][]byte {
	out := make(map[string][]byte)
	for td, roots := range federated {
		for _, root := range roots {
			out[bundleKey(td)] = append(out[bundleKey(td)], root.Raw...)
		}
	}
	return out
}

func bundleKey(td identity.TrustDomain) string { return "spiffe://" + string(td) }

// wait returns nil when there is something to send. A nil timer never fires.
func wait(ctx context.Context, changed <-chan struct{}, timer <-chan time.Time) error {
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-changed:
	case <-timer:
	}
	return nil
}
