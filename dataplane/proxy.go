// Package dataplane wires one proxy from its settings.
package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/dataplane/access"
	"github.com/sallyport/sallyport/dataplane/assertion"
	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/courier"
	"github.com/sallyport/sallyport/dataplane/gateway"
	"github.com/sallyport/sallyport/dataplane/geo"
	"github.com/sallyport/sallyport/dataplane/handover"
	"github.com/sallyport/sallyport/dataplane/limit/redis"
	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/dataplane/overload"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/record/otlp"
	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/dataplane/trace"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/build"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Proxy is one proxy process.
type Proxy struct {
	settings Settings
	log      *slog.Logger
	metrics  *prometheus.Registry

	sockets    *handover.Sockets
	manager    *handover.Manager
	source     *identity.Source
	authn      *authn.Pool
	upstreams  *upstream.Pool
	signin     *signin.Client
	records    *recordFile // nil when they go to no file
	recorder   *record.Recorder
	collector  *otlp.Sink      // nil for none
	traces     *trace.Tracer   // nil for none
	access     *access.Log     // nil for none
	accessFile *recordFile     // nil when it goes to no file
	overload   *overload.Guard // nil for none
	courier    *courier.Courier
	vault      *vault.Vault // nil when no secrets are kept
	keys       *assertion.Keys
	atlas      *geo.Atlas
	limits     *redis.Store // nil for none
	gateway    *gateway.Gateway
	link       *link.Link

	stopping atomic.Bool
	draining atomic.Bool // as an operator asked
}

