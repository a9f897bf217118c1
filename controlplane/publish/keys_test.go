package publish_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize))
}

// second is the key that follows the fleet's first.
var second = snapshot.NewSigner(key(2))

// signing makes a replica sign with another key than the one that is pinned.
func signing(s *snapshot.Signer) func(*publish.Config) {
	return func(c *publish.Config) { c.Signer, c.Verifier = s, signer.Verifier() }
}

// rotate makes keys those that sign for the fleet.
func (l *lab) rotate(by *snapshot.Signer, keys ...*snapshot.Signer) {
	l.Helper()
	sets, err := l.store.KeySets(l.Context(), 0)
	if err != nil {
		l.Fatal(err)
	}
	var last snapshot.KeySet
	if len(sets) > 0 {
		if last, err = snapshot.ParseKeySet(sets[len(sets)-1]); err != nil {
			l.Fatal(err)
		}
	}
	var public []snapshot.PublicKey
	for _, k := range keys {
		public = append(public, k.Public())
	}
	next, err := by.SignKeySet(last, public...)
	if err != nil {
		l.Fatal(err)
	}
	if err := l.store.AppendKeySet(l.Context(), next, storage.AuditEntry{Caller: "test", Action: "rotate", Allowed: true}); err != nil {
		l.Fatal(err)
	}
}

// trusted returns the newest published head of an environment as a verifier takes
// it that learns of the published key sets; zero if it does not.
func (l *lab) trusted(name string) (snapshot.Head, *snapshot.Verifier) {
	l.Helper()
	v := signer.Verifier()
	for _, value := range l.values("@keys/") {
		var set proxyv1.SignedKeySet
		if err := proto.Unmarshal(value, &set); err != nil {
			l.Fatal(err)
		}
		if _, err := v.Extend([]*proxyv1.SignedKeySet{&set}); err != nil {
			l.Fatal(err)
		}
	}
	for _, value := range l.values(name + "/head") {
		var p distributionv1.PublishedHead
		if err := proto.Unmarshal(value, &p); err != nil {
			l.Fatal(err)
		}
		head, err := v.VerifyHead(p.GetHead())
		if err == nil {
			return head, v
		}
	}
	return snapshot.Head{}, v
}

// signedBy reports whether the published head, the recorded one and the freshness
// statement of an environment are by a key that the published key sets hold.
func (l *lab) signedBy(name string, by *snapshot.Signer) bool {
	l.Helper()
	head, v := l.trusted(name)
	recorded, err := l.store.Head(l.Context(), name, head.Revision)
	if err != nil || head.Key() != by.Public().ID() || !bytes.Equal(recorded.Signed.GetSignature(), head.Signed().GetSignature()) {
		return false
	}
	confirmed := l.values(name + "/freshness")
	if len(confirmed) != 1 {
		return false
	}
	var f proxyv1.SignedFreshness
	if err := proto.Unmarshal(confirmed[0], &f); err != nil {
		l.Fatal(err)
	}
	id := by.Public().ID()
	_, err = v.VerifyFreshness(&f)
	return err == nil && string(f.GetKeyId()) == string(id[:])
}

// values returns what is published below a name, by ascending key.
func (l *lab) values(name string) (values [][]byte) {
	l.Helper()
	r, err := l.raw.Get(l.Context(), l.prefix+"/env/"+name, clientv3.WithPrefix())
	if err != nil {
		l.Fatal(err)
	}
	for _, kv := range r.Kvs {
		values = append(values, kv.Value)
	}
	return values
}

func wantLogged(t *testing.T, r *replica, text string) {
	t.Helper()
	eventually(t, "a replica says: "+text, func() bool { return r.log.count(text) > 0 })
}

