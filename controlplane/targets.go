package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/controlplane/upkeep"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage/etcd"
)

// homeTarget is the name of the target that the settings call etcd. Its cursors in
// the database have it.
const homeTarget = "etcd"

// maxTargets bounds how many etcds one publisher writes to.
const maxTargets = 32

// Target is one more etcd where snapshots are published.
type Target struct {
	// Name names it in the database, in logs and in metrics: at most 63 lower-case
	// letters, digits and hyphens, and not "etcd". All replicas use the same.
	Name string `json:"name"`
	// Etcd is the cluster.
	Etcd Etcd `json:"etcd"`
}

// Etcd names an etcd cluster.
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

// isZero reports whether nothing is said.
func (e *Etcd) isZero() bool {
	return len(e.Endpoints) == 0 && e.CAFile == "" && e.CertificateFile == "" && e.PrivateKeyFile == "" && e.Prefix == ""
}

// validateTargets checks the etcds. Two targets in one place would overwrite each
// other's cursors with what is true of the other.
func (s *Settings) validateTargets(f *faults) {
	s.Etcd.validate("etcd", f)
	if !s.Election.isZero() {
		s.Election.validate("election", f)
	}
	if len(s.Targets) >= maxTargets {
		f.report("targets", fmt.Errorf("are at most %d", maxTargets-1))
	}
	names, places := []string{homeTarget}, []string{s.Etcd.place()}
	for i := range s.Targets {
		t, key := &s.Targets[i], fmt.Sprintf("targets[%d]", i)
		f.required(key+".name", t.Name, checkTarget)
		t.Etcd.validate(key+".etcd", f)
		if slices.Contains(names, t.Name) {
			f.report(key+".name", fmt.Errorf("%s is there twice", t.Name))
		}
		if place := t.Etcd.place(); len(t.Etcd.Endpoints) > 0 && slices.Contains(places, place) {
			f.report(key+".etcd", errors.New("is another target already"))
		}
		names, places = append(names, t.Name), append(places, t.Etcd.place())
	}
	if s.Follows != "" && !slices.Contains(names, s.Follows) {
		f.report("follows", fmt.Errorf("%s is none of the targets", s.Follows))
	}
}

// place is where the keys of an etcd are, as far as settings tell.
func (e *Etcd) place() string {
	endpoints := slices.Clone(e.Endpoints)
	slices.Sort(endpoints)
	prefix := e.Prefix
	if prefix == "" {
		prefix = etcd.DefaultPrefix
	}
	return strings.Join(append(endpoints, strings.TrimSuffix(prefix, "/")), " ")
}

func (e *Etcd) validate(key string, f *faults) {
	if len(e.Endpoints) == 0 {
		f.report(key+".endpoints", errRequired)
	}
	given := 0
	for _, file := range []string{e.CAFile, e.CertificateFile, e.PrivateKeyFile} {
		if file != "" {
			given++
		}
	}
	switch given {
	case 0:
	case 3:
		_, err := e.tls()
		f.report(key, err)
	default:
		f.report(key, errors.New("ca_file, certificate_file and private_key_file go together"))
	}
	for i, endpoint := range e.Endpoints {
		switch encrypted := strings.HasPrefix(endpoint, "https://"); {
		case endpoint == "":
			f.report(fmt.Sprintf("%s.endpoints[%d]", key, i), errors.New("is empty"))
		case encrypted && given == 0:
			f.report(fmt.Sprintf("%s.endpoints[%d]", key, i), errors.New("https needs ca_file, certificate_file and private_key_file"))
		case !encrypted && given > 0:
			f.report(fmt.Sprintf("%s.endpoints[%d]", key, i), errors.New("is not https, though there are certificates"))
		}
	}
}

// checkTarget accepts what is fit to name a target.
func checkTarget(name string) error {
	unfit := func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') }
	if len(name) > 63 || strings.ContainsFunc(name, unfit) {
		return errors.New("is at most 63 lower-case letters, digits and hyphens")
	}
	return nil
}

// tls returns nil without certificates.
func (e *Etcd) tls() (*tls.Config, error) {
	if e.CAFile == "" {
		return nil, nil //nolint:nilnil // documented
	}
	ca, err := readBounded(e.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca_file holds no certificate")
	}
	certificate, err := tls.LoadX509KeyPair(e.CertificateFile, e.PrivateKeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{certificate}}, nil
}

// open returns the store, which connects when it is used.
func (e *Etcd) open(log *slog.Logger) (*etcd.Store, error) {
	tlsConfig, err := e.tls()
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return etcd.New(etcd.Config{Endpoints: e.Endpoints, TLS: tlsConfig, Prefix: e.Prefix, Log: log})
}

// target is one that is open.
type target struct {
	name string
	*etcd.Store
}

// targets are the etcds of a replica.
type targets struct {
	all      []target // the first is that of the setting etcd
	election *etcd.Store
	// own says that the election has a cluster, or a prefix, of its own.
	own bool
	// followed is the one that proxies are served from.
	followed *etcd.Store
}

// openTargets returns all etcds of the settings, which connect when they are used.
// What was opened before an error is closed by close.
func (s *Settings) openTargets(log *slog.Logger) (t targets, err error) {
	for _, one := range append([]Target{{Name: homeTarget, Etcd: s.Etcd}}, s.Targets...) {
		store, err := one.Etcd.open(log.With("target", one.Name))
		if err != nil {
			return t, fmt.Errorf("target %s: %w", one.Name, err)
		}
		t.all = append(t.all, target{one.Name, store})
		if one.Name == s.Follows || s.Follows == "" && one.Name == homeTarget {
			t.followed = store
		}
	}
	t.election, t.own = t.all[0].Store, !s.Election.isZero()
	if t.own {
		t.election, err = s.Election.open(log)
	}
	return t, err
}

// names returns what the settings call them.
func (t *targets) names() []string {
	all := make([]string, len(t.all))
	for i, one := range t.all {
		all[i] = one.name
	}
	return all
}

// places returns them as the publisher has them.
func (t *targets) places() []publish.Place {
	all := make([]publish.Place, len(t.all))
	for i, one := range t.all {
		all[i] = publish.Place{Name: one.name, Target: one.Store}
	}
	return all
}

// kept returns them as those who keep room there have them.
func (t *targets) kept() []upkeep.Place {
	all := make([]upkeep.Place, len(t.all))
	for i, one := range t.all {
		all[i] = upkeep.Place{Name: one.name, Store: one.Store}
	}
	return all
}

// KeySets implements rotation.Published: those of all targets, which may come twice.
func (t *targets) KeySets(ctx context.Context) (all []*proxyv1.SignedKeySet, err error) {
	for _, one := range t.all {
		sets, err := one.KeySets(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		all = append(all, sets...)
	}
	return all, nil
}

// close ends the connections that there are.
func (t *targets) close() error {
	stores := make([]*etcd.Store, 0, len(t.all)+1)
	for _, one := range t.all {
		stores = append(stores, one.Store)
	}
	if t.own && t.election != nil {
		stores = append(stores, t.election)
	}
	var errs []error
	for _, s := range stores {
		if err := s.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("close etcd client: %w", err))
		}
	}
	return errors.Join(errs...)
}
