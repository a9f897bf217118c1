package registry

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/storage"
)

// forgetStreams marks as lost what this replica's former process held.
func (r *Registry) forgetStreams(ctx context.Context) error {
	var after storage.Proxy
	for {
		records, err := r.store.Proxies(ctx, "", after, page)
		if err != nil {
			return err
		}
		var lost []storage.Proxy
		for _, p := range records {
			if p.Replica == r.replica {
				p.Replica = ""
				lost = append(lost, p)
			}
		}
		if err := r.store.SaveProxies(ctx, r.replica, lost); err != nil {
			return err
		}
		if len(records) < page {
			return nil
		}
		after = records[len(records)-1]
	}
}

// save writes the records that changed, and reports whether that worked. What
// cannot be written now is written later: memory has the newest of each.
func (r *Registry) save(ctx context.Context, within time.Duration) bool {
	records := r.unsaved(ctx)
	if len(records) == 0 {
		r.evict()
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := r.store.SaveProxies(ctx, r.replica, records); err != nil {
		r.log.WarnContext(ctx, "fleet was not saved", "proxies", len(records), "err", err)
		r.unsave(records)
		if n := r.shed(); n > 0 {
			r.log.WarnContext(ctx, "proxies that are gone were forgotten before they were saved", "proxies", n)
		}
		return false
	}
	r.evict()
	return true
}

// unsave has records be saved again, but for those of proxies that were forgotten
// meanwhile.
func (r *Registry) unsave(records []storage.Proxy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range records {
		if e := r.local[p.ID]; e != nil {
			e.saved = false
		}
	}
}

// unsaved returns the records that are to be written. They are made without the
// mutex, which acknowledgements wait for: entries do not change.
func (r *Registry) unsaved(ctx context.Context) (records []storage.Proxy) {
	for id, e := range r.unsavedEntries() {
		record, err := r.record(id, e)
		if err != nil {
			r.log.ErrorContext(ctx, "record of proxy was not made", "proxy", id, "err", err)
			continue
		}
		records = append(records, record)
	}
	return records
}

// unsavedEntries returns them as if they were saved.
func (r *Registry) unsavedEntries() map[storage.ProxyID]*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	unsaved := map[storage.ProxyID]*entry{}
	for id, e := range r.local {
		if !e.saved {
			e.saved, unsaved[id] = true, e
		}
	}
	return unsaved
}

// evict drops from memory what the database has and nobody has heard of for a
// while.
func (r *Registry) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.local {
		if e.session != nil || !e.saved || r.now().Sub(e.proxy.GetLastSeenAt().AsTime()) <= LostAfter {
			continue
		}
		r.drop(id)
	}
}

func (r *Registry) record(id storage.ProxyID, e *entry) (storage.Proxy, error) {
	status, err := proto.Marshal(e.proxy)
	if err != nil {
		return storage.Proxy{}, fmt.Errorf("marshal status: %w", err)
	}
	record := storage.Proxy{
		ID:           id,
		SPIFFEID:     e.proxy.GetSpiffeId(),
		Instance:     e.proxy.GetInstance(),
		Environment:  e.proxy.GetEnvironment(),
		Status:       status,
		RegisteredAt: e.proxy.GetRegisteredAt().AsTime(),
		LastSeen:     e.proxy.GetLastSeenAt().AsTime(),
	}
	if e.session != nil {
		record.Replica = r.replica
	}
	return record, nil
}
