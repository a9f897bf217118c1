package link

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// keySetsFile holds the chain of key sets. A proxy that was led along it never goes
// back to a key that was retired on the way, for as long as it has the file.
const keySetsFile = "key-sets"

// keys has the verifier follow the fleet's key sets, and keeps them on the disk.
type keys struct {
	verifier *snapshot.Verifier
	log      *slog.Logger
	metrics  *metrics
	disk     *disk
	doubted  bool // the last sets were refused; belongs to the goroutine of follow

	mu      sync.Mutex
	written snapshot.Generation // up to which they are on the disk
}

// restore takes the sets that are on the disk. Those that cannot be read or do not
// follow from the pinned key are left alone: the control plane sends them all again.
func (k *keys) restore(ctx context.Context, d *disk) {
	k.disk = d
	b, err := d.readSmall(keySetsFile)
	if notThere(err) {
		return
	}
	m := &proxyv1.KeySets{}
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err == nil {
		_, err = k.verifier.Extend(m.GetSets())
	}
	if err != nil {
		k.log.ErrorContext(ctx, "key sets on the disk cannot be used", "err", err)
		return
	}
	k.written = k.verifier.Newest().Generation
	k.metrics.generation.Set(float64(k.written))
}

// take takes key sets that the control plane sent, and has them on the disk before
// anything is enforced that their keys signed. A disk that fails holds up nothing.
func (k *keys) take(ctx context.Context, sets []*proxyv1.SignedKeySet) {
	taken, err := k.verifier.Extend(sets)
	if err != nil {
		k.metrics.policy.refusals.WithLabelValues(reason(err)).Inc()
		if !k.doubted {
			k.log.ErrorContext(ctx, "key set was refused", "reason", reason(err), "err", err)
		}
	}
	k.doubted = err != nil
	if taken > 0 {
		k.taken(ctx)
	}
}

// taken says what the verifier has learned, and has it on the disk.
func (k *keys) taken(ctx context.Context) {
	newest := k.verifier.Newest()
	k.log.InfoContext(ctx, "key set taken", "generation", newest.Generation, "keys", len(newest.Keys()))
	k.metrics.generation.Set(float64(newest.Generation))
	k.write(ctx)
}

// write has the disk hold what is known.
func (k *keys) write(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	newest := k.verifier.Newest().Generation
	if newest == k.written {
		return
	}
	m := &proxyv1.KeySets{}
	for _, set := range k.verifier.KeySets() {
		m.Sets = append(m.Sets, set.Signed())
	}
	b, err := proto.Marshal(m)
	if err == nil {
		err = k.disk.writeSmall(keySetsFile, b)
	}
	if err != nil {
		k.log.ErrorContext(ctx, "key sets were not written", "err", fmt.Errorf("generation %d: %w", newest, err))
		return
	}
	k.written = newest
}
