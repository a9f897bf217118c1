package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Protocols, as TLS negotiates them.
const (
	http1 = "http/1.1"
	http2 = "h2"
)

// Check asks e once, and returns why it does not pass.
func (p *Prober) Check(ctx context.Context, c Check, e Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	switch c.Kind {
	case HTTP:
		return c.http(ctx, e)
	case TCP:
		return c.tcp(ctx, e)
	case GRPC:
		return c.grpc(ctx, e)
	}
	return errors.New("it is not known how to check the endpoint")
}

func (c *Check) tcp(ctx context.Context, e Endpoint) error {
	conn, err := e.Connect(ctx, http2, http1)
	if err != nil {
		return err
	}
	_ = conn.Close() // it has shown what it is for
	return nil
}

func (c *Check) http(ctx context.Context, e Endpoint) error {
	transport := e.transport(http2, http1)
	defer transport.CloseIdleConnections()
	r, err := c.request(ctx, e, http.MethodGet, c.Path, nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if !c.passes(answer.StatusCode) {
		return fmt.Errorf("answered %d", answer.StatusCode)
	}
	// An endpoint is not bothered by a small answer that nobody reads.
	_, err = io.CopyN(io.Discard, answer.Body, maxBody)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func (c *Check) passes(status int) bool {
	if len(c.Pass) == 0 {
		return status >= 200 && status <= 299
	}
	for _, r := range c.Pass {
		if status >= r.From && status <= r.To {
			return true
		}
	}
	return false
}

// request makes a request of the check. Target is a path with, maybe, a query.
func (c *Check) request(ctx context.Context, e Endpoint, method, target string, body io.Reader) (*http.Request, error) {
	at, err := url.ParseRequestURI(target)
	if err != nil || !strings.HasPrefix(target, "/") {
		return nil, fmt.Errorf("%q is no path", target)
	}
	at.Scheme, at.Host = "https", e.Address
	r, err := http.NewRequestWithContext(ctx, method, at.String(), body)
	if err != nil {
		return nil, err
	}
	if c.Host != "" {
		r.Host = c.Host
	}
	r.Header.Set("User-Agent", "sallyport-health")
	return r, nil
}

// transport is for one request. What e connects is HTTPS to it, with TLS or without.
func (e Endpoint) transport(protocols ...string) *http.Transport {
	both := &http.Protocols{}
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return e.Connect(ctx, protocols...)
		},
		Protocols: both, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHead,
	}
}

// The numbers of grpc.health.v1.
const (
	fieldService = 1 // of HealthCheckRequest
	fieldStatus  = 1 // of HealthCheckResponse
	serving      = 1
)

// grpc asks as gRPC's own health protocol has it. One call does not need a client of
// gRPC, with its own ideas of connections.
func (c *Check) grpc(ctx context.Context, e Endpoint) error {
	transport := e.transport(http2)
	defer transport.CloseIdleConnections()
	r, err := c.request(ctx, e, http.MethodPost, "/grpc.health.v1.Health/Check", bytes.NewReader(c.question()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %d over %s, which is not gRPC", answer.StatusCode, answer.Proto)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case len(body) > maxBody:
		return errors.New("answered with more than a health check has to say")
	}
	if code := grpcStatus(answer); code != "0" {
		return fmt.Errorf("answered with gRPC status %q", code)
	}
	return served(body)
}

// question is the message of the call, with its length before it.
func (c *Check) question() []byte {
	var m []byte
	if c.Service != "" {
		m = protowire.AppendString(protowire.AppendTag(m, fieldService, protowire.BytesType), c.Service)
	}
	q := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))) //nolint:gosec // the service's name is bounded
	return append(q, m...)
}

// grpcStatus is in the trailers, or in the head of an answer that has nothing else.
func grpcStatus(answer *http.Response) string {
	if code := answer.Trailer.Get("Grpc-Status"); code != "" {
		return code
	}
	return answer.Header.Get("Grpc-Status")
}

// served returns why the message in body does not say that the service is served.
func served(body []byte) error {
	const prefix = 5
	if len(body) < prefix || body[0] != 0 || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-prefix) {
		return errors.New("answered with what is no message of gRPC")
	}
	var status uint64
	for m := body[prefix:]; len(m) > 0; {
		number, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return fmt.Errorf("read answer: %w", protowire.ParseError(n))
		}
		m = m[n:]
		if number == fieldStatus && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(m)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, m)
		}
		if n < 0 {
			return fmt.Errorf("read answer: %w", protowire.ParseError(n))
		}
		m = m[n:]
	}
	if status != serving {
		return fmt.Errorf("answered with health status %d, not %d (SERVING)", status, serving)
	}
	return nil
}
