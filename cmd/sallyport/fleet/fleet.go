// Package fleet runs a whole Sallyport on one machine, for the demo and for
// tests of the real binaries: a Postgres and an etcd of its own, a SPIFFE
// issuer for development, a control plane, proxies in two environments, sample
// APIs and a token issuer. Control plane and proxies are child processes.
package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/storage/local"
)

const (
	svidTTL     = 24 * time.Hour
	readyWithin = 30 * time.Second
	rootKeyFile = "root-public-key.pem"
)

// TrustDomain is that of every workload of a fleet.
const TrustDomain = "demo.example"

// Database is the name of the fleet's database in its Postgres.
const Database = "sallyport"

// The workloads of a fleet, beside its proxies.
const (
	OperatorID     = "spiffe://" + TrustDomain + "/operator"
	ControlPlaneID = "spiffe://" + TrustDomain + "/controlplane"
	OrdersID       = "spiffe://" + TrustDomain + "/api/orders"
	BillingID      = "spiffe://" + TrustDomain + "/ns/shop/billing"
)

// Config says what fleet is wanted. All fields but Identities are required.
type Config struct {
	// Dir keeps everything, as an absolute path.
	Dir string
	// Bin is the folder of sallyport-controlplane and sallyport-proxy, which
	// are looked for on the PATH if they are not there.
	Bin string
	Log *slog.Logger
	// Identities gives the workloads their SPIFFE identities; the development
	// issuer does when it is nil.
	Identities Identities
	// Etcd are the endpoints of an etcd that somebody else runs; the fleet runs
	// one of its own when there are none.
	Etcd []string
	// Replicas is how many the control plane has: one when it is zero.
	Replicas int
	// Edge says that there is an edge besides, with an etcd of its own, which hands on
	// to the first replica alone, and that all proxies but that of aws are connected to it alone.
	Edge bool
}

// Fleet is a running fleet. Its fields are set by Start, and not changed
// after. It is not safe for concurrent use, but for Admin.
type Fleet struct {
	Described    Description
	Postgres     *local.Postgres
	Etcd         *local.Etcd // nil when somebody else's is used
	Near         *local.Etcd // that of the edge; nil without one
	ControlPlane *Process    // its first replica
	Replicas     []*Replica
	Edge         *Replica // nil without one; it has no API
	Members      []*Member
	Admin        *Operator // calls the first replica

	dir        string
	bin        string
	log        *slog.Logger
	identities Identities
	etcd       []string
	replicas   int
	edge       bool
	authority  *issuer.Issuer // of server certificates
	tokens     *tokenIssuer
	ends       []func() error // in the order of starting; Stop calls them backwards

	samples []sample
}

// Member is a proxy of a fleet.
type Member struct {
	Proxy
	*Process
}

// sample is one of the APIs.
type sample struct {
	name, address string
}

// Start starts a fleet and waits until its proxies enforce the first
// resources. The fleet is to be stopped even after an error.
func Start(ctx context.Context, c Config) (*Fleet, error) {
	f := &Fleet{
		dir: c.Dir, bin: c.Bin, log: c.Log, identities: c.Identities, etcd: c.Etcd, replicas: max(1, c.Replicas), edge: c.Edge,
		Described: Description{CAFile: filepath.Join(c.Dir, "ca.pem")},
	}
	for _, step := range []func(context.Context) error{
		f.startIssuers,
		f.startSamples,
		f.startControlPlane,
		f.startEdge,
		f.openOperator,
		f.startProxies,
		func(context.Context) error { return f.Described.write(c.Dir) },
	} {
		if err := step(ctx); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Stop ends everything, the youngest first.
func (f *Fleet) Stop() error {
	var errs []error
	for _, end := range slices.Backward(f.ends) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// Path returns a file of the fleet.
func (f *Fleet) Path(name string) string { return filepath.Join(f.dir, name) }

func (f *Fleet) put(name string, content []byte) error {
	return os.WriteFile(f.Path(name), content, 0o600)
}

// background runs f until the world stops.
func (f *Fleet) background(run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	f.ends = append(f.ends, func() error { cancel(); return <-done })
}

// serve serves until the world stops.
func (f *Fleet) serve(ln net.Listener, h http.Handler, wrap func(net.Listener) net.Listener) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(f.log.Handler(), slog.LevelDebug)}
	if wrap != nil {
		ln = wrap(ln)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	f.ends = append(f.ends, func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			return errors.Join(err, served)
		}
		return err
	})
}

