package fleet

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// Request is a request to a proxy.
type Request struct {
	Method string
	Path   string // sent as these bytes
	Token  string // sent as bearer token; none when empty
	// Certificate sends the X.509-SVID of BillingID.
	Certificate bool
}

// Answer is what a proxy answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte // at most its first 64 KiB
}

// Send sends a request to a proxy, on a connection of its own.
func (f *Fleet) Send(ctx context.Context, m *Member, r Request) (Answer, error) {
	client, err := f.Client(r.Certificate)
	if err != nil {
		return Answer{}, err
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, r.Method, m.URL, nil)
	if err != nil {
		return Answer{}, err
	}
	req.URL.Opaque = r.Path
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	res, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return Answer{Status: res.StatusCode, Header: res.Header, Body: body}, err
}

// Client returns a client of the proxies, which presents the X.509-SVID of BillingID
// or no certificate.
func (f *Fleet) Client(certificate bool) (*http.Client, error) {
	roots, err := f.Roots()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if certificate {
		c, err := tls.LoadX509KeyPair(f.Described.Client.CertificateFile, f.Described.Client.PrivateKeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{c}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, nil
}
