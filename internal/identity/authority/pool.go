package authority

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"crypto/x509"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of files, in bytes.
const (
	maxRoots = 1 << 20
	maxCRL   = 32 << 20
)

// Pool keeps the authorities in service across snapshots, so that what did not
// change is neither read nor verified again. It is safe for concurrent use.
type Pool struct {
	log   *slog.Logger
	until *prometheus.GaugeVec

	mu   sync.Mutex
	live map[Name]*authority
}

// authority is one of a Pool.
type authority struct {
	spec Spec
	log  *slog.Logger

	// current is never nil, and replaced, never changed. The holder of the
	// pool's mu is its only writer.
	current atomic.Pointer[trust]

	ca, crl file
}

// NewPool returns a Pool without authorities. It fails when the metric is
// registered already; a nil Registerer shows none.
func NewPool(log *slog.Logger, r prometheus.Registerer) (*Pool, error) {
	p := &Pool{log: log, live: map[Name]*authority{}, until: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sallyport_revocation_list_expires_timestamp_seconds",
		Help: "When the first of an identity provider's certificate revocation lists is stale, in Unix seconds; 0 when they cannot be used.",
	}, []string{"provider"})}
	if r == nil {
		return p, nil
	}
	return p, r.Register(p.until)
}

// Sync makes specs, whose names are unique, the authorities in service, and
// reads the files of those that are new. What cannot be read is logged, and
// proves nobody until Refresh finds it.
func (p *Pool) Sync(specs []Spec) *Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make(map[Name]*authority, len(specs))
	for _, spec := range specs {
		a := p.live[spec.Key()]
		if a == nil || !reflect.DeepEqual(a.spec, spec) {
			spec.Names = slices.Clone(spec.Names)
			a = &authority{spec: spec, log: p.log.With("provider", spec.Key().String())}
			a.current.Store(&trust{spec: &a.spec})
			p.refresh(a)
		}
		next[spec.Key()] = a
	}
	for name, old := range p.live {
		if now := next[name]; now == nil || old.spec.CRLFile != "" && now.spec.CRLFile == "" {
			p.until.DeleteLabelValues(name.String())
		}
	}
	p.live = next
	return &Set{next}
}

// Refresh looks at the files of the authorities in service.
func (p *Pool) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.live {
		p.refresh(a)
	}
}

func (p *Pool) refresh(a *authority) {
	a.refresh()
	if l := a.current.Load().lists; l != nil {
		end := 0.0
		if next := l.next(); !next.IsZero() {
			end = float64(next.Unix())
		}
		p.until.WithLabelValues(a.spec.Key().String()).Set(end)
	}
}

// refresh puts what is in the files now into service. Authorities stay what
// they were while their file cannot be understood; revocation lists do not:
// whoever is on one that cannot be read must not get in.
func (a *authority) refresh() {
	before := a.current.Load()
	next := *before
	switch text, changed, err := a.ca.read(a.spec.CAFile, maxRoots); {
	case a.spec.CAFile == "" && before.roots == nil:
		next.roots, next.pool = a.trusting([]byte(a.spec.CA), nil)
	case changed:
		if roots, pool := a.trusting(text, err); roots != nil {
			next.roots, next.pool = roots, pool
		}
	}
	if a.spec.CRLFile != "" {
		if text, changed, err := a.crl.read(a.spec.CRLFile, maxCRL); changed {
			next.lists = a.revoking(text, err)
		}
	}
	if len(next.roots) != len(before.roots) || next.pool != before.pool || next.lists != before.lists {
		a.current.Store(&next)
	}
}

func (a *authority) trusting(text []byte, err error) ([]*x509.Certificate, *x509.CertPool) {
	var roots []*x509.Certificate
	if err == nil {
		roots, err = readRoots(text)
	}
	if err != nil {
		a.log.Error("client certificate authorities cannot be read", "file", a.spec.CAFile, "err", err)
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	return roots, pool
}

func (a *authority) revoking(text []byte, err error) *lists {
	l := &lists{err: err}
	if err == nil {
		l = readLists(text)
	}
	if l.err != nil {
		a.log.Error("certificate revocation list cannot be used", "file", a.spec.CRLFile, "err", l.err)
	}
	return l
}

// file is one that is read again when it changes.
type file struct {
	info fs.FileInfo // nil: it could not be read
	err  string      // why, last time
	seen bool
}

// read returns what is in the file, or why that cannot be told, if one of the two
// has changed.
func (f *file) read(name string, most int64) (text []byte, changed bool, err error) {
	if name == "" {
		return nil, false, nil
	}
	info, err := os.Stat(name)
	if err == nil && f.info != nil && os.SameFile(info, f.info) && info.ModTime().Equal(f.info.ModTime()) && info.Size() == f.info.Size() {
		return nil, false, nil
	}
	if err == nil {
		text, err = readBounded(name, most)
	}
	before := *f
	*f = file{info: info, seen: true}
	if err != nil {
		*f = file{err: err.Error(), seen: true}
	}
	return text, err == nil || !before.seen || before.err != f.err, err
}

func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(text)) > most:
		return nil, fmt.Errorf("%s is larger than %d bytes", name, most)
	case len(text) == 0:
		return nil, errors.New(name + " is empty")
	}
	return text, nil
}