// startControlPlane starts Postgres, etcd unless there is one, and the control
// plane on them.
func (f *Fleet) startControlPlane(ctx context.Context) error {
	var err error
	if f.Postgres, err = local.NewPostgres(local.PostgresConfig{Log: f.log}); err != nil {
		return err
	}
	f.ends = append(f.ends, f.Postgres.Close)
	if err := f.Postgres.Start(ctx); err != nil {
		return err
	}
	if err := f.Postgres.CreateDatabase(ctx, Database, ""); err != nil {
		return err
	}
	if err := errors.Join(f.startEtcd(ctx), f.startNear(ctx)); err != nil {
		return err
	}
	if err := f.makeSigningKey(); err != nil {
		return err
	}
	if err := f.put("database-url", []byte(f.Postgres.DSN(Database)+"\n")); err != nil {
		return err
	}
	return f.startReplicas(ctx)
}

func (f *Fleet) startEtcd(ctx context.Context) (err error) {
	if len(f.etcd) > 0 {
		return nil
	}
	if f.Etcd, err = local.NewEtcd(local.EtcdConfig{Log: f.log}); err != nil {
		return err
	}
	f.ends = append(f.ends, f.Etcd.Close)
	err = f.Etcd.Start(ctx)
	f.etcd = f.Etcd.Endpoints()
	return err
}

// startNear starts the etcd of the edge, if there is to be one.
func (f *Fleet) startNear(ctx context.Context) (err error) {
	if !f.edge {
		return nil
	}
	if f.Near, err = local.NewEtcd(local.EtcdConfig{Log: f.log}); err != nil {
		return err
	}
	f.ends = append(f.ends, f.Near.Close)
	return f.Near.Start(ctx)
}

// makeSigningKey makes the fleet's key, and the public one that proxies pin.
func (f *Fleet) makeSigningKey() error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	return errors.Join(
		f.put("signing-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})),
		f.put(rootKeyFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})),
	)
}

