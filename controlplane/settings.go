package controlplane

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/settings"
	"github.com/sallyport/sallyport/storage/postgres"
)

// maxSettings bounds a settings file and the files that it names, in bytes.
const maxSettings = 1 << 20

// Settings are the file of a control-plane process.
type Settings struct {
	// Replica names this process in the fleet; the host name when empty. Two
	// replicas must not share a name.
	Replica string `json:"replica"`
	// Role is full, or edge: a replica near proxies that has no database. Full when
	// empty.
	Role string `json:"role"`
	// ControlPlanes are, of an edge, the URLs of replicas with a database, where they
	// serve proxies, such as https://controlplane.example:8444.
	ControlPlanes []string `json:"control_planes"`
	// ControlPlaneID is, of an edge, the SPIFFE ID that every one of them has to prove.
	ControlPlaneID string `json:"control_plane_id"`
	// Edges are those that may hand on to this replica what proxies say; nobody else
	// may.
	Edges []Edge `json:"edges"`
	// Workload is where this process gets its own identity.
	Workload Workload `json:"workload"`
	// Database is where resources and the fleet are kept.
	Database Database `json:"database"`
	// Decisions is how the decision records of proxies are kept, in the same
	// database.
	Decisions Decisions `json:"decisions"`
	// Fleet is how proxies are kept account of.
	Fleet Fleet `json:"fleet"`
	// Revisions is for how long the history of resources is kept.
	Revisions Revisions `json:"revisions"`
	// Etcd is where snapshots are published: the target named "etcd".
	Etcd Etcd `json:"etcd"`
	// Targets are further etcds where the same is published, such as one in each
	// cloud. All replicas name the same: what is named by the publisher counts.
	Targets []Target `json:"targets"`
	// Election is the etcd where the publisher is elected, the same for all replicas;
	// Etcd when nothing is said.
	Election Etcd `json:"election"`
	// Follows is the name of the target that this replica serves its proxies from,
	// such as the nearest; "etcd" when empty.
	Follows string `json:"follows"`
	// SigningKeyFile is a PEM file with a signing key of the fleet: an Ed25519
	// private key (PKCS #8). Proxies pin the public key of the first.
	SigningKeyFile string `json:"signing_key_file"`
	// SigningKeyPKCS11 is a signing key in hardware, instead of SigningKeyFile.
	SigningKeyPKCS11 PKCS11 `json:"signing_key_pkcs11"`
	// RootPublicKeyFile is a PEM file with the public key that proxies pin; where
	// they pin different ones, the oldest. Empty: that of the signing key, which is
	// right until the first rotation.
	RootPublicKeyFile string `json:"root_public_key_file"`
	// SecretsKeyFile is a PEM file with an Ed25519 private key (PKCS #8) that signs
	// nothing: keys are derived from it with which cookie keys in the database are
	// encrypted and pseudonyms are made. Empty: SigningKeyFile, and then both change
	// with it.
	SecretsKeyFile string `json:"secrets_key_file"`
	// Admin is the listener for operators.
	Admin Admin `json:"admin"`
	// Proxies is the listener for proxies.
	Proxies Listen `json:"proxies"`
	// Health is the listener for /healthz, /readyz, /metrics and profiles, without TLS;
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

// Decisions is how decision records are kept.
type Decisions struct {
	// RetentionDays is after how many days records are dropped; 30 when 0.
	RetentionDays int `json:"retention_days"`
	// MaxConnections bounds a pool of connections for records alone; 4 when 0.
	MaxConnections int `json:"max_connections"`
}

// Revisions is how the history of resources is kept.
type Revisions struct {
	// RetentionDays is for how many days the state at a revision is kept after it was
	// superseded; for ever when 0. What is in force, and what has a label, stays.
	RetentionDays int `json:"retention_days"`
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
	malformed := settings.Decode(b, &s)
	if s.Replica == "" {
		if s.Replica, err = os.Hostname(); err != nil {
			return Settings{}, fmt.Errorf("host name: %w", err)
		}
	}
	if err := errors.Join(malformed, s.Validate()); err != nil {
		return Settings{}, fmt.Errorf("settings %s:\n%w", path, err)
	}
	return s, nil
}

// faults gathers what is wrong, each with the key that it is about.
type faults []error

func (f *faults) report(key string, err error) {
	if err != nil {
		*f = append(*f, fmt.Errorf("%s: %w", key, err))
	}
}

// required checks a value that there has to be.
func (f *faults) required(key, value string, check func(string) error) {
	if value == "" {
		f.report(key, errRequired)
		return
	}
	f.report(key, check(value))
}

var errRequired = errors.New("is required")

// Validate returns everything that is wrong with the settings, one problem a
// line. It reads the files that they name, and connects to nothing.
func (s *Settings) Validate() error {
	var f faults
	f.required("replica", s.Replica, checkReplica)
	f.required("workload.socket", s.Workload.Socket, func(path string) error {
		_, err := identity.SocketAddr(path)
		return err
	})
	f.required("workload.trust_domain", s.Workload.TrustDomain, func(name string) error {
		_, err := identity.ParseTrustDomain(name)
		return err
	})
	s.validateRole(&f)
	f.required("proxies.address", s.Proxies.Address, checkAddress)
	if s.Health.Address != "" {
		f.report("health.address", checkAddress(s.Health.Address))
	}
	return errors.Join(f...)
}

// validateFull checks the settings of a replica with a database.
func (s *Settings) validateFull(f *faults) {
	f.required("database.url_file", s.Database.URLFile, func(string) error {
		store, err := s.Database.open(s.Replica, slog.New(slog.DiscardHandler))
		if err == nil {
			store.Close()
		}
		return err
	})
	s.Decisions.validate(f)
	s.Fleet.validate(f)
	if n := s.Revisions.RetentionDays; n < 0 || n > maxRetentionDays {
		f.report("revisions.retention_days", fmt.Errorf("is from 0 to %d", maxRetentionDays))
	}
	s.validateTargets(f)
	s.validateKeys(f)
	s.Admin.validate(f)
	s.validateEdges(f)
}

// checkReplica accepts what is fit to name a replica in logs and in etcd.
func checkReplica(name string) error {
	unfit := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(name) > 255 || strings.ContainsFunc(name, unfit) {
		return errors.New("is at most 255 printable characters without spaces")
	}
	return nil
}

// open returns the store, which connects when it is used. Its errors do not
// show the connection string.
func (d *Database) open(replica string, log *slog.Logger) (*postgres.Store, error) {
	dsn, err := d.dsn()
	if err != nil {
		return nil, err
	}
	return postgres.New(postgres.Config{DSN: dsn, MaxConns: d.MaxConnections, Replica: replica, Log: log})
}

// The bounds of Decisions, and of retention.
const (
	maxRetentionDays   = 3650
	maxDecisionConns   = 1000
	defaultDecisionMax = 4
)

func (d *Decisions) validate(f *faults) {
	if d.RetentionDays < 0 || d.RetentionDays > maxRetentionDays {
		f.report("decisions.retention_days", fmt.Errorf("is from 0 to %d", maxRetentionDays))
	}
	if d.MaxConnections < 0 || d.MaxConnections > maxDecisionConns {
		f.report("decisions.max_connections", fmt.Errorf("is from 0 to %d", maxDecisionConns))
	}
}

// open returns the store of decisions, which connects when it is used.
func (d *Decisions) open(database *Database, log *slog.Logger) (*postgres.Decisions, error) {
	dsn, err := database.dsn()
	if err != nil {
		return nil, err
	}
	return postgres.NewDecisions(postgres.Config{DSN: dsn, MaxConns: cmp.Or(d.MaxConnections, defaultDecisionMax), Log: log})
}

func (d *Database) dsn() (string, error) { return readLine(d.URLFile) }

func (a *Admin) validate(f *faults) {
	f.required("admin.address", a.Address, checkAddress)
	switch {
	case (a.CertificateFile == "") != (a.PrivateKeyFile == ""):
		f.report("admin", errors.New("certificate_file and private_key_file go together"))
	case a.CertificateFile != "":
		_, err := tls.LoadX509KeyPair(a.CertificateFile, a.PrivateKeyFile)
		f.report("admin", err)
	}
	issuers := map[string]bool{}
	for i, p := range a.IdentityProviders {
		key := fmt.Sprintf("admin.identity_providers[%d]", i)
		p.validate(key, f)
		if issuers[p.Issuer] {
			f.report(key+".issuer", fmt.Errorf("%s is there twice", p.Issuer))
		}
		issuers[p.Issuer] = true
	}
	if len(a.Administrators) == 0 {
		f.report("admin.administrators", errors.New("name at least one, or nobody can use this control plane"))
	}
	for i, admin := range a.Administrators {
		if admin.Issuer != "" && !issuers[admin.Issuer] {
			f.report(fmt.Sprintf("admin.administrators[%d].issuer", i), fmt.Errorf("%s is none of the identity_providers", admin.Issuer))
		}
	}
	_, err := a.control()
	f.report("admin.administrators", err)
}

func (p *IdentityProvider) validate(key string, f *faults) {
	anything := func(string) error { return nil }
	f.required(key+".issuer", p.Issuer, anything)
	f.required(key+".jwks_url", p.JWKSURL, checkJWKS)
	if len(p.Audiences) == 0 {
		f.report(key+".audiences", errRequired)
	}
}

// checkJWKS accepts https, and http to the machine itself.
func checkJWKS(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%q is no URL of the form https://host/path", text)
	}
	addr, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback) {
		return errors.New("keys that come over http could be anybody's: use https")
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
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q: a port is a number up to 65535", address)
	}
	return nil
}

// readBounded reads a file of at most maxSettings bytes, whatever it is.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err == nil && len(b) > maxSettings {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSettings)
	}
	return b, err
}
