package snapshot

import (
	"bytes"
	"crypto/sha256"
	"iter"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
)

// BucketCount is how many buckets a Set spreads its documents over.
const BucketCount = 256

// Entry is one document in a Set.
type Entry struct {
	Key      resource.Key
	Digest   Digest
	Document []byte // the bytes made at commit; not to be changed

	key Digest // keyDigest(Key), which orders entries
}

// NewEntry reads the key from the document's envelope and digests its bytes.
// It keeps document. The error says why the envelope cannot be read.
func NewEntry(document []byte) (Entry, error) {
	env, err := resource.ParseEnvelope(document)
	if err != nil {
		return Entry{}, err
	}
	return Entry{
		Key:      env.Key,
		Digest:   DocumentDigest(document),
		Document: document,
		key:      keyDigest(env.Key),
	}, nil
}

// Set is an immutable set of documents with its root, safe for concurrent use.
// Changing one document copies one bucket of 256, so that sets of neighbouring
// revisions share nearly everything. A nil Set is empty.
type Set struct {
	buckets [BucketCount]*bucket // nil where empty
	root    Digest
	len     int
}

// bucket holds the entries whose key digest begins with its index, ordered by
// key digest.
type bucket struct {
	entries []Entry
	digest  Digest
	counts  tally
}

// NewSet returns the set of the entries. Of two with the same key the later
// one stays.
func NewSet(entries ...Entry) *Set {
	return (&Set{}).With(entries, nil)
}

// With returns the set in which upserts are added or replaced and removed are
// gone. A key in both is present. Removing what is absent is no error.
func (s *Set) With(upserts []Entry, removed []resource.Key) *Set {
	next := &Set{}
	if s != nil {
		next.buckets = s.buckets
	}
	edits := map[byte]map[Digest]*Entry{}
	edit := func(key Digest, e *Entry) {
		if edits[key[0]] == nil {
			edits[key[0]] = map[Digest]*Entry{}
		}
		edits[key[0]][key] = e
	}
	for _, k := range removed {
		edit(keyDigest(k), nil)
	}
	for i := range upserts {
		edit(upserts[i].key, &upserts[i])
	}
	for index, byKey := range edits {
		next.buckets[index] = next.buckets[index].with(byKey)
	}
	next.seal()
	return next
}

