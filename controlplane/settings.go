package controlplane

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/internal/identity"
)

// maxSettings bounds a settings file and the files that it names, in bytes.
const maxSettings = 1 << 20

// Settings are the file of a control-plane process.
type Settings struct {
	// Replica names this process in the fleet; the host name when empty. Two
	// replicas must not share a name.
	Replica string `json:"replica"`
	// Workload is where this process gets its own identity.
	Workload Workload `json:"workload"`
	// Database is where resources and the fleet are kept.
	Database Database `json:"database"`
	// Etcd is where snapshots are published.
	Etcd Etcd `json:"etcd"`
	// SigningKeyFile is a PEM file with the fleet's Ed25519 private key
	// (PKCS #8). Proxies pin its public key.
	SigningKeyFile string `json:"signing_key_file"`
	// Admin is the listener for operators.
	Admin Admin `json:"admin"`
	// Proxies is the listener for proxies.
	Proxies Listen `json:"proxies"`
	// Health is the listener for /healthz, /readyz and /metrics, without TLS;
	// none when its address is empty.
	Health Listen `json:"health"`
}

// Workload names the SPIFFE Workload API.
type Workload struct {
	// Socket is the path of its unix socket.
	Socket string `json:"socket"`
	// TrustDomain is that of this fleet, such as prod.example.
	TrustDomain string `json:"trust_domain"`
}

// Database names the Postgres database.
type Database struct {
	// URLFile is a file with a connection string of Postgres (a URL, or
	// key=value), so that no password stands in the settings.
	URLFile string `json:"url_file"`
	// MaxConnections bounds the pool; 16 when 0.
	MaxConnections int `json:"max_connections"`
}

// Etcd names the etcd cluster.
type Etcd struct {
	Endpoints []string `json:"endpoints"`
	// CAFile, CertificateFile and PrivateKeyFile are PEM files for mutual TLS;
	// all of them or none.
	CAFile          string `json:"ca_file"`
	CertificateFile string `json:"certificate_file"`
	PrivateKeyFile  string `json:"private_key_file"`
	// Prefix is below which everything lies; /sallyport/v1 when empty.
	Prefix string `json:"prefix"`
}

// Listen is an address to listen on.
type Listen struct {
	// Address is host:port; an empty host is every address.
	Address string `json:"address"`
}

// Admin is the listener for operators.
type Admin struct {
	// Address is host:port; an empty host is every address.
	Address string `json:"address"`
	// CertificateFile and PrivateKeyFile are PEM files; the X.509-SVID of this
	// process when empty.
	CertificateFile string `json:"certificate_file"`
	PrivateKeyFile  string `json:"private_key_file"`
	// IdentityProviders are those whose tokens name administrators.
	IdentityProviders []IdentityProvider `json:"identity_providers"`
	// Administrators are who may call the API, and what.
	Administrators []Administrator `json:"administrators"`
}

// IdentityProvider verifies the bearer tokens of administrators.
type IdentityProvider struct {
	// Issuer equals the token's iss.
	Issuer string `json:"issuer"`
	// JWKSURL is where its keys are; https, or http to a loopback address.
	JWKSURL string `json:"jwks_url"`
	// Audiences are those of which the token's aud must hold one.
	Audiences []string `json:"audiences"`
}

// Administrator names a caller by SPIFFE ID, or by issuer and subject.
type Administrator struct {
	SPIFFEID string `json:"spiffe_id"`
	Issuer   string `json:"issuer"`
	Subject  string `json:"subject"`
	// Role is viewer or admin.
	Role string `json:"role"`
}

// LoadSettings reads a settings file. A key that is not known is an error, and
// so is everything else that is wrong, all at once.
func LoadSettings(path string) (Settings, error) {
	b, err := readBounded(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read settings: %w", err)
	}
	var s Settings
	if err := yaml.UnmarshalStrict(b, &s); err != nil {
		return Settings{}, fmt.Errorf("settings %s: %w", path, err)
	}
	if s.Replica == "" {
		if s.Replica, err = os.Hostname(); err != nil {
			return Settings{}, fmt.Errorf("host name: %w", err)
		}
	}
	if err := s.Validate(); err != nil {
		return Settings{}, fmt.Errorf("settings %s:\n%w", path, err)
	}
	return s, nil
}

