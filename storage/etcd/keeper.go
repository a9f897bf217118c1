package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

const (
	// historyKept is for how long at least etcd keeps what was overwritten: longer
	// than a watch may be behind, and than anybody reads an older head.
	historyKept = 5 * time.Minute
	// workWithin bounds compacting, and defragmenting a member: seconds for each
	// gigabyte.
	workWithin = 2 * time.Minute
	// defaultQuota is that of a member that was not told any.
	defaultQuota = 2 << 30
	// smallest is the size below which defragmenting does not pay, unless the quota is
	// as small.
	smallest = 64 << 20
)

// Member is a member of a cluster, as it says itself.
type Member struct {
	Endpoint string
	Leader   bool
	// Size is how large its database is on the disk, InUse how much of that holds
	// something, and Quota at what size it takes nothing any more; in bytes. Quota is 0
	// where there is none.
	Size, InUse, Quota int64
	// Full says that some member has raised the alarm because its quota was reached.
	Full bool
}

// Share returns how much of its quota a member has used up; 0 without a quota.
func (m Member) Share() float64 {
	if m.Quota == 0 {
		return 0
	}
	return float64(m.Size) / float64(m.Quota)
}

// pays reports whether a member would be much smaller, and that matters.
func (m Member) pays() bool {
	free, floor := m.Size-m.InUse, int64(smallest)
	if m.Quota > 0 {
		floor = min(floor, m.Quota/4)
	}
	return m.Size > floor && free > m.InUse || m.Share() > 0.8 && free > m.Size/4
}

// Members asks every member that the endpoints name. It returns those that answered,
// and an error if one did not.
func (s *Store) Members(ctx context.Context) (members []Member, err error) {
	for _, endpoint := range s.client.Endpoints() {
		m, fault := s.member(ctx, endpoint)
		if fault != nil {
			err = errors.Join(err, fmt.Errorf("ask member %s: %w", endpoint, fault))
			continue
		}
		members = append(members, m)
	}
	return members, err
}

func (s *Store) member(ctx context.Context, endpoint string) (Member, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.client.Status(ctx, endpoint)
	if err != nil {
		return Member{}, understood(err)
	}
	m := Member{
		Endpoint: endpoint, Leader: r.Leader == r.Header.GetMemberId(),
		Size: r.DbSize, InUse: r.DbSizeInUse, Quota: r.DbSizeQuota,
		Full: slices.ContainsFunc(r.Errors, func(e string) bool { return strings.Contains(e, etcdserverpb.AlarmType_NOSPACE.String()) }),
	}
	switch {
	case m.Quota == 0:
		m.Quota = defaultQuota
	case m.Quota < 0:
		m.Quota = 0
	}
	return m, nil
}

// Keeper keeps room in a cluster. It is for one goroutine, and one of all that there
// are for a cluster should work at a time.
type Keeper struct {
	store *Store
	// was is where etcd was at a time, so that what is older can be given up later.
	was struct {
		revision int64
		at       time.Time
	}
	// garbage holds the parts of chunks that no head named in the round before, and
	// the revisions that wrote them.
	garbage map[string]int64
	// packed are the endpoints of members that were defragmented since what was
	// overwritten was last given up in a full cluster.
	packed []string
}

// NewKeeper returns one that has done nothing.
func NewKeeper(s *Store) *Keeper { return &Keeper{store: s, garbage: map[string]int64{}} }

// Kept is what a round has done.
type Kept struct {
	// Compacted is the revision of etcd that was given up to; 0 when none was.
	Compacted int64
	// Collected is how many values were removed that no head named.
	Collected int
	// Defragmented are the endpoints of members that were.
	Defragmented []string
}

// Round gives up what was overwritten more than historyKept before now, removes
// chunks that no head has named since the round before, and defragments members, the
// leader last, of which more than half is empty. Members that did not answer keep it
// from defragmenting any.
func (k *Keeper) Round(ctx context.Context, now time.Time) (done Kept, err error) {
	if done.Compacted, err = k.forget(ctx, now); err != nil {
		return done, err
	}
	if done.Collected, err = k.collect(ctx); err != nil {
		return done, err
	}
	done.Defragmented, err = k.defragment(ctx, Member.pays)
	return done, err
}

// forget compacts up to where etcd was long enough ago.
func (k *Keeper) forget(ctx context.Context, now time.Time) (int64, error) {
	if k.was.revision != 0 && now.Sub(k.was.at) < historyKept {
		return 0, nil
	}
	revision, err := k.revision(ctx)
	if err != nil {
		return 0, err
	}
	before := k.was.revision
	if before > revision { // etcd was set back
		before = 0
	}
	if before > 0 {
		if _, err := k.compact(ctx, before); err != nil {
			return 0, err
		}
	}
	k.was.revision, k.was.at = revision, now
	return before, nil
}

func (k *Keeper) revision(ctx context.Context) (int64, error) {
	r, err := k.store.get(ctx, k.store.environmentsKey(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("ask for the revision: %w", err)
	}
	return r.Header.Revision, nil
}

// compact returns when the space is free, and whether there was anything to give up.
func (k *Keeper) compact(ctx context.Context, revision int64) (some bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, workWithin)
	defer cancel()
	_, err = k.store.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compact up to revision %d: %w", revision, understood(err))
	}
	return true, nil
}

