// Package assertion tells upstreams who sent a request, in words that only this
// proxy can sign: whoever speaks to them past the gateway cannot.
package assertion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/token"
)

// The life of a key. It is published before it is used, for so long that those
// who keep a copy of the published keys have looked again; and after it was
// used, for as long as what it has signed is good, and clocks may differ.
const (
	useFor       = 24 * time.Hour
	publishAhead = time.Hour
	publishAfter = 5 * time.Minute
	lookEvery    = time.Minute
)

// Config is what Keys need. File and Log are required.
type Config struct {
	// File keeps the private keys, so that a restart while the control plane is
	// away has a key that is published. It belongs to one process at a time.
	File string
	// Vault seals what File holds. When it is nil, nothing is kept.
	Vault *vault.Vault
	Log   *slog.Logger
	Now   func() time.Time // time.Now when nil
}

// Keys are the proxy's own. They are safe for concurrent use.
type Keys struct {
	file    string
	vault   *vault.Vault // nil for none
	log     *slog.Logger
	now     func() time.Time
	changed chan struct{} // has room for one: what is on disk is out of date

	// signing is the key in use, nil before the first was reported.
	signing atomic.Pointer[key]

	mu                      sync.Mutex
	current, next, previous *key      // nil for none
	since                   time.Time // current is in use, and previous no more
}

// key is immutable but for reported, which mu guards.
type key struct {
	private  *ecdsa.PrivateKey
	public   token.PublicKey
	point    []byte
	reported time.Time // to the control plane, for the first time; or zero
}

// New returns Keys that sign nothing until Load.
func New(c Config) (*Keys, error) {
	if c.File == "" || c.Log == nil {
		return nil, errors.New("File and Log are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Keys{file: c.File, vault: c.Vault, log: c.Log, now: c.Now, changed: make(chan struct{}, 1)}, nil
}

// Load takes the keys of the file, or makes one when there is none that can be
// read. It is called once, before all other methods.
func (k *Keys) Load() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.read(); err != nil {
		k.log.Error("assertion keys cannot be used", "file", k.file, "err", err)
	}
	return k.turn()
}

// Run makes, changes and drops keys in their time, and keeps them on disk, until
// ctx ends. It returns nil.
func (k *Keys) Run(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			select {
			case <-k.changed:
				k.save()
			default:
			}
			return nil
		case <-look.C:
			k.look()
		case <-k.changed:
			k.save()
		}
	}
}

func (k *Keys) look() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.turn(); err != nil {
		k.log.Error("assertion key was not made", "err", err)
	}
}

// turn brings the keys to where they should be by now. The caller holds mu.
func (k *Keys) turn() error {
	now := k.now()
	if k.previous != nil && now.Sub(k.since) >= publishAfter {
		k.previous = nil
		k.tell()
	}
	if k.next != nil && k.ready(now) {
		k.previous, k.current, k.next, k.since = k.current, k.next, nil, now
		k.signing.Store(k.current)
		k.log.Info("assertion key is in use", "key", k.current.public.ID())
		k.tell()
	}
	if k.next != nil || k.current != nil && now.Sub(k.since) < useFor-publishAhead {
		return nil
	}
	made, err := newKey()
	if err != nil {
		return err
	}
	k.next = made
	k.tell()
	return nil
}

// ready reports whether next may take over: the first one as soon as it was
// reported, since nobody can have a copy of the keys without it that is older
// than the first assertion. The caller holds mu.
func (k *Keys) ready(now time.Time) bool {
	switch {
	case k.next.reported.IsZero():
		return false
	case k.current == nil:
		return true
	}
	return now.Sub(k.next.reported) >= publishAhead && now.Sub(k.since) >= useFor
}

// tell has Run write what there is. The caller holds mu.
func (k *Keys) tell() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Public returns the keys that others have to know: the one in use, the one
// before while what it has signed is good, and the one that comes next.
func (k *Keys) Public() []token.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []token.PublicKey
	for _, key := range k.all() {
		all = append(all, key.public)
	}
	return all
}

// Points returns the same as uncompressed points, to be reported.
func (k *Keys) Points() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all [][]byte
	for _, key := range k.all() {
		all = append(all, key.point)
	}
	return all
}

func (k *Keys) all() []*key {
	return slices.DeleteFunc([]*key{k.current, k.next, k.previous}, func(k *key) bool { return k == nil })
}

// Reported says that the control plane was told these points. A key that was not
// reported is not used.
func (k *Keys) Reported(points [][]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	told := k.next != nil && k.next.reported.IsZero() &&
		slices.ContainsFunc(points, func(p []byte) bool { return slices.Equal(p, k.next.point) })
	if !told {
		return
	}
	k.next.reported = k.now()
	k.tell()
	if err := k.turn(); err != nil {
		k.log.Error("assertion key was not made", "err", err)
	}
}

func newKey() (*key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return keyOf(private)
}

func keyOf(private *ecdsa.PrivateKey) (*key, error) {
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	public, err := token.ParsePublicKey(point)
	if err != nil {
		return nil, err
	}
	return &key{private: private, public: public, point: point}, nil
}
