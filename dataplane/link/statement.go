package link

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Bounds of an ack, which the control plane refuses beyond them.
const (
	maxRejects     = 20_000
	maxRejectBytes = 3 << 20
	maxReason      = 1024
)

// statement is what the proxy says that it enforces. Only enforce makes one,
// and acks are made of nothing else: none can be sent before the swap.
type statement struct {
	head     snapshot.Head
	received snapshot.Digest
	enforced Enforced
	took     time.Duration
	since    time.Time // when it was put in force
}

// enforce puts s in force, and then asks what decides what it enforces.
func (l *lane) enforce(s *snapshot.Snapshot) *statement {
	began := l.cfg.Now()
	l.enforcer.Enforce(s)
	failpoint.Hit("link.swapped")
	st := &statement{
		head:     s.Head(),
		received: s.Set().Root(),
		enforced: l.enforcer.Enforced(),
	}
	st.since = l.cfg.Now()
	st.took = st.since.Sub(began)
	l.current = s
	l.marks.raise(s.Head())
	l.clock.enforce(s.Head())
	l.said.Store(st)
	l.metrics.enforced(st)
	return st
}

// ack says what is enforced and which revision of that is on disk.
func (st *statement) ack(persisted snapshot.Revision) *proxyv1.Ack {
	digest := st.head.Digest()
	a := &proxyv1.Ack{
		Epoch:             int64(st.head.Epoch),
		Revision:          int64(st.head.Revision),
		HeadDigest:        digest[:],
		ReceivedRoot:      st.received[:],
		PersistedRevision: int64(persisted),
	}
	if root := st.enforced.Root; !root.IsZero() {
		a.EnforcedRoot = root[:]
	}
	// What does not fit is left out, and shows as drift: it is worse than a
	// few rejects.
	size := 0
	for _, r := range st.enforced.Rejects {
		reject := &proxyv1.Reject{
			Key:    &proxyv1.DocumentKey{Kind: string(r.Key.Kind), Namespace: r.Key.Namespace, Name: r.Key.Name},
			Reason: clip(r.Reason, maxReason),
		}
		size += proto.Size(reject) + 8
		if len(a.Rejects) == maxRejects || size > maxRejectBytes {
			break
		}
		a.Rejects = append(a.Rejects, reject)
	}
	return a
}

// clip returns s as text of at most n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
