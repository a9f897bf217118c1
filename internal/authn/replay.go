package authn

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/token"
)

// replays remembers the proofs that were taken until they are too old to be
// taken again. What is remembered is never given up for something new: that
// would let it be replayed.
//
// So it can be full, and whoever has a key could fill it. A key is therefore
// granted as many proofs as there is room left for others: one alone gets half
// of all, n keys that want everything get an equal share each, and there is
// always room for a key that has not been seen.
type replays struct {
	most int
	size prometheus.Gauge

	mu    sync.Mutex
	held  map[proofID]struct{}
	since map[int64][]heldProof // by the second of iat
	keys  map[token.Thumbprint]*keyShare
	floor int64 // proofs of seconds before it are forgotten, and refused
}

// proofID is a digest of key and jti, cut to what nobody finds a second of.
type proofID [16]byte

type heldProof struct {
	id  proofID
	key *keyShare
}

type keyShare struct {
	thumbprint token.Thumbprint
	proofs     int
}

func newReplays(most int, size prometheus.Gauge) *replays {
	return &replays{
		most: most, size: size, held: make(map[proofID]struct{}),
		since: make(map[int64][]heldProof), keys: make(map[token.Thumbprint]*keyShare),
	}
}

// take takes a fresh proof, once.
func (r *replays) take(p *token.Proof, now time.Time) Reason {
	sum := sha256.Sum256(append(p.Key[:], p.ID...))
	id, second := proofID(sum[:16]), p.IssuedAt.Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(now.Add(-proofPast).Unix())
	if second < r.floor {
		return ProofNotFresh // the clock has been set back
	}
	if _, again := r.held[id]; again {
		return ProofReplayed
	}
	key := r.keys[p.Key]
	if key == nil {
		key = &keyShare{thumbprint: p.Key}
	}
	if key.proofs >= r.most-len(r.held) {
		return ProofCacheFull
	}
	key.proofs++
	r.keys[p.Key] = key
	r.held[id] = struct{}{}
	r.since[second] = append(r.since[second], heldProof{id, key})
	r.size.Set(float64(len(r.held)))
	return ""
}

// forget forgets what is too old to be taken. The caller holds mu.
func (r *replays) forget(before int64) {
	if before <= r.floor {
		return
	}
	r.floor = before
	for second, list := range r.since {
		if second >= before {
			continue
		}
		delete(r.since, second)
		for _, p := range list {
			delete(r.held, p.id)
			if p.key.proofs--; p.key.proofs == 0 {
				delete(r.keys, p.key.thumbprint)
			}
		}
	}
}