func TestKeyIsRotated(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"), put(t, policy("a"), "1"))
	first := l.start()
	l.wantPublished()
	before, _ := l.trusted("aws")

	l.rotate(signer, signer, second)
	eventually(t, "the new set is published", func() bool { _, v := l.trusted("aws"); return v.Newest().Generation == 1 })
	next := l.start(signing(second))
	first.stop()
	eventually(t, "what is newest is signed again", func() bool {
		return l.signedBy("aws", second) && l.signedBy(snapshot.SecurityLane, second)
	})
	after, _ := l.trusted("aws")
	if after.Digest() != before.Digest() {
		t.Error("with another key it is another head")
	}

	l.rotate(second, second)
	retired := l.start()
	wantLogged(t, retired, "this replica's signing key is not in the newest key set")
	l.commit(put(t, policy("a"), "2"))
	eventually(t, "the next revision is published", func() bool {
		head, v := l.trusted("aws")
		return head.Revision == 2 && v.Newest().Generation == 2 && l.signedBy("aws", second)
	})
	next.stop()
	l.commit(put(t, policy("a"), "3"))
	wantLogged(t, retired, "generation 2")
	if strings.Contains(retired.log.String(), "became publisher") {
		t.Error("a replica with a retired key was elected")
	}
	l.start(signing(second))
	eventually(t, "the last revision is published", func() bool { head, _ := l.trusted("aws"); return head.Revision == 3 })
}

// A publisher whose key is retired while it is elected ends at once.
func TestKeyIsRetiredDuringATerm(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"))
	r := l.start()
	l.wantPublished()
	l.rotate(signer, second)
	wantLogged(t, r, "this replica's signing key is not in the newest key set")
	l.commit(put(t, policy("a"), "2"))
	l.start(signing(second))
	eventually(t, "the other takes over", func() bool {
		head, _ := l.trusted("aws")
		return head.Revision == 2 && l.signedBy("aws", second) && l.signedBy(snapshot.SecurityLane, second)
	})
}

func TestKeySetsThatDoNotFit(t *testing.T) {
	t.Parallel()
	t.Run("of another root", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.rotate(second, second, signer)
		wantLogged(t, l.start(), "do not follow from the root public key")
	})
	t.Run("fewer than are published", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.commit(environment(t, "aws", "1"))
		l.rotate(signer, signer, second)
		r := l.start()
		l.wantPublished()
		r.stop()
		wantLogged(t, l.restored().start(), "there is the key set of generation 1, known is 0")
	})
}

// gate is a key whose hardware takes as long as the test likes.
type gate struct {
	crypto.Signer
	entered chan struct{}
	open    <-chan struct{}
}

func (g gate) Sign(r io.Reader, b []byte, o crypto.SignerOpts) ([]byte, error) {
	select {
	case g.entered <- struct{}{}:
	default:
	}
	<-g.open
	return g.Signer.Sign(r, b, o)
}

// While a slow module signs, nothing in the database is locked: commits go on, and
// another replica can be elected.
func TestSigningHoldsNoLock(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"))
	open := make(chan struct{})
	slow := gate{key(1), make(chan struct{}, 1), open}
	l.start(func(c *publish.Config) { c.Signer = snapshot.NewSigner(slow) })
	<-slow.entered
	conn, err := pgx.Connect(t.Context(), l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// Those of the other lane, and of others, end by themselves.
	eventually(t, "no transaction is open while signing", func() bool {
		var held int
		err := conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity
			where datname = current_database() and state like 'idle in transaction%'`).Scan(&held)
		return err == nil && held == 0
	})
	l.commit(put(t, policy("a"), "2"))
	if _, err := l.store.BeginTerm(t.Context(), "another"); err != nil {
		t.Errorf("a term could not begin: %v", err)
	}
	close(open)
	l.wantPublished()
}

// fragile is a key whose hardware can fail.
type fragile struct {
	crypto.Signer
	broken *atomic.Bool
}

func (f fragile) Sign(r io.Reader, b []byte, o crypto.SignerOpts) ([]byte, error) {
	if f.broken.Load() {
		return nil, errors.New("the token was pulled out")
	}
	return f.Signer.Sign(r, b, o)
}

// A publisher whose key has failed leaves publishing to one whose key is well.
func TestBrokenKeyGivesTheElectionUp(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"))
	key := fragile{key(1), &atomic.Bool{}}
	first := l.start(func(c *publish.Config) { c.Signer = snapshot.NewSigner(key) })
	l.wantPublished()
	key.broken.Store(true)
	l.start()
	l.commit(put(t, policy("a"), "2"))
	wantLogged(t, first, "the signing key could not be used: the token was pulled out")
	l.wantPublished()
}
