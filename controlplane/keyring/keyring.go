// Package keyring makes the keys of session cookies and rotates them, so that the
// proxies of an environment share sessions and nobody else can make or read one.
package keyring

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/storage"
)

const (
	// rotation is for how long cookies are sealed with a key. Its successor is made
	// when it begins, and so is known to all proxies a day before it is used.
	rotation = 24 * time.Hour
	// lead is how long a key is known before it is used, when its predecessor's time
	// is over already.
	lead = time.Hour
	// first is how long ago the first key of an environment begins: no clock of a
	// proxy is that late.
	first = time.Hour
	// look is how often the database is asked what other replicas have made.
	look = 10 * time.Minute
	// retry is when the database is asked again after it has failed.
	retry = 5 * time.Second
)

// Config is what a Keyring needs. All fields but Now are required.
type Config struct {
	Store storage.CookieKeys
	// Key is the fleet's, the same on every replica. A key is derived from it with
	// which cookie keys are encrypted in the store.
	Key ed25519.PrivateKey
	Log *slog.Logger
	Now func() time.Time // time.Now when nil
}

// Keyring has the cookie keys of the environments that it was asked for. It is safe
// for concurrent use.
type Keyring struct {
	store  storage.CookieKeys
	secret []byte
	log    *slog.Logger
	now    func() time.Time

	wanted chan struct{} // has room for one: an environment is new in rings

	mu    sync.Mutex
	rings map[string]*State
}

// State is the keys of an environment.
type State struct {
	// Ring is nil until they were read for the first time.
	Ring *session.Ring
	// Changed is closed when there is another state.
	Changed <-chan struct{}

	changed chan struct{}
}

// New returns a Keyring that has read nothing.
func New(c Config) (*Keyring, error) {
	secret, err := hkdf.Key(sha256.New, c.Key.Seed(), nil, "sallyport cookie keys in the database v1", chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key for cookie keys: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Keyring{
		store: c.Store, secret: secret, log: c.Log, now: c.Now,
		wanted: make(chan struct{}, 1), rings: map[string]*State{},
	}, nil
}

// State returns the keys of an environment as they are known now. Run reads those
// of environments for which it was called.
func (k *Keyring) State(environment string) State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.rings[environment]
	if s == nil {
		s = newState(nil)
		k.rings[environment] = s
		select {
		case k.wanted <- struct{}{}:
		default:
		}
	}
	return *s
}

func newState(r *session.Ring) *State {
	changed := make(chan struct{})
	return &State{Ring: r, Changed: changed, changed: changed}
}

// Run reads and rotates keys until ctx ends. What was read stays in use while the
// database is away.
func (k *Keyring) Run(ctx context.Context) error {
	timer := time.NewTimer(look)
	defer timer.Stop()
	failing := false
	for {
		err := k.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			timer.Reset(look)
		default:
			timer.Reset(retry)
		}
		if err != nil && !failing {
			k.log.WarnContext(ctx, "cookie keys could not be read or rotated", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-k.wanted:
		}
	}
}

// refresh reads and rotates the keys of all environments.
func (k *Keyring) refresh(ctx context.Context) error {
	k.mu.Lock()
	var environments []string
	for e := range k.rings {
		environments = append(environments, e)
	}
	k.mu.Unlock()
	slices.Sort(environments)
	var failed error
	for _, e := range environments {
		r, err := k.read(ctx, e)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("environment %s: %w", e, err))
			continue
		}
		k.take(e, r)
	}
	return failed
}

func (k *Keyring) take(environment string, r *session.Ring) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.rings[environment]
	if s.Ring != nil && slices.Equal(s.Ring.Keys(), r.Keys()) {
		return
	}
	k.rings[environment] = newState(r)
	close(s.changed)
}

// read returns the keys of an environment, after those were made that are due.
func (k *Keyring) read(ctx context.Context, environment string) (*session.Ring, error) {
	var keys []session.Key
	err := k.store.ReviseCookieKeys(ctx, environment, func(stored []storage.CookieKey) ([]storage.CookieKey, error) {
		keys = Rotate(k.open(ctx, environment, stored), k.now())
		return k.seal(environment, stored, keys)
	})
	if err != nil {
		return nil, err
	}
	return session.NewRing(environment, keys...)
}

// Rotate returns the keys that there should be now: those given, without those that
// no session can be sealed with any more, and with the one in use and the next one.
func Rotate(keys []session.Key, now time.Time) []session.Key {
	slices.SortFunc(keys, func(a, b session.Key) int { return a.From.Compare(b.From) })
	if len(keys) == 0 || keys[0].From.After(now) {
		keys = slices.Insert(keys, 0, session.NewKey(now.Add(-first).UTC().Truncate(time.Second)))
	}
	if last := keys[len(keys)-1].From; !last.After(now) {
		next := last.Add(rotation)
		if soon := now.Add(lead); next.Before(soon) {
			next = soon
		}
		keys = append(keys, session.NewKey(next.UTC().Truncate(time.Second)))
	}
	for len(keys) > 2 && keys[1].From.Add(session.MaxLifetime+lead).Before(now) {
		keys = keys[1:]
	}
	return keys
}

// open decrypts stored keys. One that cannot be decrypted, as after that key
// was replaced, opens no cookie any more: it is left out.
func (k *Keyring) open(ctx context.Context, environment string, stored []storage.CookieKey) []session.Key {
	var keys []session.Key
	for _, s := range stored {
		key, err := k.decrypt(environment, s)
		if err != nil {
			k.log.ErrorContext(ctx, "cookie key in the database cannot be used", "environment", environment, "err", err)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

func (k *Keyring) decrypt(environment string, s storage.CookieKey) (session.Key, error) {
	key := session.Key{From: s.StartsAt}
	aead, err := chacha20poly1305.NewX(k.secret)
	if err != nil {
		return key, err
	}
	if len(s.ID) != len(key.ID) || len(s.Sealed) < aead.NonceSize() {
		return key, errors.New("it is malformed")
	}
	key.ID = session.KeyID(s.ID)
	plain, err := aead.Open(nil, s.Sealed[:aead.NonceSize()], s.Sealed[aead.NonceSize():], binding(environment, key))
	if err != nil || len(plain) != len(key.Secret) {
		return key, errors.New("it was not encrypted with this fleet's secrets key, or was changed")
	}
	key.Secret = [32]byte(plain)
	return key, nil
}

// seal encrypts keys, and returns those that are stored as they are.
func (k *Keyring) seal(environment string, stored []storage.CookieKey, keys []session.Key) ([]storage.CookieKey, error) {
	aead, err := chacha20poly1305.NewX(k.secret)
	if err != nil {
		return nil, err
	}
	out := make([]storage.CookieKey, 0, len(keys))
	for _, key := range keys {
		i := slices.IndexFunc(stored, func(s storage.CookieKey) bool { return string(s.ID) == string(key.ID[:]) })
		if i >= 0 {
			out = append(out, stored[i])
			continue
		}
		nonce := make([]byte, aead.NonceSize())
		_, _ = rand.Read(nonce) // it never fails: see crypto/rand
		out = append(out, storage.CookieKey{
			ID: key.ID[:], StartsAt: key.From,
			Sealed: aead.Seal(nonce, nonce, key.Secret[:], binding(environment, key)),
		})
	}
	return out, nil
}

// binding keeps a stored key from being taken for another: of another environment,
// or to begin at another time.
func binding(environment string, key session.Key) []byte {
	return fmt.Appendf(nil, "%s\x00%x\x00%d", environment, key.ID, key.From.Unix())
}
