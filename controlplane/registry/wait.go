package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// remoteEvery is how often the records of other replicas are read while
	// someone waits; remoteIdle, when these have no proxies that matter.
	remoteEvery = 250 * time.Millisecond
	remoteIdle  = time.Second
	maxLaggards = 100
)

// goal is what someone waits for: that proxies of the environments enforce
// these revisions, or sequences of the security lane.
type goal struct {
	at       map[string]snapshot.Revision
	security bool
}

// Report is called with the progress of environments. Its error ends the wait.
type Report func(progress []*adminv1.EnvironmentProgress, done bool) error

// Wait calls report with the progress of the environments towards the given
// revisions: at once, and when it changes. It returns nil after a report in
// which every connected proxy of every environment enforces its revision, or
// one after it; else when ctx ends, or when report fails.
func (r *Registry) Wait(ctx context.Context, environments map[string]snapshot.Revision, report Report) error {
	return r.wait(ctx, goal{at: environments}, report)
}

// WaitSecurity is Wait for a sequence of the security lane. Proxies that are
// lost may go on letting through what is revoked: while their identity is good
// they are named as laggards. They are not waited for, unless no proxy is
// connected at all: then nothing would be proven.
func (r *Registry) WaitSecurity(ctx context.Context, environments []string, sequence snapshot.Revision, report Report) error {
	g := goal{at: map[string]snapshot.Revision{}, security: true}
	for _, name := range environments {
		g.at[name] = sequence
	}
	return r.wait(ctx, g, report)
}

