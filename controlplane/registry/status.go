package registry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// maxStatuses bounds the proxies that are named of an environment.
const maxStatuses = 1000

// Status returns how far environments are with revisions, ordered by name: how many
// proxies there are, and up to a thousand of them, those that are not as they should
// be first.
func (r *Registry) Status(ctx context.Context, at map[string]snapshot.Revision) (all []*adminv1.EnvironmentStatus, err error) {
	for _, name := range slices.Sorted(maps.Keys(at)) {
		e := &adminv1.EnvironmentStatus{Environment: name, Revision: int64(at[name])}
		if err := r.each(ctx, name, func(p *adminv1.Proxy) { count(e, statusOf(p, e.GetRevision())) }); err != nil {
			return nil, err
		}
		slices.SortFunc(e.GetProxies(), compareStatuses)
		e.Proxies = e.Proxies[:min(len(e.Proxies), maxStatuses)]
		all = append(all, e)
	}
	return all, nil
}

// each calls do with every proxy of an environment, ordered by ID.
func (r *Registry) each(ctx context.Context, environment string, do func(*adminv1.Proxy)) error {
	var after storage.Proxy
	for {
		proxies, err := r.Proxies(ctx, environment, after, page)
		if err != nil {
			return err
		}
		for _, p := range proxies {
			if p.GetEnvironment() == environment { // else it has just moved
				do(p)
			}
		}
		if len(proxies) < page {
			return nil
		}
		after = storage.Proxy{Environment: environment, ID: storage.ProxyID(proxies[page-1].GetId())}
	}
}

func count(e *adminv1.EnvironmentStatus, s *adminv1.ProxyStatus) {
	switch s.GetProgress() {
	case adminv1.Progress_PROGRESS_ENFORCING:
		e.Enforcing++
	case adminv1.Progress_PROGRESS_AWAY:
		e.Away++
	case adminv1.Progress_PROGRESS_KEPT_OUT:
		e.KeptOut++
	case adminv1.Progress_PROGRESS_LATE, adminv1.Progress_PROGRESS_UNSPECIFIED:
		e.Late++
	}
	e.Proxies = append(e.Proxies, s)
}

// compareStatuses puts those first that somebody may have to look at.
func compareStatuses(a, b *adminv1.ProxyStatus) int {
	order := func(s *adminv1.ProxyStatus) int {
		return slices.Index([]adminv1.Progress{
			adminv1.Progress_PROGRESS_LATE, adminv1.Progress_PROGRESS_AWAY, adminv1.Progress_PROGRESS_KEPT_OUT, adminv1.Progress_PROGRESS_ENFORCING,
		}, s.GetProgress())
	}
	return cmp.Or(order(a)-order(b), cmp.Compare(a.GetId(), b.GetId()))
}

// statusOf says how far a proxy is with a revision.
func statusOf(p *adminv1.Proxy, revision int64) *adminv1.ProxyStatus {
	s := &adminv1.ProxyStatus{Id: p.GetId(), Revision: p.GetRevision(), Enforcement: p.GetEnforcement(), LastSeenAt: p.GetLastSeenAt()}
	if last := p.GetSecurityProof(); last != nil {
		s.SecuritySequence, s.SecuritySince, s.SecuritySigned = last.GetRevision(), last.GetEnforcedAt(), len(last.GetSignature()) > 0
	}
	switch {
	case p.GetStanding() == adminv1.Standing_STANDING_QUARANTINED, p.GetStanding() == adminv1.Standing_STANDING_REFUSED:
		s.Progress, s.Reason = adminv1.Progress_PROGRESS_KEPT_OUT, keptOut(p)
	case p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED:
		s.Progress, s.Reason = adminv1.Progress_PROGRESS_AWAY, away(p, revision)
	case !goal{}.proven(p, revision):
		s.Progress, s.Reason = adminv1.Progress_PROGRESS_LATE, goal{}.lag(p, revision)
	default:
		s.Progress = adminv1.Progress_PROGRESS_ENFORCING
		first, orBefore := firstProof(p, revision)
		s.Since, s.OrBefore, s.Signed = first.GetEnforcedAt(), orBefore, len(first.GetSignature()) > 0
	}
	return s
}

func keptOut(p *adminv1.Proxy) string {
	what := "is refused"
	if p.GetStanding() == adminv1.Standing_STANDING_QUARANTINED {
		what = "is quarantined"
	}
	if reason := p.GetStandingRuling().GetReason(); reason != "" {
		what += ": " + reason
	}
	return what
}

// away says why nothing is known of a proxy, and what was.
func away(p *adminv1.Proxy, revision int64) string {
	switch {
	case p.GetConnection() == adminv1.Connection_CONNECTION_PENDING:
		return "is not admitted"
	case p.GetRevision() == 0:
		return "is not connected, and has acknowledged nothing on its last stream"
	case goal{}.proven(p, revision):
		return fmt.Sprintf("is not connected; it did enforce it, at revision %d", p.GetRevision())
	}
	return "is not connected; then it " + goal{}.was(p, revision)
}

// was is lag of a proxy that is away.
func (g goal) was(p *adminv1.Proxy, revision int64) string {
	if said := g.stated(p); said.refusal == "" && said.revision < revision {
		return fmt.Sprintf("was at revision %d", said.revision)
	}
	return g.lag(p, revision)
}
