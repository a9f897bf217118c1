package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/resource"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// ErrCounts says that there are more or fewer documents of a kind than the head's
// signer counted.
var ErrCounts = errors.New("documents of a kind are missing or too many")

const countsDomain = "sallyport counts v1\x00"

// KindCount says how many documents of a kind there are.
type KindCount struct {
	Kind      resource.Kind
	Documents int
}

// Counts returns how many documents there are of each kind of which there are any,
// ordered by kind.
func (s *Set) Counts() []KindCount {
	if s == nil {
		return nil
	}
	var all tally
	for _, b := range s.buckets {
		if b != nil {
			all = all.plus(b.counts)
		}
	}
	slices.SortFunc(all, func(a, b KindCount) int { return cmp.Compare(a.Kind, b.Kind) })
	return all
}

// tally counts by kind, of which there are few.
type tally []KindCount

func (t tally) plus(more tally) tally {
	for _, c := range more {
		i := slices.IndexFunc(t, func(of KindCount) bool { return of.Kind == c.Kind })
		if i < 0 {
			i, t = len(t), append(t, KindCount{Kind: c.Kind})
		}
		t[i].Documents += c.Documents
	}
	return t
}

func countEntries(entries []Entry) (t tally) {
	for i := range entries {
		t = t.plus(tally{{entries[i].Key.Kind, 1}})
	}
	return t
}

// Count returns a snapshot whose head, which s has signed, has its counts with it,
// signed as well. The head stays the same; counts that it has already are kept.
func (s *Signer) Count(snap *Snapshot) (*Snapshot, error) {
	head := snap.Head()
	switch {
	case head.IsZero() || head.counts != nil:
		return snap, nil
	case head.key != s.public.id:
		return nil, fmt.Errorf("counts: %w: the head is signed with key %s", ErrSignature, head.key.Short())
	}
	m := &proxyv1.Counts{HeadDigest: head.digest[:]}
	for _, c := range snap.set.Counts() {
		m.Kinds = append(m.Kinds, &proxyv1.KindCount{Kind: string(c.Kind), Documents: int64(c.Documents)})
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal counts: %w", err)
	}
	signature, err := s.sign(countsDomain, b)
	if err != nil {
		return nil, fmt.Errorf("sign counts: %w", err)
	}
	signed := proto.CloneOf(head.signed)
	signed.Counts, signed.CountsSignature = b, signature
	head.signed, head.counts = signed, counted(m)
	return &Snapshot{head: head, set: snap.set}, nil
}

// verifyCounts returns the counts that are with a head; nil where there are none.
// That is accepted of every head: the root alone says which documents there are, so
// that whoever takes counts away has gained nothing, and publishers of before make
// none.
func (v *Verifier) verifyCounts(head Digest, signed *proxyv1.SignedHead) ([]KindCount, error) {
	b := signed.GetCounts()
	if len(b) == 0 && len(signed.GetCountsSignature()) == 0 {
		return nil, nil
	}
	if _, err := v.verify(countsDomain, b, signed.GetCountsSignature(), signed.GetKeyId()); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	var m proxyv1.Counts
	if err := unmarshalKnown(b, &m); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	if of, ok := ParseDigest(m.GetHeadDigest()); !ok || of != head {
		return nil, fmt.Errorf("counts: %w: they are about another head", ErrSignature)
	}
	return counted(&m), nil
}

// check has a snapshot take the counts that are with its head. Those that agree with the
// documents, which the root alone names, are true, whoever signed them; what does not
// agree is refused for what it is. Of each change that thousands of proxies take, it
// spares them the second of two signatures.
func (v *Verifier) check(s *Snapshot) (*Snapshot, error) {
	signed := s.head.signed
	var m proxyv1.Counts
	if len(signed.GetCounts()) > 0 && unmarshalKnown(signed.GetCounts(), &m) == nil {
		of, ok := ParseDigest(m.GetHeadDigest())
		if counts := counted(&m); ok && of == s.head.digest && slices.Equal(counts, s.set.Counts()) {
			s.head.counts = counts
			return s, nil
		}
	}
	counts, err := v.verifyCounts(s.head.digest, signed)
	if err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	s.head.counts = counts
	if err := checkCounts(s.head, s.set); err != nil {
		return nil, err
	}
	return s, nil
}

// counted is never nil.
func counted(m *proxyv1.Counts) []KindCount {
	counts := make([]KindCount, 0, len(m.GetKinds()))
	for _, c := range m.GetKinds() {
		counts = append(counts, KindCount{resource.Kind(c.GetKind()), int(c.GetDocuments())})
	}
	return counts
}

// checkCounts returns ErrCounts unless the set has what the head's counts say.
func checkCounts(head Head, set *Set) error {
	if head.counts == nil {
		return nil
	}
	if have := set.Counts(); !slices.Equal(have, head.counts) {
		return fmt.Errorf("%w: there are %v, the signer counted %v", ErrCounts, have, head.counts)
	}
	return nil
}
