package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// remoteEvery is how often the records of other replicas are read while
	// someone waits; remoteIdle, when these have no proxies that matter.
	remoteEvery = 250 * time.Millisecond
	remoteIdle  = time.Second
	// recordWithin bounds how long the record of a proxy that this replica knows
	// itself is waited for.
	recordWithin = 2 * time.Second
	maxLaggards  = 100
)

// Proxy returns what is known of a proxy process; storage.ErrNotFound if
// nothing is. What this replica knows itself it tells without the database.
func (r *Registry) Proxy(ctx context.Context, id storage.ProxyID) (*adminv1.Proxy, error) {
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
		return e.proxy, nil //nolint:nilerr // it was not saved yet, or the database is away
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
	}
	return proxies, nil
}

// newest returns what is known of a proxy: what this replica knows (nil:
// nothing), or the record, which may be of a later stream of another replica.
func (r *Registry) newest(e *entry, record storage.Proxy) (*adminv1.Proxy, error) {
	if e != nil && !e.proxy.GetLastSeenAt().AsTime().Before(record.LastSeen) {
		p := proto.CloneOf(e.proxy)
		p.RegisteredAt = timestamppb.New(record.RegisteredAt)
		return p, nil
	}
	p := &adminv1.Proxy{}
	if err := proto.Unmarshal(record.Status, p); err != nil {
		return nil, fmt.Errorf("status of proxy %s: %w", record.ID, err)
	}
	p.RegisteredAt = timestamppb.New(record.RegisteredAt)
	if p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED && !r.elsewhere(record) {
		p.Connection = adminv1.Connection_CONNECTION_LOST
	}
	return p, nil
}

// elsewhere reports whether a record is of a stream that another replica has.
func (r *Registry) elsewhere(record storage.Proxy) bool {
	return record.Replica != "" && record.Replica != r.replica && r.now().Sub(record.LastSeen) <= LostAfter
}

// Wait calls report with the progress of the environments towards the given
// revisions: at once, and when it changes. It returns nil after a report in
// which every connected proxy of every environment enforces its revision, or
// one after it; else when ctx ends, or when report fails.
func (r *Registry) Wait(ctx context.Context, environments map[string]snapshot.Revision, report func(progress []*adminv1.EnvironmentProgress, done bool) error) error {
	remote, err := r.connected(ctx, environments)
	if err != nil {
		return err
	}
	poll := time.NewTimer(pollAfter(remote))
	defer poll.Stop()
	var last []*adminv1.EnvironmentProgress
	for {
		began := time.Now()
		progress, done, changed := r.progress(environments, remote)
		if done || !slices.EqualFunc(progress, last, func(a, b *adminv1.EnvironmentProgress) bool { return proto.Equal(a, b) }) {
			if err := report(progress, done); err != nil || done {
				return err
			}
			last = progress
		}
		// What takes long to count is counted less often.
		if err := pause(ctx, time.Since(began)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-poll.C:
			if fresh, err := r.connected(ctx, environments); err == nil {
				remote = fresh // else what is known goes on to count
			}
			poll.Reset(pollAfter(remote))
		}
	}
}

// pollAfter returns when the records of other replicas are read again.
func pollAfter(remote map[storage.ProxyID]*adminv1.Proxy) time.Duration {
	if len(remote) == 0 {
		return remoteIdle
	}
	return remoteEvery
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// connected returns the proxies of the environments that are connected to
// other replicas, as recorded.
func (r *Registry) connected(ctx context.Context, environments map[string]snapshot.Revision) (map[storage.ProxyID]*adminv1.Proxy, error) {
	all := map[storage.ProxyID]*adminv1.Proxy{}
	for environment := range environments {
		var after storage.Proxy
		for {
			records, err := r.store.Proxies(ctx, environment, after, page)
			if err != nil {
				return nil, err
			}
			for _, record := range records {
				if !r.elsewhere(record) {
					continue
				}
				if all[record.ID], err = r.newest(nil, record); err != nil {
					return nil, err
				}
			}
			if len(records) < page {
				break
			}
			after = records[len(records)-1]
		}
	}
	return all, nil
}

// progress merges what other replicas recorded with what this one knows.
// changed is closed when the latter changes.
func (r *Registry) progress(environments map[string]snapshot.Revision, remote map[storage.ProxyID]*adminv1.Proxy) (progress []*adminv1.EnvironmentProgress, done bool, changed <-chan struct{}) {
	proxies := maps.Clone(remote)
	r.mu.Lock()
	changed = r.statuses
	for id, e := range r.local {
		there := proxies[id]
		if e.session != nil && (there == nil || !e.proxy.GetLastSeenAt().AsTime().Before(there.GetLastSeenAt().AsTime())) {
			proxies[id] = e.proxy
		}
	}
	r.mu.Unlock()

	byEnvironment := map[string]*adminv1.EnvironmentProgress{}
	for _, name := range slices.Sorted(maps.Keys(environments)) {
		byEnvironment[name] = &adminv1.EnvironmentProgress{Environment: name, Revision: int64(environments[name])}
		progress = append(progress, byEnvironment[name])
	}
	for _, p := range slices.SortedFunc(maps.Values(proxies), compareProxies) {
		if e := byEnvironment[p.GetEnvironment()]; e != nil {
			count(e, p)
		}
	}
	done = !slices.ContainsFunc(progress, func(e *adminv1.EnvironmentProgress) bool { return e.GetEnforced() < e.GetConnected() })
	return progress, done, changed
}

// count adds a connected proxy to the progress of its environment.
func count(e *adminv1.EnvironmentProgress, p *adminv1.Proxy) {
	e.Connected++
	reason := lag(p, e.GetRevision())
	if reason == "" {
		e.Enforced++
		return
	}
	if len(e.GetLaggards()) < maxLaggards {
		e.Laggards = append(e.Laggards, &adminv1.Laggard{
			Id: p.GetId(), Revision: p.GetRevision(), Enforcement: p.GetEnforcement(), Reason: reason,
		})
	}
}

// lag says why a proxy does not prove that it enforces the revision; empty if
// it does.
func lag(p *adminv1.Proxy, revision int64) string {
	switch {
	case p.GetRefusal() != "":
		return "refused an update: " + p.GetRefusal()
	case p.GetRevision() == 0:
		return "has not acknowledged anything yet"
	case p.GetRevision() < revision:
		return fmt.Sprintf("is at revision %d", p.GetRevision())
	}
	switch p.GetEnforcement() {
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED:
		return ""
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS:
		return fmt.Sprintf("rejected %d resources, the first is %s", len(p.GetRejects()), firstReject(p))
	case adminv1.Enforcement_ENFORCEMENT_DRIFT:
		return "drift: what it enforces is not what it received"
	case adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED:
	}
	return "its statement could not be compared yet"
}

func firstReject(p *adminv1.Proxy) string {
	for _, reject := range p.GetRejects() {
		return reject.GetKind() + "/" + reject.GetNamespace() + "/" + reject.GetName() + ": " + reject.GetReason()
	}
	return "unknown"
}
