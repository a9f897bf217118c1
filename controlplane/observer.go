package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// observeEvery is how often the state of the fleet is taken for metrics.
const observeEvery = 5 * time.Second

// observer keeps the metrics of the fleet as this replica sees it: what was
// committed, and what has arrived here to be sent to proxies.
type observer struct {
	database *postgres.Store
	hub      *stream.Hub
	registry *registry.Registry
	signing  signing
	log      *slog.Logger

	trusted     prometheus.Gauge
	generation  prometheus.Gauge
	revision    prometheus.Gauge
	committed   *prometheus.GaugeVec
	distributed *prometheus.GaugeVec
	connected   *prometheus.GaugeVec
	lost        *prometheus.GaugeVec

	targets []string // names
	behind  *prometheus.GaugeVec
	waited  *prometheus.GaugeVec

	// ahead is why changes are refused; nil while they are not.
	ahead atomic.Pointer[storage.AheadError]
}

func newObserver(s *Server) (*observer, error) {
	perEnvironment := func(o prometheus.GaugeOpts) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(o, []string{"environment"})
	}
	o := &observer{
		database: s.database, hub: s.hub, registry: s.registry, signing: s.signing, log: s.log,
		trusted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_signing_key_trusted",
			Help: "1 while this replica's signing key is in the newest key set; with 0 it cannot publish.",
		}),
		generation: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_key_set_generation",
			Help: "Generation of the newest key set that this replica knows; 0 while the pinned key signs.",
		}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_revision",
			Help: "The newest revision of the fleet.",
		}),
		committed: perEnvironment(prometheus.GaugeOpts{
			Name: "sallyport_environment_committed_revision",
			Help: "The newest revision that touches the environment; of @security, the newest sequence of the security lane.",
		}),
		distributed: perEnvironment(prometheus.GaugeOpts{
			Name: "sallyport_environment_distributed_revision",
			Help: "The revision of the environment that this replica sends to proxies; less than committed while distribution lags.",
		}),
		connected: perEnvironment(prometheus.GaugeOpts{
			Name: "sallyport_connected_proxies",
			Help: "Proxies of the environment that are connected to this replica.",
		}),
	}
	o.lost = perEnvironment(prometheus.GaugeOpts{
		Name: "sallyport_lost_revision",
		Help: "The newest revision that somebody has seen of the environment and the database does not hold; the environment is empty for one of the fleet.",
	})
	o.targets = s.targets.names()
	o.behind = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sallyport_target_lag_revisions",
		Help: "Revisions of environments, and of the security lane, that were committed and are not published at the target; of each at most 1000 are counted.",
	}, []string{"target"})
	o.waited = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sallyport_target_lag_seconds",
		Help: "For how long the first of them has waited; 0 without any.",
	}, []string{"target"})
	return o, errors.Join(s.registerRefusals(), s.metrics.Register(o.behind), s.metrics.Register(o.waited), s.metrics.Register(o.lost), s.metrics.Register(o.trusted),
		s.metrics.Register(o.generation), s.metrics.Register(o.revision), s.metrics.Register(o.committed),
		s.metrics.Register(o.distributed), s.metrics.Register(o.connected))
}

// registerRefusals shows what was found in etcd and refused.
func (s *Server) registerRefusals() error {
	refused := s.hub.Refused()
	var errs []error
	for what, count := range map[string]func() int64{
		"head": refused.Heads.Load, "freshness": refused.Freshness.Load, "key_set": refused.KeySets.Load, "unreadable": s.feed.Unreadable,
	} {
		errs = append(errs, s.registerRefused(what, count))
	}
	return errors.Join(errs...)
}

func (s *Server) registerRefused(what string, count func() int64) error {
	return s.metrics.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name:        "sallyport_published_refusals_total",
		Help:        "Values in etcd that this replica refused, by what they should be: head, freshness, key_set, roster, or unreadable.",
		ConstLabels: prometheus.Labels{"what": what},
	}, func() float64 { return float64(count()) }))
}

// Run observes until ctx ends. While the database is away the metrics keep
// their values.
func (o *observer) Run(ctx context.Context) error {
	ticker := time.NewTicker(observeEvery)
	defer ticker.Stop()
	changed := o.database.Changed(ctx)
	for {
		o.observeKeys()
		if err := o.observe(ctx); err != nil {
			o.log.DebugContext(ctx, "fleet was not observed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

func (o *observer) observeKeys() {
	o.generation.Set(float64(o.signing.verifier.Newest().Generation))
	o.trusted.Set(0)
	if o.signing.verifier.Trusts(o.signing.Public().ID()) {
		o.trusted.Set(1)
	}
}

func (o *observer) observe(ctx context.Context) error {
	position, err := o.database.Position(ctx)
	if err != nil {
		return err
	}
	at, err := o.database.EnvironmentsAt(ctx, position.Revision)
	if err != nil {
		return err
	}
	security, err := o.database.Security().Position(ctx)
	if err != nil {
		return err
	}
	if err := o.missing(ctx); err != nil {
		return err
	}
	if err := o.lag(ctx); err != nil {
		return err
	}
	o.revision.Set(float64(position.Revision))
	o.progress(snapshot.SecurityLane, security.Revision)
	connected := o.registry.Streams()
	for name, revision := range at {
		o.progress(name, revision)
		o.connected.WithLabelValues(name).Set(float64(connected[name]))
	}
	return nil
}

// missing sets what somebody has seen and the database does not hold.
func (o *observer) missing(ctx context.Context) error {
	seen, err := o.database.Sightings(ctx)
	if err != nil {
		return err
	}
	o.lost.Reset()
	for _, s := range slices.Backward(seen) { // the newest comes last
		o.lost.WithLabelValues(s.Environment).Set(float64(s.Revision))
	}
	if len(seen) == 0 {
		o.ahead.Store(nil)
	} else {
		o.ahead.Store(&storage.AheadError{Sighting: seen[0]})
	}
	return nil
}

// lag sets how far the targets are behind.
func (o *observer) lag(ctx context.Context) error {
	lags, err := o.database.Lags(ctx, o.targets)
	if err != nil {
		return err
	}
	for _, l := range lags {
		since := time.Duration(0)
		if !l.Since.IsZero() {
			since = max(0, time.Since(l.Since))
		}
		o.behind.WithLabelValues(l.Target).Set(float64(l.Revisions))
		o.waited.WithLabelValues(l.Target).Set(since.Seconds())
	}
	return nil
}

// progress sets how far an environment, or the security lane, has come.
func (o *observer) progress(name string, committed snapshot.Revision) {
	o.committed.WithLabelValues(name).Set(float64(committed))
	o.distributed.WithLabelValues(name).Set(float64(o.hub.State(name).Snapshot.Head().Revision))
}