// Validate returns everything that is wrong with the settings, one problem a
// line. It reads the files that they name.
func (s *Settings) Validate() error {
	var errs []error
	report := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	required := func(field, value string) bool {
		if value == "" {
			report(field, errors.New("is required"))
		}
		return value != ""
	}
	if required("workload.socket", s.Workload.Socket) {
		_, err := identity.SocketAddr(s.Workload.Socket)
		report("workload.socket", err)
	}
	if required("workload.trust_domain", s.Workload.TrustDomain) {
		_, err := identity.ParseTrustDomain(s.Workload.TrustDomain)
		report("workload.trust_domain", err)
	}
	if required("database.url_file", s.Database.URLFile) {
		_, err := readBounded(s.Database.URLFile)
		report("database.url_file", err)
	}
	if s.Database.MaxConnections < 0 {
		report("database.max_connections", errors.New("is negative"))
	}
	if len(s.Etcd.Endpoints) == 0 {
		report("etcd.endpoints", errors.New("is required"))
	}
	report("etcd", s.Etcd.validate())
	if required("signing_key_file", s.SigningKeyFile) {
		_, err := readSigningKey(s.SigningKeyFile)
		report("signing_key_file", err)
	}
	report("admin.address", checkAddress(s.Admin.Address))
	report("proxies.address", checkAddress(s.Proxies.Address))
	if s.Health.Address != "" {
		report("health.address", checkAddress(s.Health.Address))
	}
	if (s.Admin.CertificateFile == "") != (s.Admin.PrivateKeyFile == "") {
		report("admin", errors.New("certificate_file and private_key_file go together"))
	}
	for i, p := range s.Admin.IdentityProviders {
		report(fmt.Sprintf("admin.identity_providers[%d]", i), p.validate())
	}
	if len(s.Admin.Administrators) == 0 {
		report("admin.administrators", errors.New("name at least one, or nobody can use this control plane"))
	}
	_, err := s.Admin.control()
	report("admin.administrators", err)
	return errors.Join(errs...)
}

func (e *Etcd) validate() error {
	given := 0
	for _, f := range []string{e.CAFile, e.CertificateFile, e.PrivateKeyFile} {
		if f != "" {
			given++
		}
	}
	if given != 0 && given != 3 {
		return errors.New("ca_file, certificate_file and private_key_file go together")
	}
	return nil
}

func (p *IdentityProvider) validate() error {
	if p.Issuer == "" || p.JWKSURL == "" || len(p.Audiences) == 0 {
		return errors.New("issuer, jwks_url and audiences are required")
	}
	return nil
}

// control returns the access rules of the administrators.
func (a *Admin) control() (*access.Control, error) {
	all := make([]access.Administrator, len(a.Administrators))
	var errs []error
	for i, admin := range a.Administrators {
		role, err := access.ParseRole(admin.Role)
		if err != nil {
			errs = append(errs, fmt.Errorf("administrator %d: %w", i, err))
		}
		all[i] = access.Administrator{
			Caller: access.Caller{SPIFFEID: admin.SPIFFEID, Issuer: admin.Issuer, Subject: admin.Subject},
			Role:   role,
		}
		if admin.SPIFFEID != "" {
			if _, err := identity.ParseID(admin.SPIFFEID); err != nil {
				errs = append(errs, fmt.Errorf("administrator %d: %w", i, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return access.NewControl(all)
}

func checkAddress(address string) error {
	if address == "" {
		return errors.New("is required")
	}
	_, _, err := net.SplitHostPort(address)
	return err
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSettings {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxSettings)
	}
	return os.ReadFile(path)
}

func readSigningKey(path string) (ed25519.PrivateKey, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("is not a PEM file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse PKCS #8 key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("is not an Ed25519 key")
	}
	return key, nil
}
