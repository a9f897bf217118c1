package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// bondFor is how long a binding counts that was verified. It comes again with every
	// heartbeat, and what is trusted changes seldom.
	bondFor = time.Minute
	// maxBonds bounds those that are remembered.
	maxBonds = 20_000
)

var (
	errNoBond    = errors.New("its build does not prove it")
	errKeptBond  = errors.New("the edge does not hand on its proof")
	errOtherBond = errors.New("what it has signed is about another process, or another key")
	errNoSVIDs   = errors.New("it cannot be verified here")
)

// bonds are the bindings of keys to SVIDs that were verified a moment ago. It is safe
// for concurrent use.
type bonds struct {
	svids proof.SVIDs
	now   func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]bond
}

type bond struct {
	keys  proof.Keys
	until time.Time
}

func newBonds(c Config) *bonds {
	b := &bonds{svids: c.SVIDs, now: c.Now, known: map[[sha256.Size]byte]bond{}}
	if b.now == nil {
		b.now = time.Now
	}
	return b
}

// open is proof.OpenBinding.
func (b *bonds) open(binding *proxyv1.KeyBinding) (proof.Keys, error) {
	if b.svids == nil {
		return proof.Keys{}, errNoSVIDs
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(binding)
	if err != nil {
		return proof.Keys{}, fmt.Errorf("marshal binding: %w", err)
	}
	digest, now := sha256.Sum256(raw), b.now()
	b.mu.Lock()
	known, ok := b.known[digest]
	b.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.keys, nil
	}
	keys, err := proof.OpenBinding(binding, b.svids)
	if err != nil {
		return proof.Keys{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.known) >= maxBonds {
		clear(b.known)
	}
	b.known[digest] = bond{keys, now.Add(bondFor)}
	return keys, nil
}

// doubt returns why it is not known that the key is a process' own that an edge tells
// of; nil if it is proven, or if there is no key.
func (b *bonds) doubt(p *adminv1.Proxy, binding *proxyv1.KeyBinding) error {
	switch {
	case len(p.GetAckKey()) == 0:
		return nil
	case binding == nil && snapshot.Protocol(p.GetProtocolVersion()).BindsKeys():
		return errKeptBond
	case binding == nil:
		return errNoBond
	}
	keys, err := b.open(binding)
	switch {
	case err != nil:
		return err
	case keys.SPIFFEID != p.GetSpiffeId(), keys.Instance != p.GetInstance(), !bytes.Equal(keys.Ack, p.GetAckKey()):
		return errOtherBond
	}
	return nil
}

// trouble is what is wrong with what an edge tells of a process.
type trouble struct {
	unsigned bool  // there is an ack that it should have signed and has not
	foreign  error // why its key is not its own, though there is a proof; else nil
}

// troubles are those of a report. The zero value is none.
type troubles struct {
	unsigned, foreign []storage.ProxyID
	err               error // of the first of foreign
}

func (all *troubles) add(id storage.ProxyID, t trouble) {
	if t.unsigned {
		all.unsigned = append(all.unsigned, id)
	}
	if t.foreign == nil {
		return
	}
	if all.foreign = append(all.foreign, id); all.err == nil {
		all.err = t.foreign
	}
}

// alarmOf says that somebody speaks for proxies at an edge.
func (r *Registry) alarmOf(ctx context.Context, edge string, all troubles) {
	if n := len(all.unsigned); n > 0 {
		r.log.ErrorContext(ctx, "an edge told of acknowledgements that were not signed by the processes that registered",
			"replica", edge, "proxies", n, "proxy", string(all.unsigned[0]))
	}
	if n := len(all.foreign); n > 0 {
		r.log.ErrorContext(ctx, "an edge told of keys that are not those of the processes that registered",
			"replica", edge, "proxies", n, "proxy", string(all.foreign[0]), "err", all.err)
	}
}
