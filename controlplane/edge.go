package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/controlplane/edge"
	"github.com/sallyport/sallyport/controlplane/intake"
	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/controlplane/roster"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
)

// openIntake builds, of a replica with a database, what edges need of it.
func (s *Server) openIntake() {
	if len(s.settings.Edges) == 0 {
		return
	}
	s.intake = intake.New(intake.Config{
		Edges: s.settings.edges(), Registry: s.registry, Hub: s.hub, Verifier: s.signing.verifier,
		Push: s.decisions.Take, LoggedOut: s.logouts.CutOff, Shown: s.timeline.Show, Questions: intake.NewQuestions(), Log: s.log,
	})
}

// askable returns the edges that can be asked about their proxies; nil if there are none.
func (s *Server) askable() api.Edges {
	if s.intake == nil {
		return nil
	}
	return s.intake.Questions
}

// rosters are what the replica that publishes does for edges: it writes who is admitted
// to every target, each at its own pace.
func (s *Server) rosters() (tasks []publish.Task) {
	if len(s.settings.Edges) == 0 {
		return nil
	}
	for _, t := range s.targets.all {
		p := roster.NewPublisher(roster.PublisherConfig{
			Store: s.database, Target: t.Store, Election: s.targets.election, Signer: s.signing.Signer, Verifier: s.signing.verifier, Log: s.log.With("target", t.name),
		})
		tasks = append(tasks, func(ctx context.Context, _ storage.Term) error { return p.Run(ctx) })
	}
	return tasks
}

// openEdge builds the parts of an edge.
func (s *Server) openEdge() error {
	near, err := s.settings.Etcd.open(s.log)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	s.targets = targets{all: []target{{homeTarget, near}}, followed: near}
	root, err := ReadPublicKey(s.settings.RootPublicKeyFile)
	if err != nil {
		return fmt.Errorf("root_public_key_file: %w", err)
	}
	s.signing.verifier = root.Verifier()
	s.feed = etcd.NewFeed(near)
	s.hub = stream.NewHub(s.feed, near, s.signing.verifier, s.log)
	follower := roster.NewFollower(roster.FollowerConfig{Feed: s.feed, Keys: near, Verifier: s.signing.verifier, Log: s.log})
	s.edge, err = edge.New(edge.Config{
		Replica: s.settings.Replica, Full: s.settings.ControlPlanes, FullID: identity.ID(s.settings.ControlPlaneID),
		Identity: s.source, Roster: follower, Log: s.log, Registerer: s.metrics,
	})
	if err != nil {
		return err
	}
	s.registry = s.edge.Registry()
	s.proxies = stream.NewService(stream.Config{
		Hub: s.hub, Registry: s.registry, LoggedOut: s.edge.LoggedOut, Log: s.log,
		Recheck: s.recheck,
	})
	return errors.Join(s.countCrowded(), s.measureEdge(follower))
}

// measureEdge registers the metrics of an edge.
func (s *Server) measureEdge(follower *roster.Follower) error {
	gauge := func(name, help string, value func() float64) error {
		return s.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	return errors.Join(
		s.registerRefusals(),
		s.registerRefused("roster", follower.Refused),
		gauge("sallyport_roster_age_seconds", "Since the roster of an edge was last confirmed to be the newest; -1 before there is one.", func() float64 {
			age, ok := s.edge.RosterAge()
			if !ok {
				return -1
			}
			return age.Seconds()
		}),
		gauge("sallyport_key_set_generation", "Generation of the newest key set that this replica knows; 0 while the pinned key signs.", func() float64 {
			return float64(s.signing.verifier.Newest().Generation)
		}),
		s.metrics.Register(newEdgeProgress(s)),
	)
}

// serveEdge serves proxies. Nothing is waited for: until there is a roster nobody is
// admitted.
func (s *Server) serveEdge(ctx context.Context) error {
	records := s.edge.Records()
	mux := http.NewServeMux()
	mux.Handle(s.proxies.Handler())
	mux.Handle(records.Handler())
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{s.feed.Run, s.hub.Run, s.edge.Run} {
		g.Go(func() error { return part(ctx) })
	}
	g.Go(func() error { return s.serveStreams(ctx, impatient(mux)) })
	return g.Wait()
}

// edgeProgress are the metrics of what an edge sends, and to how many.
type edgeProgress struct {
	server                 *Server
	distributed, connected *prometheus.Desc
}

func newEdgeProgress(s *Server) *edgeProgress {
	return &edgeProgress{
		server: s,
		distributed: prometheus.NewDesc("sallyport_environment_distributed_revision",
			"The revision of the environment that this replica sends to proxies.", []string{"environment"}, nil),
		connected: prometheus.NewDesc("sallyport_connected_proxies",
			"Proxies of the environment that are connected to this replica.", []string{"environment"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (p *edgeProgress) Describe(to chan<- *prometheus.Desc) {
	to <- p.distributed
	to <- p.connected
}

// Collect implements prometheus.Collector.
func (p *edgeProgress) Collect(to chan<- prometheus.Metric) {
	streams := p.server.registry.Streams()
	for _, name := range p.server.hub.Environments() {
		revision := p.server.hub.State(name).Snapshot.Head().Revision
		to <- prometheus.MustNewConstMetric(p.distributed, prometheus.GaugeValue, float64(revision), name)
		to <- prometheus.MustNewConstMetric(p.connected, prometheus.GaugeValue, float64(streams[name]), name)
	}
}
