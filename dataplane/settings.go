package dataplane

import (
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/settings"
	"github.com/sallyport/sallyport/internal/snapshot"
)

const (
	// maxSettings bounds a settings file and the files that it names, in bytes.
	maxSettings = 1 << 20
	// maxInstance bounds an instance, in bytes.
	maxInstance = 253
	// toStdout is where records go that no file is named for.
	toStdout = "stdout"
	// toNowhere is for none at all on this machine.
	toNowhere = "none"
	// maxSpoolMiB bounds the spool of records.
	maxSpoolMiB = 1 << 20
	// maxGeoDatabases is how many kinds of them there are.
	maxGeoDatabases = 3
	// maxGeoDays bounds for how long old databases may be asked.
	maxGeoDays = 366
	// maxNotice and maxDrain bound how long a proxy takes to end, in seconds.
	maxNotice = 300
	maxDrain  = 3600
)

// Settings are the file of a proxy process. What it enforces comes from the
// control plane.
type Settings struct {
	// Instance names this process among the proxies with the same SPIFFE ID;
	// the host name when empty.
	Instance string `json:"instance"`
	// ControlPlanes are the URLs of replicas of the control plane, such as
	// https://controlplane.example:8444. They are tried in random order.
	ControlPlanes []string `json:"control_planes"`
	// ControlPlaneID is the SPIFFE ID that every one of them has to prove.
	ControlPlaneID string `json:"control_plane_id"`
	// RootPublicKey is the Ed25519 public key of the fleet: its 32 bytes in base64.
	// Nothing is enforced but what it signed, or keys did that it has led to.
	RootPublicKey string `json:"root_public_key"`
	// RootPublicKeyFile is a PEM file with that key, or with one of ECDSA on P-256,
	// instead of RootPublicKey.
	RootPublicKeyFile string `json:"root_public_key_file"`
	// Workload is where this process gets its own identity.
	Workload Workload `json:"workload"`
	// StateDirectory keeps the last good snapshot. It is created if need be,
	// and belongs to this process alone.
	StateDirectory string `json:"state_directory"`
	// StateKeyFile is a file with 32 random bytes in base64, which seal the secrets in
	// the state directory: keys of session cookies and of assertions. It is not to lie
	// there itself. Without it no secret is kept: after a start the proxy has none of
	// them until it has reached a control plane.
	StateKeyFile string `json:"state_key_file"`
	// Bundle is what this process begins with when its state directory has nothing,
	// until it has reached a control plane.
	Bundle Bundle `json:"bundle"`
	// Zone is where this process runs, as Upstreams have it of their endpoints:
	// "REGION/ZONE", "REGION", or empty for nowhere in particular.
	Zone string `json:"zone"`
	// Place is where this process says that it runs, for the fleet's listings.
	Place Place `json:"place"`
	// Admin is the listener for /healthz, /readyz and /metrics, without TLS;
	// none when its address is empty.
	Admin Admin `json:"admin"`
	// Records is the file to which decisions are appended, a JSON line each;
	// standard output when it is empty or "stdout", and nowhere when it is "none":
	// then the control plane alone gets records. A file that was moved away is
	// created anew.
	Records string `json:"records"`
	// AccessLog has a line of each request, when it has ended.
	AccessLog AccessLog `json:"access_log"`
	// Collector takes the same records as logs.
	Collector Collector `json:"collector"`
	// Traces are what a collector gets of how requests went.
	Traces Traces `json:"traces"`
	// SpoolMiB bounds, in MiB, the records in the state directory that wait for the
	// control plane, of routes whose requests must be recorded; 256 when 0.
	SpoolMiB int `json:"spool_mib"`
	// Overload says when requests are refused because there are too many.
	Overload Overload `json:"overload"`
	// Geo says where clients are.
	Geo Geo `json:"geo"`
	// Limits say where rate limits of the fleet are counted.
	Limits Limits `json:"limits"`
	// Stop says how this process ends when it is told to.
	Stop Stop `json:"stop"`
}

// maxPlace bounds the names of a Place, in bytes.
const maxPlace = 63

// Place is where a proxy runs. Nothing is decided by it, and labels of the proxy's
// Enrollment go before it.
type Place struct {
	// Cloud is such as aws, or onprem.
	Cloud string `json:"cloud"`
	// Region is such as eu-central-1; the region of the zone when empty.
	Region string `json:"region"`
}

// region is where the process says that it runs.
func (s *Settings) region() string {
	region, _, _ := strings.Cut(s.Zone, "/")
	return cmp.Or(s.Place.Region, region)
}

