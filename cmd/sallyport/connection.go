package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

const (
	// identityWithin bounds the wait for an SVID from the Workload API.
	identityWithin = 10 * time.Second
	// connectWithin bounds the way to the control plane.
	connectWithin = 10 * time.Second
	// answerWithin bounds a call, but for those that wait for proxies.
	answerWithin = 2 * time.Minute
	// maxToken bounds a file with a token, in bytes.
	maxToken = 64 << 10
)

// connection is how the control plane is reached, and who is calling.
type connection struct {
	server    string
	serverID  string
	caFile    string
	socket    string
	tokenFile string
}

// flags adds the flags of a connection to a command.
func (c *connection) flags(cmd *cobra.Command) *cobra.Command {
	f := cmd.PersistentFlags()
	f.StringVar(&c.server, "server", "", "the control plane's `URL`, such as https://controlplane.example:7443")
	f.StringVar(&c.serverID, "server-id", "", "the control plane's SPIFFE `ID`, when it presents its X.509-SVID")
	f.StringVar(&c.caFile, "ca-file", "", "PEM `file` with the authorities that may vouch for the server; the system's when empty")
	f.StringVar(&c.socket, "workload-socket", "", "`path` of the SPIFFE Workload API's socket, to call with our X.509-SVID")
	f.StringVar(&c.tokenFile, "token-file", "", "`file` with a bearer token to call with")
	return cmd
}

// clients are the services of the control plane.
type clients struct {
	config    adminv1connect.ConfigServiceClient
	fleet     adminv1connect.FleetServiceClient
	decisions adminv1connect.DecisionServiceClient
	policies  adminv1connect.PolicyServiceClient
	bundles   adminv1connect.BundleServiceClient
	close     func()
}

// open returns clients; the caller closes them.
func (c *connection) open(ctx context.Context) (*clients, error) {
	if c.server == "" {
		return nil, errors.New("which control plane? give --server or SALLYPORT_SERVER")
	}
	if !strings.HasPrefix(c.server, "https://") {
		return nil, fmt.Errorf("--server %s: a control plane is reached by https only", c.server)
	}
	source, stop, err := c.identity(ctx)
	if err != nil {
		return nil, err
	}
	config, err := c.tls(source)
	if err != nil {
		stop()
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig:     config,
		ForceAttemptHTTP2:   true,
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: connectWithin}).DialContext,
		TLSHandshakeTimeout: connectWithin,
	}
	options := []connect.ClientOption{connect.WithInterceptors(connect.UnaryInterceptorFunc(patient))}
	if c.tokenFile != "" {
		token, err := readToken(c.tokenFile)
		if err != nil {
			stop()
			return nil, err
		}
		options = append(options, connect.WithInterceptors(bearer(token)))
	}
	client := &http.Client{
		Transport: transport,
		// A token is for the server that was named, and nobody whom that names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &clients{
		config:    adminv1connect.NewConfigServiceClient(client, c.server, options...),
		fleet:     adminv1connect.NewFleetServiceClient(client, c.server, options...),
		decisions: adminv1connect.NewDecisionServiceClient(client, c.server, options...),
		policies:  adminv1connect.NewPolicyServiceClient(client, c.server, options...),
		bundles:   adminv1connect.NewBundleServiceClient(client, c.server, options...),
		close:     func() { transport.CloseIdleConnections(); stop() },
	}, nil
}

// patient waits for an answer, but not forever.
func patient(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		return next(ctx, req)
	}
}

// identity returns a source that has our SVID; nil without a socket.
func (c *connection) identity(ctx context.Context) (*identity.Source, func(), error) {
	if c.socket == "" {
		if c.serverID != "" {
			return nil, nil, errors.New("--server-id needs --workload-socket, which holds the trust bundle")
		}
		return nil, func() {}, nil
	}
	addr, err := identity.SocketAddr(c.socket)
	if err != nil {
		return nil, nil, fmt.Errorf("--workload-socket: %w", err)
	}
	source, err := identity.New(identity.Config{SocketAddr: addr, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = source.Run(ctx) // returns nil when ctx ends
	}()
	stop := func() { cancel(); <-done }
	waiting, waited := context.WithTimeout(ctx, identityWithin)
	defer waited()
	if err := source.Wait(waiting); err != nil {
		stop()
		return nil, nil, fmt.Errorf("get an identity from %s: %w", c.socket, err)
	}
	return source, stop, nil
}

func (c *connection) tls(source *identity.Source) (*tls.Config, error) {
	if c.serverID != "" {
		if c.caFile != "" {
			return nil, errors.New("give --server-id or --ca-file, not both: one trusts an X.509-SVID, the other a certificate with a host name")
		}
		id, err := identity.ParseID(c.serverID)
		if err != nil {
			return nil, fmt.Errorf("--server-id: %w", err)
		}
		return identity.ClientConfig(source, identity.Only(id)), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.caFile != "" {
		pem, err := os.ReadFile(c.caFile)
		if err != nil {
			return nil, fmt.Errorf("read --ca-file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file %s holds no certificate", c.caFile)
		}
	}
	if source != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			svid, err := source.SVID()
			return svid.Certificate, err
		}
	}
	return config, nil
}

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read --token-file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read --token-file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || len(b) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("--token-file %s does not hold one token", path)
	}
	return token, nil
}

// bearer adds a token to every call.
type bearer string

func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, req)
	}
}

func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
