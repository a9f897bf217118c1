package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

// EtcdConfig is what an Etcd needs. Only Log is required.
type EtcdConfig struct {
	// Dir keeps the data from one process to the next; it is made where it is
	// missing. Empty: the data is temporary, gone with Close.
	Dir string
	// Quota bounds the database, in bytes: beyond it nothing is taken any more. etcd's
	// own when 0.
	Quota int64

	Log *slog.Logger
}

// Etcd is a single member that runs inside this process and listens on one
// Unix socket, without authentication, that only this user can reach. Start,
// Stop and Close are for one goroutine at a time; after Start the other methods
// are safe for concurrent use.
type Etcd struct {
	cfg EtcdConfig

	// Set by Start for a new scratch directory, and never changed before Close.
	socket string
	data   string

	// Owned by the caller of Start, Stop and Close.
	tmp    *scratch     // nil before Start and after Close
	held   *os.File     // lock of Dir; nil when there is none
	server *embed.Etcd  // nil before Start and after Stop
	rpc    *grpc.Server // of server
}

// NewEtcd starts nothing.
func NewEtcd(cfg EtcdConfig) (*Etcd, error) {
	if cfg.Log == nil {
		return nil, errors.New("local etcd: no logger")
	}
	return &Etcd{cfg: cfg}, nil
}

// Start returns when the server accepts requests. ctx bounds the start, not
// the life of the server. After Stop, Start serves the same data under the
// same endpoint. A first Start that fails leaves nothing behind.
func (e *Etcd) Start(ctx context.Context) error {
	if e.server != nil {
		return fmt.Errorf("start etcd: %w", errStarted)
	}
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	first := e.tmp == nil
	err := e.start(ctx)
	if err == nil {
		e.cfg.Log.Info("etcd started", "dir", e.data)
		return nil
	}
	err = fmt.Errorf("start etcd: %w", err)
	if first {
		err = errors.Join(err, e.Close())
	}
	return err
}

func (e *Etcd) start(ctx context.Context) error {
	if e.tmp == nil {
		if err := e.settle(ctx); err != nil {
			return err
		}
	}
	if err := e.awaitUnlocked(ctx); err != nil {
		return err
	}
	rpc := make(chan *grpc.Server, 1)
	cfg := e.config()
	cfg.ServiceRegister = func(s *grpc.Server) { rpc <- s }
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	// The gRPC server is made once the member is ready to serve.
	select {
	case e.rpc = <-rpc:
		e.server = server
		return nil
	case err = <-server.Err():
		err = errors.Join(errors.New("it ended at once"), err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	server.Server.Stop() // Close would wait for a member that never gets ready
	server.Close()
	return err
}

// settle decides where socket and data are.
func (e *Etcd) settle(ctx context.Context) (err error) {
	if e.tmp, err = newScratch("", nil); err != nil {
		return err
	}
	e.socket, e.data = filepath.Join(e.tmp.path, "etcd.sock"), filepath.Join(e.tmp.path, "etcd")
	if e.cfg.Dir == "" {
		return nil
	}
	dir, err := filepath.Abs(e.cfg.Dir)
	if err != nil {
		return err
	}
	e.data = filepath.Join(dir, "data")
	e.held, err = claim(ctx, dir)
	return err
}

// awaitUnlocked returns when nobody holds the locks of the write-ahead log. A
// process that this one forked before Stop shares our open files, and so the
// locks, until it runs its own program; and an etcd that finds them taken ends
// the whole process.
func (e *Etcd) awaitUnlocked(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(e.data, "member", "wal", "*.wal"))
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, name := range names {
		for {
			err := tryLock(name)
			if err == nil {
				break
			}
			if !errors.Is(err, fileutil.ErrLocked) {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// tryLock reports whether name can be locked, and lets no fork share its try.
func tryLock(name string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := fileutil.TryLockFile(name, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// config is that of a single member which elects itself at once, talks to no
// peers and does not wait for the disk (see Postgres for why).
func (e *Etcd) config() *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = e.data
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	cfg.QuotaBackendBytes = e.cfg.Quota
	cfg.EnableGRPCGateway = false
	cfg.ListenPeerUrls = nil
	client := []url.URL{{Scheme: "unix", Path: e.socket}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(e.cfg.Log))
	return cfg
}

// Stop ends the server and cuts off its clients. Stopping what is not started
// does nothing.
func (e *Etcd) Stop() error {
	if e.server == nil {
		return nil
	}
	// Left to itself, Close gives clients that do not answer five seconds.
	e.rpc.Stop()
	e.server.Close()
	e.server, e.rpc = nil, nil
	e.cfg.Log.Info("etcd stopped", "dir", e.data)
	return nil
}

// Close stops the server and removes everything but what is in Dir.
func (e *Etcd) Close() error {
	err := e.Stop()
	if e.tmp != nil {
		err = errors.Join(err, e.tmp.remove())
		e.tmp = nil
	}
	if e.held != nil {
		err = errors.Join(err, e.held.Close())
		e.held = nil
	}
	return err
}

// Endpoints is what a client, in this process or in another, connects to. It
// is valid from Start to Close.
func (e *Etcd) Endpoints() []string { return []string{"unix://" + e.socket} }

// DataDir is where the server keeps its data. Between Stop and Start it may be
// removed, or replaced by an older copy. It is valid from Start to Close.
func (e *Etcd) DataDir() string { return e.data }
