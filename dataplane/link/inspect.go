package link

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Bounds of an inspection, which the control plane refuses beyond them.
const (
	maxInspected      = 20_000
	maxInspectedBytes = 3 << 20
)

// inspect answers what is in force of a lane, document by document.
func (s *session) inspect(ctx context.Context, ask *proxyv1.Inspect) {
	of := s.policy
	if ask.GetSecurity() {
		of = s.security
	}
	m := of.inspect(ask)
	s.log.InfoContext(ctx, "what is in force was asked for", "environment", of.environment, "revision", m.GetRevision(), "documents", len(m.GetDocuments()))
	select {
	case s.inspected <- m:
	default: // one is on its way; nobody waits for two
	}
}

// inspect reads what decides at this moment. Nothing is put in force meanwhile.
func (l *lane) inspect(ask *proxyv1.Inspect) *proxyv1.Inspection {
	l.taking.Lock()
	defer l.taking.Unlock()
	m := &proxyv1.Inspection{Id: ask.GetId(), Security: ask.GetSecurity()}
	st, live := l.said.Load(), l.enforcer.Enforced().Live
	if st == nil || live == nil {
		return m
	}
	m.Epoch, m.Revision = int64(st.head.Epoch), int64(st.head.Revision)
	set := snapshot.SetOf(live)
	if len(ask.GetBuckets()) == 0 {
		for i := range snapshot.BucketCount {
			digest := set.BucketDigest(i)
			m.Buckets = append(m.Buckets, digest[:]...)
		}
		return m
	}
	size := 0
	for b := range set.Buckets() {
		if !slices.Contains(ask.GetBuckets(), uint32(b.Index)) { //nolint:gosec // from 0 to 255
			continue
		}
		for _, e := range b.Entries {
			d := &proxyv1.DocumentDigest{
				Key:    &proxyv1.DocumentKey{Kind: string(e.Key.Kind), Namespace: e.Key.Namespace, Name: e.Key.Name},
				Digest: e.Digest[:],
			}
			if size += proto.Size(d) + 8; len(m.Documents) == maxInspected || size > maxInspectedBytes {
				m.Cut = true
				return m
			}
			m.Documents = append(m.Documents, d)
		}
	}
	return m
}
