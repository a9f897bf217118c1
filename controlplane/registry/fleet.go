package registry

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// recordWithin bounds how long the record of a proxy that this replica knows
// itself is waited for.
const recordWithin = 2 * time.Second

// Proxy returns what is known of a proxy process; storage.ErrNotFound if
// nothing is. What this replica knows itself it tells without the database.
func (r *Registry) Proxy(ctx context.Context, id storage.ProxyID) (*adminv1.Proxy, error) {
	p, err := r.status(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.ruledOn(p), nil
}

// status returns a status that is the caller's.
func (r *Registry) status(ctx context.Context, id storage.ProxyID) (*adminv1.Proxy, error) {
	e := r.entry(id)
	if e == nil {
		record, err := r.store.Proxy(ctx, id)
		if err != nil {
			return nil, err
		}
		return r.newest(nil, record)
	}
	ctx, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	record, err := r.store.Proxy(ctx, id)
	if err != nil {
		return r.own(e), nil //nolint:nilerr // it was not saved yet, or the database is away
	}
	return r.newest(e, record)
}

func (r *Registry) entry(id storage.ProxyID) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.local[id]
}

// Proxies returns up to limit proxies of an environment (all when empty) after
// the given place, ordered by environment and ID.
func (r *Registry) Proxies(ctx context.Context, environment string, after storage.Proxy, limit int) ([]*adminv1.Proxy, error) {
	records, err := r.store.Proxies(ctx, environment, after, limit)
	if err != nil {
		return nil, err
	}
	proxies := make([]*adminv1.Proxy, len(records))
	for i, record := range records {
		if proxies[i], err = r.newest(r.entry(record.ID), record); err != nil {
			return nil, err
		}
		r.ruledOn(proxies[i])
	}
	return proxies, nil
}

// newest returns what is known of a proxy: what this replica knows (nil:
// nothing), or the record, which may be of a later stream of another replica.
func (r *Registry) newest(e *entry, record storage.Proxy) (*adminv1.Proxy, error) {
	if e != nil && !e.proxy.GetLastSeenAt().AsTime().Before(record.LastSeen) {
		p := r.own(e)
		p.RegisteredAt = timestamppb.New(record.RegisteredAt)
		return p, nil
	}
	p := &adminv1.Proxy{}
	if err := proto.Unmarshal(record.Status, p); err != nil {
		return nil, fmt.Errorf("status of proxy %s: %w", record.ID, err)
	}
	p.RegisteredAt = timestamppb.New(record.RegisteredAt)
	if p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED {
		if p.Replica = record.Replica; !r.elsewhere(record) {
			p.Connection, p.Replica = adminv1.Connection_CONNECTION_LOST, ""
		}
	}
	return p, nil
}

// own returns a copy of what this replica knows itself.
func (r *Registry) own(e *entry) *adminv1.Proxy {
	p := proto.CloneOf(e.proxy)
	if e.session != nil {
		p.Replica = r.replica
	}
	return p
}

// elsewhere reports whether a record is of a stream that another replica has.
func (r *Registry) elsewhere(record storage.Proxy) bool {
	return record.Replica != "" && record.Replica != r.replica && r.now().Sub(record.LastSeen) <= LostAfter
}