// RootPublicKey returns the key that the fleet's proxies pin.
func (f *Fleet) RootPublicKey() (ed25519.PublicKey, error) {
	b, err := os.ReadFile(f.Path(rootKeyFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("the public key is no PEM file")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the public key is no Ed25519 key")
	}
	return key, nil
}

// settings writes a settings file and returns its path.
func (f *Fleet) settings(name string, content map[string]any) (string, error) {
	b, err := yaml.Marshal(content)
	if err != nil {
		return "", err
	}
	return f.Path(name + ".yaml"), f.put(name+".yaml", b)
}

// startProxies starts a proxy in each cloud and waits until it serves.
func (f *Fleet) startProxies(ctx context.Context) error {
	binary, err := program(f.bin, "sallyport-proxy")
	if err != nil {
		return err
	}
	if err := f.serverCertificate("proxy-tls", "orders.demo.example", "inventory.demo.example"); err != nil {
		return err
	}
	for _, cloud := range []string{"aws", "gcp"} {
		if err := f.addProxy(ctx, binary, cloud, TrustDomain); err != nil {
			return err
		}
	}
	if err := f.saveResources(); err != nil {
		return err
	}
	// Before the proxies start: one that has to wait for its Enrollment asks
	// again after a while only.
	revision, err := f.Admin.Apply(ctx, f.firstResources(), "the fleet begins")
	if err != nil {
		return fmt.Errorf("apply the first resources: %w", err)
	}
	for _, p := range f.Members {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for _, p := range f.Members {
		if err := f.ready(ctx, p.Status, p.Process); err != nil {
			return err
		}
		f.Described.Proxies = append(f.Described.Proxies, p.Proxy)
	}
	if err := f.Connected(ctx); err != nil {
		return err
	}
	return f.Admin.Enforced(ctx, revision, f.Environments()...)
}

// Connected waits until all proxies have their stream.
func (f *Fleet) Connected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		n, err := f.Admin.connected(ctx)
		if err == nil && n == len(f.Members) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d proxies are connected after %s: %w", n, len(f.Members), readyWithin, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// addProxy makes a proxy that is ready to be started.
func (f *Fleet) addProxy(ctx context.Context, binary, cloud string, td identity.TrustDomain) error {
	name := cloud + "-1"
	socket, err := f.identities.Workload(ctx, Workload{identity.ID("spiffe://" + string(td) + "/proxy/" + cloud + "/1"), name, binary})
	if err != nil {
		return err
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return err
	}
	stateKey := name + "-state-key"
	if err := f.makeStateKey(stateKey); err != nil {
		return err
	}
	replicas, id := f.serving(cloud)
	settings, err := f.settings(name, map[string]any{
		"instance":             name,
		"state_key_file":       f.Path(stateKey),
		"control_planes":       replicas,
		"control_plane_id":     id,
		"root_public_key_file": f.Path(rootKeyFile),
		"workload":             map[string]any{"socket": socket, "trust_domain": td},
		"state_directory":      f.Path(name + "-state"),
		"admin":                map[string]any{"address": addresses[1]},
		"records":              f.Path(name + "-records.jsonl"),
	})
	if err != nil {
		return err
	}
	p := &Member{
		Proxy: Proxy{
			Name: name, Environment: cloud + "-demo",
			URL: "https://" + addresses[0], Status: "http://" + addresses[1],
		},
		Process: &Process{Label: "proxy " + name, Args: []string{binary, "--settings", settings}, Log: f.Path(name + ".log")},
	}
	f.Members = append(f.Members, p)
	f.ends = append(f.ends, p.Stop)
	return nil
}

// makeStateKey makes the key that seals the secrets in a proxy's state directory.
func (f *Fleet) makeStateKey(name string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	return f.put(name, []byte(base64.StdEncoding.EncodeToString(key)+"\n"))
}

// Ready waits until a process says that it is.
func (f *Fleet) ready(ctx context.Context, status string, p *Process) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	why := "it does not answer"
	for {
		var ok bool
		if ok, why = isReady(ctx, status, why); ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %s", p.Label, readyWithin, why)
		case <-p.done:
			return fmt.Errorf("%s has ended: see %s", p.Label, p.Log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freeAddresses returns loopback addresses that nobody listens on. All are
// held until the last is found, so that no two are the same.
func freeAddresses(n int) ([]string, error) {
	if n == 0 {
		return nil, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	others, err := freeAddresses(n - 1)
	return append(others, ln.Addr().String()), err
}

// ControlPlaneReady waits until the first replica says that it is ready.
func (f *Fleet) ControlPlaneReady(ctx context.Context) error {
	return f.ReplicaReady(ctx, f.Replicas[0])
}

// ReplicaReady waits until a replica says that it is ready.
func (f *Fleet) ReplicaReady(ctx context.Context, r *Replica) error {
	return f.ready(ctx, r.Status, r.Process)
}

// MemberReady waits until a proxy says that it is ready.
func (f *Fleet) MemberReady(ctx context.Context, m *Member) error {
	return f.ready(ctx, m.Status, m.Process)
}

// Watch waits for ctx to end. A process that ends before is an error.
func (f *Fleet) Watch(ctx context.Context) error {
	all := f.processes()
	ended := make(chan *Process, len(all))
	for _, p := range all {
		go func(done <-chan struct{}) {
			select {
			case <-done:
				ended <- p
			case <-ctx.Done():
			}
		}(p.Done())
	}
	select {
	case <-ctx.Done():
		return nil
	case p := <-ended:
		return fmt.Errorf("%s has ended: see %s", p.Label, p.Log)
	}
}

func (f *Fleet) processes() []*Process {
	var all []*Process
	for _, r := range f.Replicas {
		all = append(all, r.Process)
	}
	if f.Edge != nil {
		all = append(all, f.Edge.Process)
	}
	for _, m := range f.Members {
		all = append(all, m.Process)
	}
	return all
}

// Environments returns the names of the proxies' environments.
func (f *Fleet) Environments() []string {
	var names []string
	for _, m := range f.Members {
		names = append(names, m.Environment)
	}
	return names
}
