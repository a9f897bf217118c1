package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
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
	trustDomain = "demo.example"
	svidTTL     = 24 * time.Hour
	readyWithin = 30 * time.Second
	database    = "sallyport"
)

// The workloads of the demo.
const (
	operatorID     = "spiffe://" + trustDomain + "/operator"
	controlPlaneID = "spiffe://" + trustDomain + "/controlplane"
	ordersID       = "spiffe://" + trustDomain + "/api/orders"
	billingID      = "spiffe://" + trustDomain + "/ns/shop/billing"
)

// world is everything that a demo runs.
type world struct {
	dir    string
	log    *slog.Logger
	ends   []func() error // in the order of starting; stop calls them backwards
	issuer *issuer.Issuer
	tokens *tokenIssuer

	controlPlane *process
	status       string // where the control plane serves /readyz
	registration string // where it serves proxies
	proxies      []*proxy
	samples      []sample
	operator     *operator
	described    Description
}

// proxy is one of the demo's proxies.
type proxy struct {
	Proxy
	*process
}

// sample is one of the demo's APIs.
type sample struct {
	name, address string
}

// start starts everything. The world is to be stopped even after an error.
func start(ctx context.Context, dir, bin string, log *slog.Logger) (*world, error) {
	w := &world{dir: dir, log: log, described: Description{CAFile: filepath.Join(dir, "ca.pem")}}
	for _, step := range []func(context.Context) error{
		w.startIssuer,
		w.startSamples,
		func(ctx context.Context) error { return w.startControlPlane(ctx, bin) },
		w.openOperator,
		func(ctx context.Context) error { return w.startProxies(ctx, bin) },
		func(context.Context) error { return w.described.write(dir) },
	} {
		if err := step(ctx); err != nil {
			return w, err
		}
	}
	return w, nil
}

// stop ends everything, the youngest first.
func (w *world) stop() error {
	var errs []error
	for _, end := range slices.Backward(w.ends) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name string, content []byte) error {
	return os.WriteFile(w.path(name), content, 0o600)
}

// background runs f until the world stops.
func (w *world) background(f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	w.ends = append(w.ends, func() error { cancel(); return <-done })
}

// startIssuer starts the SPIFFE issuer, with a socket for each workload, and
// the token issuer.
func (w *world) startIssuer(context.Context) error {
	var err error
	w.issuer, err = issuer.New(issuer.Config{
		DevelopmentOnly: true, TrustDomain: trustDomain, TTL: svidTTL, Log: w.log,
	})
	if err != nil {
		return err
	}
	if err := errors.Join(
		w.write("ca.pem", w.issuer.ServerCAPEM()),
		w.write("svid-bundle.pem", w.issuer.BundlePEM()),
	); err != nil {
		return err
	}
	if w.described.Client, err = w.certificate(billingID, "billing"); err != nil {
		return err
	}
	if w.described.Operator, err = w.certificate(operatorID, "operator"); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.described.TokenIssuer = "http://" + ln.Addr().String()
	if w.tokens, err = newTokenIssuer(w.described.TokenIssuer); err != nil {
		return err
	}
	w.serve(ln, w.tokens.handler(), nil)
	return nil
}

// workload opens a Workload API socket for an identity.
func (w *world) workload(id, name string) (string, error) {
	socket := w.path(name + ".sock")
	endpoint, err := w.issuer.Listen(identity.ID(id), socket, 0o600)
	if err != nil {
		return "", err
	}
	w.background(endpoint.Run)
	return socket, nil
}

// certificate writes an SVID as PEM files, for curl.
func (w *world) certificate(id, name string) (Certificate, error) {
	svid, err := w.issuer.Issue(identity.ID(id), svidTTL)
	if err != nil {
		return Certificate{}, err
	}
	chain, key, err := issuer.EncodePEM(svid)
	if err != nil {
		return Certificate{}, err
	}
	c := Certificate{SPIFFEID: id, CertificateFile: w.path(name + ".pem"), PrivateKeyFile: w.path(name + "-key.pem")}
	return c, errors.Join(w.write(name+".pem", chain), w.write(name+"-key.pem", key))
}

