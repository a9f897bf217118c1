package controlplane

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/storage"
)

const (
	// keySetFor is how long a key set is served before the fleet is read again.
	// Proxies wait far longer before they use a key.
	keySetFor = 2 * time.Second
	// keySetWithin bounds how long reading the fleet may take.
	keySetWithin = 5 * time.Second
)

// keySets publishes the keys of assertions, by environment. They are public:
// whoever asks may know them. It is safe for concurrent use.
type keySets struct {
	keys func(ctx context.Context, environment string) ([]token.PublicKey, error)

	// mu is held while the fleet is read, so that it is read once for all who
	// ask. sets has names of environments alone.
	mu   sync.Mutex
	sets map[string]keySet
}

// keySet is immutable.
type keySet struct {
	text []byte
	read time.Time
}

// ServeHTTP serves the JWK set of the path's environment. When the database is
// away it is the one of before.
func (k *keySets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := k.of(r.Context(), r.PathValue("environment"))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		http.NotFound(w, r)
		return
	case err != nil:
		http.Error(w, "the fleet cannot be read", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text) // who does not hear it asks again
}

func (k *keySets) of(ctx context.Context, environment string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.sets[environment]
	if known.text != nil && time.Since(known.read) < keySetFor {
		return known.text, nil
	}
	// Who asks may go; the answer is for the others too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keySetWithin)
	defer cancel()
	keys, err := k.keys(ctx, environment)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		delete(k.sets, environment)
		return nil, err
	case err != nil && known.text != nil:
		return known.text, nil
	case err != nil:
		return nil, err
	}
	text, err := token.EncodeKeySet(keys)
	if err != nil {
		return nil, err
	}
	k.sets[environment] = keySet{text: text, read: time.Now()}
	return text, nil
}