func (r *Registry) wait(ctx context.Context, g goal, report Report) error {
	remote, err := r.remote(ctx, g)
	if err != nil {
		return err
	}
	poll := time.NewTimer(remote.pollAfter())
	defer poll.Stop()
	var last []*adminv1.EnvironmentProgress
	for {
		began := time.Now()
		progress, done, changed := r.progress(g, remote)
		if done || !slices.EqualFunc(progress, last, func(a, b *adminv1.EnvironmentProgress) bool { return proto.Equal(a, b) }) {
			if err := report(progress, done); err != nil || done {
				return err
			}
			last = progress
		}
		// What takes long to count is counted less often: those who are waited for
		// need the processor more.
		if err := pause(ctx, 4*time.Since(began)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-poll.C:
			if fresh, err := r.remote(ctx, g); err == nil {
				remote = fresh // else what is known goes on to count
			}
			poll.Reset(remote.pollAfter())
		}
	}
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

// remote is what the database says of the proxies that matter: those that are
// connected to other replicas, and for the security lane those that are lost.
type remote struct {
	connected, lost map[storage.ProxyID]*adminv1.Proxy
}

// pollAfter returns when the records of other replicas are read again.
func (r remote) pollAfter() time.Duration {
	if len(r.connected) == 0 {
		return remoteIdle
	}
	return remoteEvery
}

func (r *Registry) remote(ctx context.Context, g goal) (remote, error) {
	found := remote{map[storage.ProxyID]*adminv1.Proxy{}, map[storage.ProxyID]*adminv1.Proxy{}}
	for environment := range g.at {
		var after storage.Proxy
		for {
			records, err := r.store.Proxies(ctx, environment, after, page)
			if err != nil {
				return remote{}, err
			}
			for _, record := range records {
				if err := r.sort(found, record, g); err != nil {
					return remote{}, err
				}
			}
			if len(records) < page {
				break
			}
			after = records[len(records)-1]
		}
	}
	return found, nil
}

// sort adds the proxy of a record to what was found.
func (r *Registry) sort(found remote, record storage.Proxy, g goal) error {
	elsewhere := r.elsewhere(record)
	if !elsewhere && !g.security {
		return nil
	}
	p, err := r.newest(nil, record)
	switch {
	case err != nil:
		return err
	case elsewhere:
		found.connected[record.ID] = p
	case g.missed(p, r.now()):
		found.lost[record.ID] = p
	}
	return nil
}

// missed reports whether a proxy is lost that may go on serving, and so matters
// for the security lane: its identity is still good.
func (g goal) missed(p *adminv1.Proxy, now time.Time) bool {
	return g.security && p.GetConnection() == adminv1.Connection_CONNECTION_LOST &&
		(p.GetIdentityExpiresAt() == nil || p.GetIdentityExpiresAt().AsTime().After(now))
}

// progress merges what the database says with what this replica knows. changed
// is closed when the latter changes.
func (r *Registry) progress(g goal, remote remote) (progress []*adminv1.EnvironmentProgress, done bool, changed <-chan struct{}) {
	connected, lost, changed := r.merged(g, remote)
	byEnvironment := map[string]*adminv1.EnvironmentProgress{}
	for _, name := range slices.Sorted(maps.Keys(g.at)) {
		byEnvironment[name] = &adminv1.EnvironmentProgress{Environment: name, Revision: int64(g.at[name])}
		progress = append(progress, byEnvironment[name])
	}
	late := map[string]foremost{}
	for _, p := range connected {
		e := byEnvironment[p.GetEnvironment()]
		if e == nil {
			continue
		}
		if e.Connected++; g.proven(p, e.GetRevision()) {
			e.Enforced++
			continue
		}
		late[e.GetEnvironment()] = late[e.GetEnvironment()].with(p)
	}
	for name, some := range late {
		for _, p := range some {
			g.miss(byEnvironment[name], p, "")
		}
	}
	unreached := 0
	for _, p := range slices.SortedFunc(maps.Values(lost), compareProxies) {
		if e := byEnvironment[p.GetEnvironment()]; e != nil {
			g.miss(e, p, "is not connected: it is not reached")
			unreached++
		}
	}
	return progress, finished(progress, unreached), changed
}

// foremost are the first laggards by ID, as many as are named. Ordering all of
// thousands, again and again, takes longer than finding these.
type foremost []*adminv1.Proxy

func (f foremost) with(p *adminv1.Proxy) foremost {
	if len(f) == maxLaggards && compareProxies(p, f[maxLaggards-1]) >= 0 {
		return f
	}
	at, _ := slices.BinarySearchFunc(f, p, compareProxies)
	f = slices.Insert(f, at, p)
	return f[:min(len(f), maxLaggards)]
}

// merged returns those that are connected anywhere, and those that are lost and
// matter. It is called again and again while thousands of proxies make progress,
// most of which are connected here.
func (r *Registry) merged(g goal, remote remote) (connected []*adminv1.Proxy, lost map[storage.ProxyID]*adminv1.Proxy, changed <-chan struct{}) {
	lost = maps.Clone(remote.lost)
	r.mu.Lock()
	defer r.mu.Unlock()
	here := map[storage.ProxyID]bool{} // those of remote that are in fact here
	for id, e := range r.local {
		there := remote.connected[id]
		switch newer := there == nil || !e.proxy.GetLastSeenAt().AsTime().Before(there.GetLastSeenAt().AsTime()); {
		case e.session != nil && newer:
			connected = append(connected, e.proxy)
			if there != nil {
				here[id] = true
			}
			delete(lost, id)
		case e.session == nil && there == nil && g.missed(e.proxy, r.now()):
			lost[id] = e.proxy
		}
	}
	for id, p := range remote.connected {
		if !here[id] {
			connected = append(connected, p)
		}
		delete(lost, id)
	}
	return connected, lost, r.statuses
}

// finished reports whether nobody has to be waited for.
func finished(progress []*adminv1.EnvironmentProgress, unreached int) bool {
	connected := int32(0)
	for _, e := range progress {
		if e.GetEnforced() < e.GetConnected() {
			return false
		}
		connected += e.GetConnected()
	}
	return connected > 0 || unreached == 0
}

// miss names a laggard, with the reason; with its own when that is empty.
func (g goal) miss(e *adminv1.EnvironmentProgress, p *adminv1.Proxy, reason string) {
	if len(e.GetLaggards()) == maxLaggards {
		return
	}
	if reason == "" {
		reason = g.lag(p, e.GetRevision())
	}
	said := g.stated(p)
	e.Laggards = append(e.Laggards, &adminv1.Laggard{
		Id: p.GetId(), Revision: said.revision, Enforcement: said.enforcement, Reason: reason,
	})
}

// statement is what a proxy has said of a lane.
type statement struct {
	revision    int64
	persisted   int64
	enforcement adminv1.Enforcement
	rejects     []*adminv1.Reject
	refusal     string
}

func (g goal) stated(p *adminv1.Proxy) statement {
	if s := p.GetSecurity(); g.security {
		return statement{s.GetSequence(), s.GetPersistedSequence(), s.GetEnforcement(), s.GetRejects(), s.GetRefusal()}
	}
	return statement{p.GetRevision(), p.GetPersistedRevision(), p.GetEnforcement(), p.GetRejects(), p.GetRefusal()}
}

// proven reports whether a proxy proves that it enforces the revision.
func (g goal) proven(p *adminv1.Proxy, revision int64) bool {
	said := g.stated(p)
	// Of the security lane, whoever was cut off would else be let in again by a
	// proxy that dies now and starts while there is no control plane.
	kept := !g.security || said.persisted >= revision
	return said.refusal == "" && said.revision > 0 && said.revision >= revision && kept &&
		said.enforcement == adminv1.Enforcement_ENFORCEMENT_ENFORCED
}

// lag says why a proxy does not prove that it enforces the revision.
func (g goal) lag(p *adminv1.Proxy, revision int64) string {
	said := g.stated(p)
	switch {
	case said.refusal != "":
		return "refused an update: " + said.refusal
	case said.revision == 0:
		return "has not acknowledged anything yet"
	case said.revision < revision && g.security:
		return fmt.Sprintf("is at sequence %d", said.revision)
	case said.revision < revision:
		return fmt.Sprintf("is at revision %d", said.revision)
	}
	switch said.enforcement {
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED:
		return "enforces it, but does not have it on disk yet"
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS:
		return fmt.Sprintf("rejected %d resources, the first is %s", len(said.rejects), said.firstReject())
	case adminv1.Enforcement_ENFORCEMENT_DRIFT:
		return "drift: what it enforces is not what it received"
	case adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED:
		if doubt := p.GetAckKeyDoubt(); doubt != "" {
			return "it is not known that its key is its own: " + doubt
		}
	}
	return "its statement could not be compared yet"
}

func (s statement) firstReject() string {
	for _, reject := range s.rejects {
		return reject.GetKind() + "/" + reject.GetNamespace() + "/" + reject.GetName() + ": " + reject.GetReason()
	}
	return "unknown"
}