func (p Place) validate(report func(field string, err error)) {
	for field, name := range map[string]string{"place.cloud": p.Cloud, "place.region": p.Region} {
		if len(name) > maxPlace || resource.CheckLabel("place", name) != nil {
			report(field, fmt.Errorf("is of letters, digits, \".\", \"-\", \"_\" and \"/\", at most %d", maxPlace))
		}
	}
}

// Bundle names what "sallyport bundle export" has made.
type Bundle struct {
	// Environment is what it has to be of. It is required with File or URL.
	Environment string `json:"environment"`
	// File is its path.
	File string `json:"file"`
	// URL is where it is fetched by https, instead of File.
	URL string `json:"url"`
	// CAFile is a PEM file with what verifies the server of URL; the system's roots
	// when empty.
	CAFile string `json:"ca_file"`
}

// Stop is how long a proxy takes to end.
type Stop struct {
	// NoticeSeconds is how long it goes on as before, while /readyz says that it does
	// not, so that load balancers stop sending; from 0 to 300.
	NoticeSeconds int `json:"notice_seconds"`
	// DrainSeconds is how long what is under way then may take to end; from 1 to 3600,
	// or 0 for 10.
	DrainSeconds int `json:"drain_seconds"`
}

func (s Stop) validate(report func(field string, err error)) {
	if s.NoticeSeconds < 0 || s.NoticeSeconds > maxNotice {
		report("stop.notice_seconds", fmt.Errorf("is from 0 to %d", maxNotice))
	}
	if s.DrainSeconds < 0 || s.DrainSeconds > maxDrain {
		report("stop.drain_seconds", fmt.Errorf("has to be from 1 to %d, or 0 for 10", maxDrain))
	}
}

// Collector names a collector of OpenTelemetry logs.
type Collector struct {
	// Endpoint is the URL that takes logs as OTLP over HTTP, such as
	// https://collector.example:4318/v1/logs; http only to an address of this machine.
	// There is no collector when it is empty.
	Endpoint string `json:"endpoint"`
	// CAFile is a PEM file with what verifies the collector; the system's roots when
	// empty.
	CAFile string `json:"ca_file"`
	// AuthorizationFile is a file with what is sent in the field Authorization, such
	// as "Bearer ..."; it is read again each time. Nothing is sent when it is empty.
	AuthorizationFile string `json:"authorization_file"`
}

func (c Collector) validate(report func(field string, err error)) {
	if c.Endpoint != "" {
		report("collector.endpoint", collector.CheckEndpoint(c.Endpoint))
	}
	for field, path := range map[string]string{"collector.ca_file": c.CAFile, "collector.authorization_file": c.AuthorizationFile} {
		switch {
		case path == "":
		case c.Endpoint == "":
			report(field, errors.New("is for a collector, and there is no endpoint"))
		default:
			report(field, checkAbsolute(path))
		}
	}
}

// Geo names databases of addresses.
type Geo struct {
	// Databases are files in MaxMind's format, one of a kind: cities or countries,
	// autonomous systems, anonymity. They are read again when they change. Nothing is
	// known of what none of them tells.
	Databases []string `json:"databases"`
	// MaxAgeDays is how many days ago a database may have been built to be asked; 30
	// when zero.
	MaxAgeDays int `json:"max_age_days"`
}

func (g Geo) validate(report func(field string, err error)) {
	for i, file := range g.Databases {
		field := fmt.Sprintf("geo.databases[%d]", i)
		report(field, checkAbsolute(file))
		if slices.Contains(g.Databases[:i], file) {
			report(field, errors.New("is given twice"))
		}
	}
	if len(g.Databases) > maxGeoDatabases {
		report("geo.databases", fmt.Errorf("%d files: more than %d", len(g.Databases), maxGeoDatabases))
	}
	if g.MaxAgeDays < 0 || g.MaxAgeDays > maxGeoDays {
		report("geo.max_age_days", fmt.Errorf("has to be from 1 to %d, or 0 for 30", maxGeoDays))
	}
}

// Workload names the SPIFFE Workload API.
type Workload struct {
	// Socket is the path of its unix socket.
	Socket string `json:"socket"`
	// TrustDomain is that of this proxy, such as prod.example.
	TrustDomain string `json:"trust_domain"`
}

// Admin is an address to listen on.
type Admin struct {
	// Address is host:port; an empty host is every address.
	Address string `json:"address"`
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
	if s.Instance == "" {
		if s.Instance, err = os.Hostname(); err != nil {
			return Settings{}, fmt.Errorf("host name: %w", err)
		}
	}
	if err := errors.Join(malformed, s.Validate()); err != nil {
		return Settings{}, fmt.Errorf("settings %s:\n%w", path, err)
	}
	return s, nil
}