// New checks the settings and builds a proxy. It reads the file that they name,
// takes the sockets that the service manager has opened, and connects to nothing.
func New(s Settings, log *slog.Logger) (*Proxy, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	p := &Proxy{settings: s, log: log, metrics: prometheus.NewRegistry()}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, open := range []func() error{p.inherit, p.openVault, p.openIdentity, p.openServices, p.openGateway, p.openLink} {
		if err := open(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// inherit takes what the service manager has for us.
func (p *Proxy) inherit() (err error) {
	if p.sockets, err = handover.Inherit(); err != nil {
		return err
	}
	if n := p.sockets.Len(); n > 0 {
		p.log.Info("sockets were inherited", "sockets", n)
	}
	p.manager, err = handover.FindManager(p.log)
	return err
}

// openVault reads the key that seals what is kept of secrets, if there is one.
func (p *Proxy) openVault() (err error) {
	if p.settings.StateKeyFile == "" {
		p.log.Info("secrets are not kept on the disk: there is no state_key_file")
		return nil
	}
	if p.vault, err = vault.Open(p.settings.StateKeyFile); err != nil {
		return fmt.Errorf("state_key_file: %w", err)
	}
	return nil
}

func (p *Proxy) openIdentity() error {
	addr, err := identity.SocketAddr(p.settings.Workload.Socket)
	if err != nil {
		return fmt.Errorf("workload.socket: %w", err)
	}
	domain, err := identity.ParseTrustDomain(p.settings.Workload.TrustDomain)
	if err != nil {
		return fmt.Errorf("workload.trust_domain: %w", err)
	}
	p.source, err = identity.New(identity.Config{
		SocketAddr: addr, TrustDomain: domain, JWTBundles: true, Log: p.log, Endpoints: authn.Transport, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	return p.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_identity_expires_timestamp_seconds",
		Help: "When our X.509-SVID expires, in Unix seconds; 0 without one.",
	}, func() float64 {
		expires := p.source.Expiry()
		if expires.IsZero() {
			return 0
		}
		return float64(expires.Unix())
	}))
}

// openServices builds what the gateway rests on.
func (p *Proxy) openServices() (err error) {
	p.authn, err = authn.New(authn.Config{Log: p.log, Registerer: p.metrics})
	if err != nil {
		return err
	}
	p.upstreams, err = upstream.New(upstream.Config{Identity: p.source, Log: p.log, Registerer: p.metrics, Zone: p.settings.Zone})
	if err != nil {
		return err
	}
	if p.signin, err = signin.New(signin.Config{Log: p.log}); err != nil {
		return err
	}
	if err := p.openRecords(); err != nil {
		return err
	}
	if err := errors.Join(p.openLimits(), p.openTraces(), p.openAccessLog(), p.openOverload()); err != nil {
		return err
	}
	p.keys, err = assertion.New(assertion.Config{File: filepath.Join(p.settings.StateDirectory, "assertion-keys"), Vault: p.vault, Log: p.log})
	if err != nil {
		return err
	}
	p.atlas, err = geo.New(geo.Config{
		Files: p.settings.Geo.Databases, MaxAge: time.Duration(p.settings.Geo.MaxAgeDays) * 24 * time.Hour, Log: p.log, Registerer: p.metrics,
	})
	return err
}

// openRecords builds what records decisions, here and at the control plane.
func (p *Proxy) openRecords() (err error) {
	p.courier, err = courier.New(courier.Config{
		ControlPlanes: p.settings.ControlPlanes, ControlPlaneID: identity.ID(p.settings.ControlPlaneID),
		Identity: p.source, Instance: p.settings.Instance,
		SpoolDirectory: filepath.Join(p.settings.StateDirectory, "records"), SpoolLimit: int64(p.settings.SpoolMiB) << 20,
		Log: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	writer, err := p.openLines()
	if err != nil {
		return err
	}
	p.recorder, err = record.New(record.Config{Writer: writer, Remote: p.courier, Log: p.log, Registerer: p.metrics})
	return err
}

// openLines returns what takes the lines of records; nil for nothing.
func (p *Proxy) openLines() (writer io.Writer, err error) {
	switch {
	case p.settings.recordsToStdout():
		writer = os.Stdout
	case p.settings.Records != toNowhere:
		p.records = &recordFile{path: p.settings.Records}
		writer = p.records
	}
	c := p.settings.Collector
	if c.Endpoint == "" {
		return writer, nil
	}
	p.collector, err = otlp.New(otlp.Config{
		Address:  collector.Address{Endpoint: c.Endpoint, CAFile: c.CAFile, AuthorizationFile: c.AuthorizationFile},
		Instance: p.settings.Instance, Version: build.Version(), Log: p.log, Registerer: p.metrics,
	})
	if err != nil || writer == nil {
		return p.collector, err
	}
	return &copied{writer, p.collector}, nil
}

func (p *Proxy) openGateway() (err error) {
	p.gateway, err = gateway.New(gateway.Config{
		Identity:    p.source,
		Authn:       p.authn,
		Upstreams:   p.upstreams,
		Record:      p.recorder,
		SignIn:      p.signin,
		Limits:      p.store(),
		Overload:    p.overload,
		Trace:       p.traces,
		Access:      p.access,
		LoggedOut:   func(ctx context.Context, proof *proxyv1.LogoutRequest) error { return p.link.LoggedOut(ctx, proof) },
		Log:         p.log,
		Age:         func(now time.Time) (time.Duration, bool) { return p.link.AgeAt(now) },
		SecurityAge: func(now time.Time) (time.Duration, bool) { return p.link.SecurityAgeAt(now) },
		Geo:         p.atlas,
		Assertions:  assertion.NewSigner(p.keys),
		Registerer:  p.metrics,
		Listen:      func(address string) (net.Listener, error) { return p.sockets.Share(context.Background(), address) },
		Drain:       time.Duration(p.settings.Stop.DrainSeconds) * time.Second,
	})
	return err
}

func (p *Proxy) openLink() error {
	key, err := p.settings.rootKey()
	if err != nil {
		return fmt.Errorf("root_public_key: %w", err)
	}
	p.link, err = link.New(link.Config{
		ControlPlanes:  p.settings.ControlPlanes,
		ControlPlaneID: identity.ID(p.settings.ControlPlaneID),
		Identity:       p.source,
		Instance:       p.settings.Instance,
		Build:          build.Version(),
		Verifier:       key.Verifier(),
		Directory:      p.settings.StateDirectory,
		Policy:         policy{p.gateway},
		Security:       security{p.gateway},
		Listeners:      listeners{p.gateway},
		UseCookieKeys:  p.gateway.UseCookieKeys,
		RecordsDropped: p.courier.Dropped,
		Cloud:          p.settings.Place.Cloud,
		Region:         p.settings.region(),
		Drain:          p.draining.Store,
		Load:           p.load,
		Bundle:         link.Bundle(p.settings.Bundle),
		Vault:          p.vault,
		Log:            p.log,
		Assertions:     p.keys,
		Registerer:     p.metrics,
	})
	return err
}

// Run serves until ctx ends or a part fails, and as long after that as the settings
// give notice, then lets requests end that are under way. The last good snapshot is in
// force before anybody is asked. Losing the control plane or the Workload API ends
// nothing.
func (p *Proxy) Run(ctx context.Context) error {
	ballast := make([]byte, heapFloor) // for the collector
	defer runtime.KeepAlive(ballast)
	// Without it every request would be denied: better said now.
	if p.records != nil {
		if err := p.records.open(); err != nil {
			return fmt.Errorf("open records: %w", err)
		}
		defer p.records.close()
	}
	if err := errors.Join(p.keys.Load(), p.courier.Load()); err != nil {
		return err
	}
	// What requests rest on goes on until the last of them has ended.
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	services, base := errgroup.WithContext(base)
	services.Go(func() error { return p.source.Run(base) })
	services.Go(func() error { return p.authn.Run(base) })
	services.Go(func() error { return p.upstreams.Run(base) })
	services.Go(func() error { return p.record(base) })
	services.Go(func() error { return p.courier.Run(base) })
	if p.traces != nil {
		services.Go(func() error { return p.traces.Run(base) })
	}
	services.Go(func() error { return p.writeAccessLog(base) })
	if p.overload != nil {
		services.Go(func() error { return p.overload.Run(base) })
	}
	if p.limits != nil {
		services.Go(func() error { return p.limits.Run(base) })
	}
	services.Go(func() error { return p.keys.Run(base) })
	services.Go(func() error { return p.admin(base) })
	// Large databases take seconds. To serve without them would be to deny.
	p.atlas.Refresh()
	services.Go(func() error { return p.atlas.Run(base) })

	services.Go(func() error { p.tell(base); return nil })

	serving, failing := errgroup.WithContext(context.WithoutCancel(ctx))
	serve, stop := context.WithCancel(failing)
	serving.Go(func() error { return p.link.Run(serve) })
	serving.Go(func() error { return p.gateway.Run(serve) })
	serving.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			p.stopping.Store(true)
			p.manager.Stopping()
			p.notice(base, failing)
			return nil
		case <-failing.Done():
			return nil
		case <-base.Done():
			return errServices
		}
	})
	err := serving.Wait()
	end()
	if broken := services.Wait(); broken != nil {
		return broken
	}
	return err
}

// notice goes on for the time that load balancers get to hear that we are stopping.
func (p *Proxy) notice(base, failing context.Context) {
	timer := time.NewTimer(time.Duration(p.settings.Stop.NoticeSeconds) * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-failing.Done():
	case <-base.Done():
	}
}

// tell tells the service manager how we are until ctx ends. It asks those parts that
// have locks: if one is never given back, nothing is told any more.
func (p *Proxy) tell(ctx context.Context) {
	every := p.manager.Every()
	if every == 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		p.manager.Tell(p.unready())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// record has records written until ctx ends, and the last of them sent.
func (p *Proxy) record(ctx context.Context) error {
	if p.collector == nil {
		return p.recorder.Run(ctx)
	}
	behind, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var g errgroup.Group
	g.Go(func() error { return p.collector.Run(behind) })
	g.Go(func() error {
		defer end()
		return p.recorder.Run(ctx)
	})
	return g.Wait()
}

// errServices ends what serves; what it stands for is told by the services.
var errServices = errors.New("a service of the proxy has ended")

// policy has the gateway decide by what the link accepts of its environment.
type policy struct{ gateway *gateway.Gateway }

// Enforce implements link.Enforcer.
func (p policy) Enforce(s *snapshot.Snapshot) {
	p.gateway.Apply(compile.Compile(p.gateway.Current(), s))
}

// Enforced implements link.Enforcer.
func (p policy) Enforced() link.Enforced {
	live := p.gateway.Current()
	if live == nil {
		return link.Enforced{}
	}
	return link.Enforced{Root: live.EnforcedRoot(), Rejects: live.Rejects(), Live: live.Live()}
}

// security has the gateway cut off whom the security lane says.
type security struct{ gateway *gateway.Gateway }

// Enforce implements link.Enforcer.
func (c security) Enforce(s *snapshot.Snapshot) {
	c.gateway.Revoke(revocation.Compile(c.gateway.Revocations(), s))
}

// Enforced implements link.Enforcer.
func (c security) Enforced() link.Enforced {
	live := c.gateway.Revocations()
	if live == nil {
		return link.Enforced{}
	}
	return link.Enforced{Root: live.EnforcedRoot(), Rejects: live.Rejects(), Live: live.Live()}
}

// listeners are the gateway's.
type listeners struct{ gateway *gateway.Gateway }

// Listeners implements link.Listeners.
func (l listeners) Listeners() []link.Listener {
	all := l.gateway.Listeners()
	status := make([]link.Listener, len(all))
	for i, l := range all {
		status[i] = link.Listener{Namespace: l.Namespace, Name: l.Name, Address: l.Address, Err: l.Error}
	}
	return status
}

// Changed implements link.Listeners.
func (l listeners) Changed() <-chan struct{} { return l.gateway.Changed() }
