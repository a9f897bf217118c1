package limit

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/quota"
)

// Dimensions of a Table.
const (
	shards = 32
	ways   = 8
	first  = 4 // buckets of a shard that has any

	// mostBuckets is how many a shard grows to: a Table has at most a million
	// entries, of 16 bytes.
	mostBuckets = 4096
	bucketSize  = ways * 16
)

// Table keeps, for each key, when all that it has used will have come back. It is
// safe for concurrent use.
//
// A Table begins small and grows while its keys do not fit, up to a million of them,
// and as long as there is Room. From then on a new key takes the place of the one
// that has used least among eight, and takes over what that one has used, unless it
// has come back. So whoever has used much keeps its place however many others come,
// and who has lost it and comes back finds at least what it had used: no flood of
// keys sets anybody free. What a flood can do is to have strangers count as if they
// had used something. Keys that are in a Table are not touched by that until they
// are those of eight that have used least.
//
// Keys are told apart by 64 bits of a hash with a seed that nobody else knows.
type Table struct {
	room   *Room
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	buckets []bucket
	// displaced is when all will have come back of the keys that lost their places:
	// until then it does not grow, as they would find a place without it.
	displaced time.Duration
}

type bucket [ways]entry

type entry struct {
	key Hash
	due time.Duration // all is there again; of key 0, in the past
}

// Room is what Tables may grow by, in bytes.
type Room struct{ left atomic.Int64 }

// NewRoom returns room for so many bytes.
func NewRoom(bytes int64) *Room {
	r := &Room{}
	r.left.Store(bytes)
	return r
}

func (r *Room) take(bytes int64) bool {
	if r.left.Add(-bytes) >= 0 {
		return true
	}
	r.left.Add(bytes)
	return false
}

// NewTable returns an empty Table that grows into room.
func NewTable(room *Room) *Table { return &Table{room: room} }

// Release gives back the room that t has taken. Nobody uses t any more.
func (t *Table) Release() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		t.room.left.Add(int64(max(len(s.buckets)-first, 0)) * bucketSize)
		s.buckets, s.displaced = nil, 0
		s.mu.Unlock()
	}
}

// Hash is a key, or as good as one.
type Hash uint64

var seed = maphash.MakeSeed()

// HashOf returns the Hash of a key.
func HashOf(key []byte) Hash { return Hash(max(maphash.Bytes(seed, key), 1)) }

// Take counts what costs so much at a time since any moment that is always the same.
func (t *Table) Take(key Hash, now time.Duration, rate quota.Rate, cost int64) quota.Outcome {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.place(key, now, t.room)
	due, o := rate.Take(e.due, now, cost)
	if o.Allowed && cost > 0 {
		if e.key != key && e.due > now {
			s.displaced = max(s.displaced, e.due)
		}
		*e = entry{key, due}
	}
	return o
}

// Give takes back what Take has counted and allowed.
func (t *Table) Give(key Hash, rate quota.Rate, cost int64) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buckets) == 0 {
		return
	}
	b := s.bucket(key)
	for i := range b {
		if b[i].key == key {
			b[i].due = rate.Give(b[i].due, cost)
		}
	}
}

func (t *Table) shard(key Hash) *shard { return &t.shards[key%shards] }

func (s *shard) bucket(key Hash) *bucket {
	return &s.buckets[(key/shards)%Hash(len(s.buckets))]
}

// place returns the entry of a key, or the one whose place it would take.
func (s *shard) place(key Hash, now time.Duration, room *Room) *entry {
	if len(s.buckets) == 0 {
		s.buckets = make([]bucket, first)
	}
	for {
		b := s.bucket(key)
		least := &b[0]
		for i := range b {
			if b[i].key == key {
				return &b[i]
			}
			if b[i].due < least.due {
				least = &b[i]
			}
		}
		if least.due <= now || !s.grow(now, room) {
			return least
		}
	}
}

// grow doubles the shard, if it may. A key stays in its bucket, or goes to the one
// that came with it.
func (s *shard) grow(now time.Duration, room *Room) bool {
	n := len(s.buckets)
	if s.displaced > now || n >= mostBuckets || !room.take(int64(n)*bucketSize) {
		return false
	}
	old := s.buckets
	s.buckets = make([]bucket, 2*n)
	for i := range old {
		for w, e := range old[i] {
			if e.key != 0 {
				s.bucket(e.key)[w] = e
			}
		}
	}
	return true
}
