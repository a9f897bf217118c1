package dataplane

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/sallyport/sallyport/dataplane/gateway"
	"github.com/sallyport/sallyport/dataplane/limit/redis"
)

// Limits say where rate limits of the fleet are counted.
type Limits struct {
	// Redis is a Redis or Valkey server that all proxies of the fleet share; none when
	// its address is empty: then each proxy has a share of these limits.
	Redis Redis `json:"redis"`
}

// Redis is a server.
type Redis struct {
	// Address is host:port.
	Address string `json:"address"`
	// CAFile is a PEM file with the authorities that vouch for the server's
	// certificate, for its host. Without one nothing is encrypted, which only a
	// loopback address may be.
	CAFile string `json:"ca_file"`
	// Username is who asks; the server's default user when empty.
	Username string `json:"username"`
	// PasswordFile holds the password, read for each connection; none when empty.
	PasswordFile string `json:"password_file"`
}

func (r Redis) validate(report func(field string, err error)) {
	if r.Address == "" {
		if r != (Redis{}) {
			report("limits.redis.address", errRequired)
		}
		return
	}
	report("limits.redis.address", checkAddress(r.Address))
	switch host, _, _ := net.SplitHostPort(r.Address); {
	case r.CAFile != "":
		_, err := r.tls()
		report("limits.redis.ca_file", err)
	case !isLoopback(host):
		report("limits.redis.ca_file", errors.New("is required, but for a loopback address"))
	}
	if r.PasswordFile != "" {
		report("limits.redis.password_file", checkAbsolute(r.PasswordFile))
	} else if r.Username != "" {
		report("limits.redis.password_file", errors.New("is required with username"))
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// tls returns nil for a server that is asked without TLS.
func (r Redis) tls() (*tls.Config, error) {
	if r.CAFile == "" {
		return nil, nil //nolint:nilnil // documented
	}
	if err := checkAbsolute(r.CAFile); err != nil {
		return nil, err
	}
	pem, err := readBounded(r.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("holds no certificate")
	}
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: host}, nil
}

func (r Redis) password() (string, error) {
	b, err := readBounded(r.PasswordFile)
	return string(bytes.TrimRight(b, "\r\n")), err
}

// openLimits builds the store of the fleet's limits, if there is one.
func (p *Proxy) openLimits() error {
	r := p.settings.Limits.Redis
	if r.Address == "" {
		return nil
	}
	secured, err := r.tls()
	if err != nil {
		return fmt.Errorf("limits.redis.ca_file: %w", err)
	}
	c := redis.Config{
		Address: r.Address, TLS: secured, Username: r.Username,
		Instance: p.settings.Instance + "/" + rand.Text(), Log: p.log, Registerer: p.metrics,
	}
	if r.PasswordFile != "" {
		c.Password = r.password
	}
	p.limits, err = redis.New(c)
	return err
}

// store is nil when there is none: a nil Store would be one.
func (p *Proxy) store() gateway.LimitStore {
	if p.limits == nil {
		return nil
	}
	return p.limits
}
