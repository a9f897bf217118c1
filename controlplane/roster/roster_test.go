package roster_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/roster"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) {
	code := storagetest.Main(m)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func enrollment(name, pattern string) storage.Change {
	key := resource.Key{Kind: resource.KindEnrollment, Name: name}
	b := must(resource.Encode(resource.Parsed{Key: key, Spec: &resourcev1.Enrollment{SpiffeId: pattern, Environment: "aws"}}))
	return storage.Change{Key: key, Document: b, Digest: snapshot.DocumentDigest(b)}
}

// elects is the key of the publisher, which only the etcd of the election has.
const elects = "/leader/1"

// keys are all that there are in an etcd.
type keys []string

func (k keys) Has(_ context.Context, key string) (bool, error) { return slices.Contains(k, key), nil }

// LeaderKey is the first of them.
func (k keys) LeaderKey(context.Context) (string, error) { return k[0], nil }

// board is a feed that others write on.
type board struct {
	mu      sync.Mutex
	signed  *distributionv1.SignedRoster
	body    []byte
	changed chan struct{}
}

func (b *board) Roster() (*distributionv1.SignedRoster, []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.signed, b.body
}

func (b *board) RosterChanged() <-chan struct{} { return b.changed }

func (b *board) put(signed *distributionv1.SignedRoster, body []byte) {
	b.mu.Lock()
	b.signed, b.body = signed, body
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// body is a roster with some SPIFFE IDs barred.
func body(barred ...string) []byte {
	r := storage.Roster{}
	for _, id := range barred {
		r.Rulings = append(r.Rulings, storage.Ruling{Subject: id, Quarantined: true})
	}
	return must(roster.Encode(r, elects))
}

// says is a statement about a body.
func says(by *snapshot.Signer, epoch snapshot.Epoch, sequence int64, at time.Time, b []byte) *distributionv1.SignedRoster {
	return must(by.SignRoster(snapshot.Roster{Epoch: epoch, Sequence: sequence, Digest: sha256.Sum256(b), IssuedAt: at}))
}

// following runs f with a follower in a bubble of time.
func following(t *testing.T, f func(t *testing.T, b *board, r *roster.Follower, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, log := &board{changed: make(chan struct{}, 1)}, &bytes.Buffer{}
		r := roster.NewFollower(roster.FollowerConfig{
			Feed: b, Keys: keys{"/env/a"}, Verifier: signer(1).Verifier(), Log: slog.New(slog.NewTextHandler(log, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		f(t, b, r, log)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func current(r *roster.Follower) string {
	now, _ := r.Current()
	if now == nil {
		return ""
	}
	return fmt.Sprintf("%d.%d %s", now.Epoch, now.Sequence, strings.Join(now.Barred, " "))
}

// barredIn is what current says of who is barred.
func barredIn(current string) string {
	_, barred, _ := strings.Cut(current, " ")
	return barred
}

func TestFollowerTakesWhatIsNewer(t *testing.T) {
	following(t, func(t *testing.T, b *board, r *roster.Follower, _ *bytes.Buffer) {
		if now, _ := r.Current(); now != nil {
			t.Fatal("there is a roster before any was published")
		}
		began := time.Now()
		for _, step := range []struct {
			epoch    snapshot.Epoch
			sequence int64
			barred   string
			want     string
			refused  int64
		}{
			{1, 5, "a", "1.5 a", 0},
			{1, 6, "b", "1.6 b", 0},
			{1, 5, "a", "1.6 b", 1}, // it was before
			{1, 6, "c", "1.6 b", 2}, // there is one of that sequence
			{2, 1, "d", "2.1 d", 2},
			{1, 9, "e", "2.1 d", 3},
			{2, 4, "d", "2.4 d", 3}, // something else was changed
			{2, 2, "d", "2.4 d", 4}, // it was confirmed later
		} {
			_, changed := r.Current()
			before := current(r)
			content := body(step.barred)
			b.put(says(signer(1), step.epoch, step.sequence, began, content), content)
			synctest.Wait()
			if current(r) != step.want || r.Refused() != step.refused {
				t.Errorf("%d.%d: it is %q, %d were refused; want %q, %d", step.epoch, step.sequence, current(r), r.Refused(), step.want, step.refused)
			}
			select {
			case <-changed:
				if barredIn(before) == barredIn(step.want) {
					t.Errorf("%d.%d: it is told of as another one", step.epoch, step.sequence)
				}
			default:
				if before == "" {
					t.Error("the first is not told of")
				}
			}
		}
	})
}

func TestFollowerTakesNothingElse(t *testing.T) {
	for name, put := range map[string]func(b *board, now time.Time){
		"of another fleet":  func(b *board, now time.Time) { b.put(says(signer(2), 1, 9, now, body("x")), body("x")) },
		"from the future":   func(b *board, now time.Time) { b.put(says(signer(1), 1, 9, now.Add(time.Hour), body("x")), body("x")) },
		"with another body": func(b *board, now time.Time) { b.put(says(signer(1), 1, 9, now, body("x")), body("y")) },
		"where the publisher is elected": func(b *board, now time.Time) {
			other := must(roster.Encode(storage.Roster{}, "/env/a"))
			b.put(says(signer(1), 1, 9, now, other), other)
		},
		"with a body that is no roster": func(b *board, now time.Time) { b.put(says(signer(1), 1, 9, now, []byte("x")), []byte("x")) },
		"with something that is no enrollment": func(b *board, now time.Time) {
			document := must(proto.Marshal(&resourcev1.Document{Kind: "Policy", Namespace: "shop", Name: "a"}))
			other := must(proto.Marshal(&distributionv1.Roster{Enrollments: [][]byte{document}}))
			b.put(says(signer(1), 1, 9, now, other), other)
		},
		"with a field of a later build": func(b *board, now time.Time) {
			m := &distributionv1.Roster{}
			m.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01})
			other := must(proto.Marshal(m))
			b.put(says(signer(1), 1, 9, now, other), other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			following(t, func(t *testing.T, b *board, r *roster.Follower, log *bytes.Buffer) {
				good := body("a")
				b.put(says(signer(1), 1, 5, time.Now(), good), good)
				synctest.Wait()
				put(b, time.Now())
				<-time.After(10 * time.Second) // of the bubble
				if current(r) != "1.5 a" || r.Refused() != 1 || strings.Count(log.String(), "roster in etcd was refused") != 1 {
					t.Errorf("it is %q, %d were refused:\n%s", current(r), r.Refused(), log)
				}
				b.put(says(signer(1), 1, 10, time.Now(), body("b")), body("b"))
				synctest.Wait()
				if current(r) != "1.10 b" {
					t.Errorf("after that nothing is taken any more: it is %q", current(r))
				}
			})
		})
	}
}

// Statement and body do not come together; and the key may become known later.
func TestFollowerWaitsForTheRest(t *testing.T) {
	following(t, func(t *testing.T, b *board, r *roster.Follower, _ *bytes.Buffer) {
		signed := says(signer(1), 1, 5, time.Now(), body("a"))
		b.put(signed, nil)
		synctest.Wait()
		b.put(signed, body("a"))
		synctest.Wait()
		if current(r) != "1.5 a" || r.Refused() != 0 {
			t.Errorf("it is %q, %d were refused", current(r), r.Refused())
		}
		set := must(signer(1).SignKeySet(snapshot.KeySet{}, signer(2).Public()))
		b.put(says(signer(2), 1, 6, time.Now(), body("b")), body("b"))
		synctest.Wait()
		if current(r) != "1.5 a" {
			t.Error("it is taken from a key that is not known")
		}
		if _, err := r.Verifier.Extend(keySets(set)); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Second) // of the bubble
		if current(r) != "1.6 b" {
			t.Errorf("it is %q when the key is known", current(r))
		}
	})
}

// A roster is confirmed while nothing changes, and that is no other one.
func TestRosterIsConfirmed(t *testing.T) {
	following(t, func(t *testing.T, b *board, r *roster.Follower, _ *bytes.Buffer) {
		began := time.Now()
		content := body("a")
		for i, at := range []time.Duration{0, 10 * time.Second, 5 * time.Second, 20 * time.Second} {
			<-time.After(20 * time.Second) // of the bubble
			_, changed := r.Current()
			b.put(says(signer(1), 1, 5, began.Add(at), content), content)
			synctest.Wait()
			now, _ := r.Current()
			want := began.Add(max(at, []time.Duration{0, 0, 10 * time.Second, 0}[i]))
			if !now.IssuedAt.Equal(want) {
				t.Errorf("it was confirmed at %s, want %s", now.IssuedAt.Sub(began), want.Sub(began))
			}
			select {
			case <-changed:
				if i > 0 {
					t.Error("it is told of as another one")
				}
			default:
			}
		}
		if r.Refused() != 0 {
			t.Errorf("%d were refused", r.Refused())
		}
	})
}

func TestRosterIsBounded(t *testing.T) {
	var r storage.Roster
	for i := range 20_000 {
		r.Rulings = append(r.Rulings, storage.Ruling{Subject: fmt.Sprintf("spiffe://prod.example/a-long-way-to-a-proxy-that-was-refused/%d", i), Quarantined: true})
	}
	if _, err := roster.Encode(r, elects); !errors.Is(err, roster.ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// What is committed comes to who has no database, by a real etcd.
func TestPublisher(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	store := must(postgres.New(postgres.Config{DSN: storagetest.Postgres(t, postgres.Migrate), Log: log}))
	t.Cleanup(store.Close)
	target := must(etcd.New(etcd.Config{Endpoints: storagetest.Etcd(t).Endpoints(), Prefix: "/" + strings.ToLower(t.Name()), Log: log}))
	t.Cleanup(func() { _ = target.Close() })
	feed := etcd.NewFeed(target)
	follower := roster.NewFollower(roster.FollowerConfig{Feed: feed, Keys: target, Verifier: signer(1).Verifier(), Log: log})
	publisher := roster.NewPublisher(roster.PublisherConfig{Store: store, Target: target, Election: keys{elects}, Signer: signer(1), Verifier: signer(1).Verifier(), Log: log})
	for _, part := range []func(context.Context) error{store.Run, feed.Run, follower.Run} {
		background(t, part)
	}
	background(t, func(ctx context.Context) error {
		if err := publisher.Run(ctx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	wait := func(what string, ok func(*roster.Roster) bool) {
		t.Helper()
		late := time.After(30 * time.Second)
		for {
			now, changed := follower.Current()
			if now != nil && ok(now) {
				return
			}
			select {
			case <-changed:
			case <-late:
				t.Fatalf("%s: it is %+v", what, now)
			}
		}
	}
	commit(t, store, enrollment("a", "spiffe://prod.example/proxy/aws/*"))
	wait("enrolled", func(r *roster.Roster) bool { return len(r.Enrollments) == 1 && r.Enrollments[0].Key.Name == "a" })
	const bad = "spiffe://prod.example/proxy/aws/bad"
	rule(t, store, bad, func(r *storage.Ruling) { r.Quarantined = true })
	wait("quarantined", func(r *roster.Roster) bool { return slices.Equal(r.Barred, []string{bad}) })
	rule(t, store, bad+"#one", func(r *storage.Ruling) { r.Draining = true })
	wait("drained", func(r *roster.Roster) bool { return slices.Equal(r.Draining, []storage.ProxyID{bad + "#one"}) })
	rule(t, store, bad, func(r *storage.Ruling) { r.Quarantined = false })
	wait("released", func(r *roster.Roster) bool { return len(r.Barred) == 0 })
}