// serverCertificate writes a certificate for the machine's loopback names.
func (w *world) serverCertificate(name string, names ...string) error {
	cert, err := w.issuer.IssueServerCertificate(append(names, "localhost", "127.0.0.1"), svidTTL)
	if err != nil {
		return err
	}
	chain, key, err := issuer.EncodePEM(cert)
	if err != nil {
		return err
	}
	return errors.Join(w.write(name+".pem", chain), w.write(name+"-key.pem", key))
}

// serve serves until the world stops.
func (w *world) serve(ln net.Listener, h http.Handler, wrap func(net.Listener) net.Listener) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(w.log.Handler(), slog.LevelDebug)}
	if wrap != nil {
		ln = wrap(ln)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	w.ends = append(w.ends, func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			return errors.Join(err, served)
		}
		return err
	})
}

// startControlPlane starts Postgres, etcd, and the control plane on them.
func (w *world) startControlPlane(ctx context.Context, bin string) error {
	postgres, err := local.NewPostgres(local.PostgresConfig{Log: w.log})
	if err != nil {
		return err
	}
	w.ends = append(w.ends, postgres.Close)
	if err := postgres.Start(ctx); err != nil {
		return err
	}
	if err := postgres.CreateDatabase(ctx, database, ""); err != nil {
		return err
	}
	etcd, err := local.NewEtcd(local.EtcdConfig{Log: w.log})
	if err != nil {
		return err
	}
	w.ends = append(w.ends, etcd.Close)
	if err := etcd.Start(ctx); err != nil {
		return err
	}
	if err := w.makeSigningKey(); err != nil {
		return err
	}
	if err := w.write("database-url", []byte(postgres.DSN(database)+"\n")); err != nil {
		return err
	}
	return w.runControlPlane(ctx, bin, etcd.Endpoints())
}