func (b *bucket) with(edits map[Digest]*Entry) *bucket {
	var entries []Entry
	if b != nil {
		for _, e := range b.entries {
			if _, edited := edits[e.key]; !edited {
				entries = append(entries, e)
			}
		}
	}
	for _, e := range edits {
		if e != nil {
			entries = append(entries, *e)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	slices.SortFunc(entries, func(a, b Entry) int { return bytes.Compare(a.key[:], b.key[:]) })
	return &bucket{entries: entries, digest: bucketDigest(entries), counts: countEntries(entries)}
}

func bucketDigest(entries []Entry) Digest {
	return bucketDigestOf(func(yield func(*Entry) bool) {
		for i := range entries {
			if !yield(&entries[i]) {
				return
			}
		}
	})
}

func bucketDigestOf(entries iter.Seq[*Entry]) Digest {
	h := sha256.New()
	h.Write([]byte("sallyport bucket v1\x00"))
	for e := range entries {
		h.Write(e.key[:])
		h.Write(e.Digest[:])
	}
	return Digest(h.Sum(nil))
}

// seal computes what With left open: the root and the count.
func (s *Set) seal() {
	h := sha256.New()
	h.Write([]byte("sallyport root v1\x00"))
	s.len = 0
	for _, b := range s.buckets {
		d := b.digestOrZero()
		h.Write(d[:])
		if b != nil {
			s.len += len(b.entries)
		}
	}
	s.root = Digest(h.Sum(nil))
}

func (b *bucket) digestOrZero() Digest {
	if b == nil {
		return Digest{}
	}
	return b.digest
}

// Root returns the digest over every key and document of the set:
// SHA-256 over the digests of its 256 buckets, each over the pairs of key
// digest and document digest that fall into it. A nil Set has the root of an
// empty one.
func (s *Set) Root() Digest {
	if s == nil {
		return NewSet().root
	}
	return s.root
}

// Len returns the number of documents.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.len
}

// Lookup returns the entry of a key.
func (s *Set) Lookup(k resource.Key) (Entry, bool) {
	if s == nil {
		return Entry{}, false
	}
	key := keyDigest(k)
	b := s.buckets[key[0]]
	if b == nil {
		return Entry{}, false
	}
	i, found := slices.BinarySearchFunc(b.entries, key, func(e Entry, key Digest) int {
		return bytes.Compare(e.key[:], key[:])
	})
	if !found {
		return Entry{}, false
	}
	return b.entries[i], true
}

// All yields every entry, in an order that depends on the keys alone.
func (s *Set) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if s == nil {
			return
		}
		for _, b := range s.buckets {
			if b == nil {
				continue
			}
			for _, e := range b.entries {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Without returns the root of the set less the given keys: what a proxy
// enforces that rejected them.
func (s *Set) Without(keys []resource.Key) Digest {
	if len(keys) == 0 {
		return s.Root()
	}
	return s.With(nil, keys).root
}

// Changes returns what turns s into next: the entries to add or replace, and
// the keys to remove. It compares digests of buckets first and looks only into
// those that differ.
func (s *Set) Changes(next *Set) (upserts []Entry, removed []resource.Key) {
	empty := &Set{}
	if s == nil {
		s = empty
	}
	if next == nil {
		next = empty
	}
	for i := range s.buckets {
		from, to := s.buckets[i], next.buckets[i]
		if from.digestOrZero() == to.digestOrZero() {
			continue
		}
		u, r := from.changes(to)
		upserts, removed = append(upserts, u...), append(removed, r...)
	}
	return upserts, removed
}

// changes walks through both in the order of keys.
func (b *bucket) changes(next *bucket) (upserts []Entry, removed []resource.Key) {
	var from, to []Entry
	if b != nil {
		from = b.entries
	}
	if next != nil {
		to = next.entries
	}
	for len(from)+len(to) > 0 {
		order := compareFirst(from, to)
		if order < 0 {
			removed, from = append(removed, from[0].Key), from[1:]
			continue
		}
		if order > 0 || from[0].Digest != to[0].Digest {
			upserts = append(upserts, to[0])
		}
		if order == 0 {
			from = from[1:]
		}
		to = to[1:]
	}
	slices.SortFunc(removed, resource.Key.Compare)
	return upserts, removed
}

// compareFirst compares the keys of the first entries. Where there is none, the other
// one's comes first. One of them is not empty.
func compareFirst(a, b []Entry) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	}
	return bytes.Compare(a[0].key[:], b[0].key[:])
}

// entryBytes is about what an entry takes beside its document.
const entryBytes = 160

// Apart returns about how many bytes s takes in memory that it does not share with
// other, from which it was made or which was made from it.
func (s *Set) Apart(other *Set) (size int) {
	if s == nil {
		return 0
	}
	if other == nil {
		other = &Set{}
	}
	for i, b := range s.buckets {
		if b == nil || b == other.buckets[i] {
			continue
		}
		size += entryBytes * len(b.entries)
		changed, _ := other.buckets[i].changes(b)
		for _, e := range changed {
			size += len(e.Document)
		}
	}
	return size
}

// Bucket is what one bucket holds, for distribution in content-addressed
// chunks.
type Bucket struct {
	Index   int
	Digest  Digest
	Entries []Entry // not to be changed
}

// Buckets yields the buckets that are not empty, by ascending index.
func (s *Set) Buckets() iter.Seq[Bucket] {
	return func(yield func(Bucket) bool) {
		if s == nil {
			return
		}
		for i, b := range s.buckets {
			if b != nil && !yield(Bucket{Index: i, Digest: b.digest, Entries: b.entries}) {
				return
			}
		}
	}
}

// BucketDigest returns the digest of a bucket, zero when it is empty.
func (s *Set) BucketDigest(index int) Digest {
	if s == nil {
		return Digest{}
	}
	return s.buckets[index].digestOrZero()
}

// Replace returns the set in which the bucket of the index holds exactly the
// entries. Entries that belong into another bucket, and duplicates, make it
// return nil: whoever wrote them is not to be believed.
func (s *Set) Replace(index int, entries []Entry) *Set {
	edits := make(map[Digest]*Entry, len(entries))
	for i := range entries {
		if int(entries[i].key[0]) != index || edits[entries[i].key] != nil {
			return nil
		}
		edits[entries[i].key] = &entries[i]
	}
	next := &Set{}
	if s != nil {
		next.buckets = s.buckets
	}
	next.buckets[index] = (*bucket)(nil).with(edits)
	next.seal()
	return next
}

// Root returns the root of a set that holds exactly these digests, each under
// its key: what a compiled table computes over itself.
func Root(digests iter.Seq2[resource.Key, Digest]) Digest { return SetOf(digests).root }

// SetOf returns a set that holds exactly these digests, each under its key, and no
// document: it is for comparing.
func SetOf(digests iter.Seq2[resource.Key, Digest]) *Set {
	var all []Entry
	for k, d := range digests {
		all = append(all, Entry{Key: k, Digest: d, key: keyDigest(k)})
	}
	return NewSet(all...)
}

// RootOf returns the root of a set that holds exactly these entries: Root for
// those who have entries at hand. It costs little when most of them come in
// the order of All.
func RootOf(entries []*Entry) Digest {
	var sizes [BucketCount]int
	for _, e := range entries {
		sizes[e.key[0]]++
	}
	var buckets [BucketCount][]*Entry
	all := make([]*Entry, len(entries))
	for i, size := range sizes {
		buckets[i], all = all[:0:size], all[size:]
	}
	for _, e := range entries {
		buckets[e.key[0]] = append(buckets[e.key[0]], e)
	}
	h := sha256.New()
	h.Write([]byte("sallyport root v1\x00"))
	for _, b := range buckets {
		var d Digest
		if len(b) > 0 {
			d = bucketDigestOf(inOrder(b))
		}
		h.Write(d[:])
	}
	return Digest(h.Sum(nil))
}

// inOrder yields entries by key digest. It sorts those behind the first that is
// out of order, in place, and merges them with those before.
func inOrder(entries []*Entry) iter.Seq[*Entry] {
	n := 1
	for n < len(entries) && bytes.Compare(entries[n-1].key[:], entries[n].key[:]) < 0 {
		n++
	}
	a, b := entries[:n], entries[n:]
	slices.SortFunc(b, func(a, b *Entry) int { return bytes.Compare(a.key[:], b.key[:]) })
	return func(yield func(*Entry) bool) {
		for len(a)+len(b) > 0 {
			from := &a
			if len(a) == 0 || len(b) > 0 && bytes.Compare(b[0].key[:], a[0].key[:]) < 0 {
				from = &b
			}
			if !yield((*from)[0]) {
				return
			}
			*from = (*from)[1:]
		}
	}
}
