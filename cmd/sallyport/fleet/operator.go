package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

const enforcedWithin = 30 * time.Second

// Operator is an administrator who calls with an X.509-SVID. It is safe for
// concurrent use.
type Operator struct {
	Config    adminv1connect.ConfigServiceClient
	Fleet     adminv1connect.FleetServiceClient
	Decisions adminv1connect.DecisionServiceClient
}

func (f *Fleet) openOperator(ctx context.Context) error {
	socket, err := f.inside(ctx, OperatorID, "operator")
	if err != nil {
		return err
	}
	f.Described.WorkloadSocket = socket
	addr, err := identity.SocketAddr(socket)
	if err != nil {
		return err
	}
	source, err := identity.New(identity.Config{SocketAddr: addr, TrustDomain: TrustDomain, Log: f.log})
	if err != nil {
		return err
	}
	f.background(source.Run)
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := source.Wait(ctx); err != nil {
		return fmt.Errorf("identity of the operator: %w", err)
	}
	roots, err := f.Roots()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			svid, err := source.SVID()
			return svid.Certificate, err
		},
	}}}
	for _, r := range f.Replicas {
		r.Admin = &Operator{
			Config:    adminv1connect.NewConfigServiceClient(client, r.URL),
			Fleet:     adminv1connect.NewFleetServiceClient(client, r.URL),
			Decisions: adminv1connect.NewDecisionServiceClient(client, r.URL),
		}
	}
	f.Admin = f.Replicas[0].Admin
	return nil
}

// Roots are the authorities of the demo's server certificates.
func (f *Fleet) Roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(f.Described.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("the demo's authority cannot be read")
	}
	return pool, nil
}

// Apply applies resources and returns the revision.
func (o *Operator) Apply(ctx context.Context, text, message string) (int64, error) {
	res, err := o.apply(ctx, text, message)
	return res.GetRevision(), err
}

// Revoke applies revocations and returns the security lane's sequence.
func (o *Operator) Revoke(ctx context.Context, text, message string) (int64, error) {
	res, err := o.apply(ctx, text, message)
	return res.GetSecuritySequence(), err
}

func (o *Operator) apply(ctx context.Context, text, message string) (*adminv1.ApplyResponse, error) {
	located, problems := resource.ParseYAML([]byte(text))
	if problems.Total > 0 {
		return nil, errors.New(problems.Kept[0].String())
	}
	req := &adminv1.ApplyRequest{Message: message}
	for _, l := range located {
		req.Resources = append(req.Resources, l.Resource)
	}
	res, err := o.Config.Apply(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// Enforced waits for proof from environments, each with one proxy.
func (o *Operator) Enforced(ctx context.Context, revision int64, environments ...string) error {
	return o.proven(ctx, &adminv1.WaitEnforcedRequest{Revision: revision, Environments: environments})
}

// Revoked waits for proof that environments, each with one proxy, enforce the
// security lane up to a sequence.
func (o *Operator) Revoked(ctx context.Context, sequence int64, environments ...string) error {
	return o.proven(ctx, &adminv1.WaitEnforcedRequest{SecuritySequence: sequence, Environments: environments})
}

// proven waits until each environment has one proxy that proves it. One that has lost
// its replica is not waited for by the control plane, but here: it comes back.
func (o *Operator) proven(ctx context.Context, req *adminv1.WaitEnforcedRequest) error {
	what := fmt.Sprint("revision ", req.GetRevision())
	if req.GetSecuritySequence() > 0 {
		what = fmt.Sprint("security sequence ", req.GetSecuritySequence())
	}
	req.Timeout = durationpb.New(enforcedWithin)
	late := time.After(enforcedWithin)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		found, err := o.proof(ctx, req)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		lacks := slices.IndexFunc(found, func(e *adminv1.EnvironmentProgress) bool { return e.GetEnforced() != 1 })
		if lacks < 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-late:
			return fmt.Errorf("%s is enforced by %d proxies of %s, not by one", what, found[lacks].GetEnforced(), found[lacks].GetEnvironment())
		case <-again.C:
		}
	}
}

// proof returns what the control plane says when it has waited.
func (o *Operator) proof(ctx context.Context, req *adminv1.WaitEnforcedRequest) ([]*adminv1.EnvironmentProgress, error) {
	stream, err := o.Fleet.WaitEnforced(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }() // its error is the stream's
	var last *adminv1.WaitEnforcedResponse
	for stream.Receive() {
		last = stream.Msg()
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if !last.GetDone() || len(last.GetEnvironments()) != len(req.GetEnvironments()) {
		return nil, errors.New("the control plane gave no proof")
	}
	return last.GetEnvironments(), nil
}

// connected returns how many proxies have a stream.
func (o *Operator) connected(ctx context.Context) (n int, err error) {
	res, err := o.Fleet.ListProxies(ctx, connect.NewRequest(&adminv1.ListProxiesRequest{}))
	if err != nil {
		return 0, err
	}
	for _, p := range res.Msg.GetProxies() {
		if p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED {
			n++
		}
	}
	return n, nil
}

// isReady asks /readyz; else it returns why not, or otherwise when nobody
// answers.
func isReady(ctx context.Context, status, otherwise string) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, status+"/readyz", nil)
	if err != nil {
		return false, err.Error()
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return false, otherwise
	}
	defer res.Body.Close()
	why, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return false, otherwise
	}
	return res.StatusCode == http.StatusOK, strings.TrimSpace(string(why))
}