// collect removes the parts of chunks that no head named, now and in the round
// before. What a publisher has just written is named by its head until then, and what
// the head of before named was left for who may be reading it.
func (k *Keeper) collect(ctx context.Context) (int, error) {
	heads, garbage, err := k.unnamed(ctx)
	if err != nil {
		return 0, err
	}
	doomed := map[string][]string{} // by environment
	for key, written := range garbage {
		if k.garbage[key] == written {
			environment, _, _ := k.store.parsePartKey(key)
			doomed[environment] = append(doomed[environment], key)
		}
	}
	k.garbage = garbage
	removed := 0
	for environment, keys := range doomed {
		since := unchanged(k.store.environmentKey(environment, headName), heads[environment])
		for some := range slices.Chunk(keys, maxOps) {
			r, err := k.store.commit(ctx, since, k.store.remove(some)...)
			if err != nil {
				return removed, fmt.Errorf("remove chunks of %s that no head names: %w", environment, err)
			}
			if !r.Succeeded {
				break // a head was written since, which may name them
			}
			removed += len(some)
		}
	}
	return removed, nil
}

// unnamed returns which parts of chunks no head names, with the revisions that wrote
// them, and which revisions wrote the heads.
func (k *Keeper) unnamed(ctx context.Context) (heads, garbage map[string]int64, err error) {
	heads, garbage = map[string]int64{}, map[string]int64{}
	s := k.store
	// Chunks first: a head that is read later names all that were written for it.
	if _, err := s.scan(ctx, s.prefix+"/chunk/", func(kv *mvccpb.KeyValue) {
		garbage[string(kv.Key)] = kv.ModRevision
	}, clientv3.WithKeysOnly()); err != nil {
		return nil, nil, fmt.Errorf("look for chunks: %w", err)
	}
	named := map[string]bool{}
	if _, err := s.scan(ctx, s.environmentsKey(), func(kv *mvccpb.KeyValue) {
		environment, name, ok := s.parseKey(kv.Key)
		if !ok || name != headName {
			return
		}
		heads[environment] = kv.ModRevision
		p, err := parseHead(kv.Value)
		if err != nil {
			return
		}
		for _, b := range p.GetBuckets() {
			if d, ok := snapshot.ParseDigest(b.GetDigest()); ok {
				named[s.chunkKey(environment, d)] = true
			}
		}
	}); err != nil {
		return nil, nil, fmt.Errorf("look for heads: %w", err)
	}
	for key := range garbage {
		if _, chunk, ok := s.parsePartKey(key); !ok || named[chunk] {
			delete(garbage, key)
		}
	}
	return heads, garbage, nil
}

// parsePartKey returns of which environment a key of a part is, and the key of its
// chunk.
func (s *Store) parsePartKey(key string) (environment, chunk string, ok bool) {
	rest, ok := strings.CutPrefix(key, s.prefix+"/chunk/")
	environment, _, found := strings.Cut(rest, "/")
	return environment, key[:strings.LastIndexByte(key, '/')+1], ok && found
}

// defragment defragments those of the members that are chosen, one after the other
// and the leader last: while it is at it a member answers nobody. Before each it looks
// whether all are there.
func (k *Keeper) defragment(ctx context.Context, chosen func(Member) bool) (done []string, err error) {
	for {
		members, err := k.store.Members(ctx)
		if err != nil {
			return done, err
		}
		members = slices.DeleteFunc(members, func(m Member) bool { return !chosen(m) || slices.Contains(done, m.Endpoint) })
		if len(members) == 0 {
			return done, nil
		}
		next := slices.MinFunc(members, func(a, b Member) int { return cmp.Compare(rank(a), rank(b)) })
		if err := k.defragmentOne(ctx, next.Endpoint); err != nil {
			return done, err
		}
		done = append(done, next.Endpoint)
	}
}

// rank orders members by when they are defragmented.
func rank(m Member) int {
	if m.Leader {
		return 1
	}
	return 0
}

func (k *Keeper) defragmentOne(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, workWithin)
	defer cancel()
	if _, err := k.store.client.Defragment(ctx, endpoint); err != nil {
		return fmt.Errorf("defragment %s: %w", endpoint, understood(err))
	}
	return nil
}

// Rescue makes room in a cluster that is full, and has it take writes again: all that
// was overwritten is given up, whoever reads it. storage.ErrFull if what is current is
// too much: then somebody has to raise the quota, or take something away.
func (k *Keeper) Rescue(ctx context.Context) (done Kept, err error) {
	if done.Compacted, err = k.revision(ctx); err != nil {
		return done, err
	}
	some, err := k.compact(ctx, done.Compacted)
	if err != nil {
		return done, err
	}
	if some {
		k.packed = nil
	}
	// A member counts what was given up as in use until it writes again, and a full one
	// may never do so.
	done.Defragmented, err = k.defragment(ctx, func(m Member) bool {
		return m.Size > m.InUse || !slices.Contains(k.packed, m.Endpoint)
	})
	k.packed = append(k.packed, done.Defragmented...)
	if err != nil {
		return done, err
	}
	members, err := k.store.Members(ctx)
	if err != nil {
		return done, err
	}
	for _, m := range members {
		if m.Share() > 0.9 {
			return done, fmt.Errorf("%w: %s has %d bytes in use of %d", storage.ErrFull, m.Endpoint, m.InUse, m.Quota)
		}
	}
	return done, k.disarm(ctx)
}

// disarm takes the alarms back that quotas were reached.
func (k *Keeper) disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	list, err := k.store.client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("list alarms: %w", understood(err))
	}
	for _, a := range list.Alarms {
		if a.GetAlarm() != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		one := clientv3.AlarmMember{MemberID: a.GetMemberID(), Alarm: a.GetAlarm()}
		if _, err := k.store.client.AlarmDisarm(ctx, &one); err != nil {
			return fmt.Errorf("disarm: %w", understood(err))
		}
	}
	return nil
}