// makeSigningKey makes the fleet's key, and the public one that proxies pin.
func (w *world) makeSigningKey() error {
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
		w.write("signing-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})),
		w.write("root-public-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})),
	)
}

func (w *world) runControlPlane(ctx context.Context, bin string, etcd []string) error {
	socket, err := w.workload(controlPlaneID, "controlplane")
	if err != nil {
		return err
	}
	if w.described.WorkloadSocket, err = w.workload(operatorID, "operator"); err != nil {
		return err
	}
	if err := w.serverCertificate("controlplane-tls"); err != nil {
		return err
	}
	addresses, err := freeAddresses(3)
	if err != nil {
		return err
	}
	w.described.ControlPlane, w.registration = "https://"+addresses[0], "https://"+addresses[1]
	settings, err := w.settings("controlplane", map[string]any{
		"replica":          "demo",
		"workload":         map[string]any{"socket": socket, "trust_domain": trustDomain},
		"database":         map[string]any{"url_file": w.path("database-url")},
		"etcd":             map[string]any{"endpoints": etcd},
		"signing_key_file": w.path("signing-key.pem"),
		"admin": map[string]any{
			"address":          addresses[0],
			"certificate_file": w.path("controlplane-tls.pem"),
			"private_key_file": w.path("controlplane-tls-key.pem"),
			"administrators":   []map[string]any{{"spiffe_id": operatorID, "role": "admin"}},
		},
		"proxies": map[string]any{"address": addresses[1]},
		"health":  map[string]any{"address": addresses[2]},
	})
	if err != nil {
		return err
	}
	binary, err := program(bin, "sallyport-controlplane")
	if err != nil {
		return err
	}
	migrate := &process{name: "migration", args: []string{binary, "migrate", "--settings", settings}, log: w.path("controlplane.log")}
	if err := migrate.start(); err != nil {
		return err
	}
	<-migrate.done
	if !migrate.cmd.ProcessState.Success() {
		return errors.New("the database was not migrated")
	}
	w.controlPlane = &process{name: "control plane", args: []string{binary, "--settings", settings}, log: w.path("controlplane.log")}
	w.ends = append(w.ends, w.controlPlane.stop)
	if err := w.controlPlane.start(); err != nil {
		return err
	}
	w.status = "http://" + addresses[2]
	return w.ready(ctx, w.status, w.controlPlane)
}

// settings writes a settings file and returns its path.
func (w *world) settings(name string, content map[string]any) (string, error) {
	b, err := yaml.Marshal(content)
	if err != nil {
		return "", err
	}
	return w.path(name + ".yaml"), w.write(name+".yaml", b)
}

// startProxies starts a proxy in each cloud and waits until it serves.
func (w *world) startProxies(ctx context.Context, bin string) error {
	binary, err := program(bin, "sallyport-proxy")
	if err != nil {
		return err
	}
	if err := w.serverCertificate("proxy-tls", "orders.demo.example", "inventory.demo.example"); err != nil {
		return err
	}
	for _, cloud := range []string{"aws", "gcp"} {
		if err := w.startProxy(binary, cloud); err != nil {
			return err
		}
	}
	if err := w.saveResources(); err != nil {
		return err
	}
	revision, err := w.operator.apply(ctx, w.firstResources(), "the demo begins")
	if err != nil {
		return fmt.Errorf("apply the first resources: %w", err)
	}
	for _, p := range w.proxies {
		if err := w.ready(ctx, p.Status, p.process); err != nil {
			return err
		}
		w.described.Proxies = append(w.described.Proxies, p.Proxy)
	}
	if err := w.connected(ctx); err != nil {
		return err
	}
	return w.operator.enforced(ctx, revision, w.environments()...)
}

// connected waits until both proxies have their stream.
func (w *world) connected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		n, err := w.operator.connected(ctx)
		if err == nil && n == len(w.proxies) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d proxies are connected after %s: %w", n, len(w.proxies), readyWithin, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *world) startProxy(binary, cloud string) error {
	name := cloud + "-1"
	socket, err := w.workload("spiffe://"+trustDomain+"/proxy/"+cloud+"/1", name)
	if err != nil {
		return err
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return err
	}
	settings, err := w.settings(name, map[string]any{
		"instance":             name,
		"control_planes":       []string{w.registration},
		"control_plane_id":     controlPlaneID,
		"root_public_key_file": w.path("root-public-key.pem"),
		"workload":             map[string]any{"socket": socket, "trust_domain": trustDomain},
		"state_directory":      w.path(name + "-state"),
		"admin":                map[string]any{"address": addresses[1]},
		"records":              w.path(name + "-records.jsonl"),
	})
	if err != nil {
		return err
	}
	p := &proxy{
		Proxy: Proxy{
			Name: name, Environment: cloud + "-demo",
			URL: "https://" + addresses[0], Status: "http://" + addresses[1],
		},
		process: &process{name: "proxy " + name, args: []string{binary, "--settings", settings}, log: w.path(name + ".log")},
	}
	w.proxies = append(w.proxies, p)
	w.ends = append(w.ends, p.stop)
	return p.start()
}

// ready waits until a process says that it is.
func (w *world) ready(ctx context.Context, status string, p *process) error {
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
			return fmt.Errorf("%s is not ready after %s: %s", p.name, readyWithin, why)
		case <-p.done:
			return fmt.Errorf("%s has ended: see %s", p.name, p.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freeAddresses returns loopback addresses that nobody listens on. All are
// held until the last is found, so that no two are the same.
func freeAddresses(n int) ([]string, error) {
	var addresses []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() //nolint:errcheck // it was only held
		addresses = append(addresses, ln.Addr().String())
	}
	return addresses, nil
}

// watch waits for ctx to end. A part that ends before is an error.
func (w *world) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.controlPlane.done:
		return fmt.Errorf("the control plane has ended: see %s", w.controlPlane.log)
	case <-w.proxies[0].done:
		return fmt.Errorf("%s has ended: see %s", w.proxies[0].name, w.proxies[0].log)
	case <-w.proxies[1].done:
		return fmt.Errorf("%s has ended: see %s", w.proxies[1].name, w.proxies[1].log)
	}
}