// Validate returns everything that is wrong with the settings, one problem a
// line. It reads the file that they name.
func (s *Settings) Validate() error {
	var errs []error
	report := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	report("instance", checkInstance(s.Instance))
	if len(s.ControlPlanes) == 0 {
		report("control_planes", errRequired)
	}
	for i, url := range s.ControlPlanes {
		report(fmt.Sprintf("control_planes[%d]", i), link.CheckURL(url))
	}
	report("control_plane_id", required(s.ControlPlaneID, func(id string) error {
		_, err := identity.ParseID(id)
		return err
	}))
	_, err := s.rootKey()
	report("root_public_key", err)
	report("workload.socket", required(s.Workload.Socket, func(path string) error {
		_, err := identity.SocketAddr(path)
		return err
	}))
	report("workload.trust_domain", required(s.Workload.TrustDomain, func(name string) error {
		_, err := identity.ParseTrustDomain(name)
		return err
	}))
	report("state_directory", required(s.StateDirectory, checkAbsolute))
	if s.StateKeyFile != "" {
		report("state_key_file", s.checkStateKey())
	}
	report("bundle", link.Bundle(s.Bundle).Check())
	if s.Zone != "" {
		report("zone", resource.CheckZone(s.Zone))
	}
	if s.Admin.Address != "" {
		report("admin.address", checkAddress(s.Admin.Address))
	}
	if !s.recordsToStdout() && s.Records != toNowhere {
		report("records", checkAbsolute(s.Records))
	}
	if s.SpoolMiB < 0 || s.SpoolMiB > maxSpoolMiB {
		report("spool_mib", fmt.Errorf("is from 0 to %d", maxSpoolMiB))
	}
	s.AccessLog.validate(s.Records, report)
	s.Collector.validate(report)
	s.Traces.validate(report)
	s.Overload.validate(report)
	s.Geo.validate(report)
	s.Limits.Redis.validate(report)
	s.Stop.validate(report)
	s.Place.validate(report)
	return errors.Join(errs...)
}

var errRequired = errors.New("is required")

func required(value string, check func(string) error) error {
	if value == "" {
		return errRequired
	}
	return check(value)
}

// checkStateKey reads the file.
func (s *Settings) checkStateKey() error {
	if err := checkAbsolute(s.StateKeyFile); err != nil {
		return err
	}
	if beside, err := filepath.Rel(s.StateDirectory, s.StateKeyFile); err == nil && filepath.IsLocal(beside) {
		return errors.New("lies in the state directory, with what it seals")
	}
	_, err := vault.Open(s.StateKeyFile)
	return err
}

func checkInstance(name string) error {
	ok, err := regexp.MatchString(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`, name)
	if err != nil {
		return err
	}
	if !ok || len(name) > maxInstance {
		return fmt.Errorf("%q is not a name of letters, digits, dots, hyphens and underscores, of at most %d bytes", name, maxInstance)
	}
	return nil
}

func checkAbsolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not an absolute path", path)
	}
	return nil
}

func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	return nil
}

func (s *Settings) recordsToStdout() bool { return s.Records == "" || s.Records == toStdout }

// rootKey returns the pinned key.
func (s *Settings) rootKey() (snapshot.PublicKey, error) {
	none := snapshot.PublicKey{}
	switch {
	case s.RootPublicKey == "" && s.RootPublicKeyFile == "":
		return none, errors.New("give it, or root_public_key_file")
	case s.RootPublicKey != "" && s.RootPublicKeyFile != "":
		return none, errors.New("give it or root_public_key_file, not both")
	case s.RootPublicKeyFile != "":
		return readPublicKey(s.RootPublicKeyFile)
	}
	key, err := base64.StdEncoding.DecodeString(s.RootPublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return none, fmt.Errorf("is not the base64 of %d bytes", ed25519.PublicKeySize)
	}
	return snapshot.NewPublicKey(ed25519.PublicKey(key))
}

func readPublicKey(path string) (snapshot.PublicKey, error) {
	b, err := readBounded(path)
	if err != nil {
		return snapshot.PublicKey{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return snapshot.PublicKey{}, fmt.Errorf("%s is not a PEM file with a public key", path)
	}
	key, err := snapshot.ParsePublicKey(block.Bytes)
	if err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSettings {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSettings)
	}
	return b, nil
}
