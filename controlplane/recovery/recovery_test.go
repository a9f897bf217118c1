package recovery_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/controlplane/recovery"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

var signer = snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize)))

// lab is a database and what is published of it.
type lab struct {
	*testing.T
	dsn    string
	store  *postgres.Store
	signer *snapshot.Signer // of the replica
	target *etcd.Store
	raw    *clientv3.Client
	prefix string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, prefix: "/" + strings.ToLower(rand.Text()), signer: signer}
	endpoints := storagetest.Etcd(t).Endpoints()
	l.raw = must(clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()}))
	l.target = must(etcd.New(etcd.Config{Endpoints: endpoints, Prefix: l.prefix, Log: discard()}))
	t.Cleanup(func() {
		if err := errors.Join(l.target.Close(), l.raw.Close()); err != nil {
			t.Error(err)
		}
	})
	l.use(storagetest.Postgres(t, postgres.Migrate))
	return l
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// use makes a database that of the lab.
func (l *lab) use(dsn string) {
	l.Helper()
	store, err := postgres.New(postgres.Config{DSN: dsn, Replica: "one", Log: discard()})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(store.Close)
	l.dsn, l.store = dsn, store
}

// program is one of the server's own version.
func (l *lab) program(name string, args ...string) *exec.Cmd {
	l.Helper()
	conn, err := pgx.Connect(l.Context(), l.dsn)
	if err != nil {
		l.Fatal(err)
	}
	defer func() { _ = conn.Close(l.Context()) }()
	var binaries string
	if err := conn.QueryRow(l.Context(), `select setting from pg_config where name = 'BINDIR'`).Scan(&binaries); err != nil {
		l.Fatal(err)
	}
	return exec.CommandContext(l.Context(), filepath.Join(binaries, name), args...)
}

// backup returns a dump of the database.
func (l *lab) backup() string {
	l.Helper()
	file := filepath.Join(l.TempDir(), "backup")
	if out, err := l.program("pg_dump", "--format=custom", "--file="+file, "--dbname="+l.dsn).CombinedOutput(); err != nil {
		l.Fatalf("pg_dump: %v: %s", err, out)
	}
	return file
}

// restore goes on with a database that is made of a dump.
func (l *lab) restore(file string) {
	l.Helper()
	dsn := storagetest.Postgres(l, nil)
	if out, err := l.program("pg_restore", "--exit-on-error", "--dbname="+dsn, file).CombinedOutput(); err != nil {
		l.Fatalf("pg_restore: %v: %s", err, out)
	}
	l.use(dsn)
}

// put is a resource of a kind, for environments.
func put(k, spec string, environments ...string) storage.Change {
	kind, rest, _ := strings.Cut(k, "/")
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		namespace, name = "", rest
	}
	p := resource.Parsed{Key: resource.Key{Kind: resource.Kind(kind), Namespace: namespace, Name: name}}
	switch p.Key.Kind {
	case resource.KindEnvironment:
		p.Spec = &resourcev1.Environment{}
	case resource.KindRevocation:
		p.Spec = &resourcev1.Revocation{Target: &resourcev1.Revocation_Key{Key: name}, Reason: spec}
	case resource.KindDevice:
		p.Spec = &resourcev1.Device{Compliant: new(spec == "compliant")}
	case resource.KindEnrollment:
		p.Spec = &resourcev1.Enrollment{SpiffeId: "spiffe://prod.example/" + spec, Environment: "aws"}
	default:
		p.Spec = &resourcev1.Policy{
			Effect: resourcev1.Effect_EFFECT_DENY, Routes: &resourcev1.RouteSelector{Names: []string{"r"}}, Methods: []string{spec}, Environments: environments,
		}
	}
	document := must(resource.Encode(p))
	all, in := p.Scope()
	return storage.Change{
		Key: p.Key, Scope: storage.Scope{All: all, Environments: in}, Document: document, Digest: snapshot.DocumentDigest(document),
	}
}

func remove(k string) storage.Change { return storage.Change{Key: put(k, "GET").Key, Delete: true} }

func (l *lab) commit(lane storage.Resources, changes ...storage.Change) {
	l.Helper()
	if _, err := lane.Commit(l.Context(), storage.Commit{Caller: "test", Action: "/Apply", Changes: changes}, func([]storage.Version) error { return nil }); err != nil {
		l.Fatal(err)
	}
}

// publish publishes until all that is in the database is.
func (l *lab) publish() {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 30*time.Second)
	p := publish.New(publish.Config{
		Store: l.store, Election: l.target, Targets: []publish.Place{{Name: "etcd", Target: l.target}},
		Security: l.store.Security(), Holder: "one", Log: discard(),
		Signer: l.signer, Verifier: signer.Verifier(),
	})
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for published := false; !published && ctx.Err() == nil; <-time.After(5 * time.Millisecond) {
		published = l.published(ctx)
	}
	late := ctx.Err()
	cancel()
	if err := <-done; err != nil || late != nil {
		l.Fatalf("not published: %v, %v", err, late)
	}
}

// published reports whether the newest of every environment is in etcd.
func (l *lab) published(ctx context.Context) bool {
	heads, err := l.store.Heads(ctx)
	for _, h := range heads {
		head, _, err := l.target.Snapshot(ctx, l.verifier(), h.Environment)
		if err != nil || head.Revision != h.Revision || !bytes.Equal(head.Signed().GetSignature(), h.Signed.GetSignature()) {
			return false
		}
	}
	return err == nil
}

// verifier returns one that knows what proxies do.
func (l *lab) verifier() *snapshot.Verifier {
	v := signer.Verifier()
	for _, set := range must(l.target.KeySets(l.Context())) {
		must(v.Extend([]*proxyv1.SignedKeySet{set}))
	}
	return v
}

// content is what is published of an environment, a line for each document.
func (l *lab) content(environment string) (snapshot.Head, string) {
	l.Helper()
	head, snap, err := l.target.Snapshot(l.Context(), l.verifier(), environment)
	if err != nil {
		l.Fatalf("%s: %v", environment, err)
	}
	var lines []string
	for b := range snap.Set().Buckets() {
		for _, e := range b.Entries {
			lines = append(lines, show(e.Key, e.Document))
		}
	}
	slices.Sort(lines)
	return head, strings.Join(lines, " ")
}

func show(key resource.Key, document []byte) string {
	p := must(resource.ParseDocument(document))
	switch spec := p.Spec.(type) {
	case *resourcev1.Policy:
		return fmt.Sprintf("%s=%s", key, spec.GetMethods()[0])
	case *resourcev1.Revocation:
		return fmt.Sprintf("%s=%s", key, spec.GetReason())
	case *resourcev1.Device:
		return fmt.Sprintf("%s=%t", key, spec.GetCompliant())
	}
	return key.String()
}

func (l *lab) config() recovery.Config {
	return recovery.Config{Store: l.store, Targets: []recovery.Place{{Name: "etcd", Target: l.target}}, Verifier: signer.Verifier()}
}

func (l *lab) look() *recovery.Loss {
	l.Helper()
	loss, err := l.config().Look(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return loss
}

// begin begins a new epoch.
func (l *lab) begin(o recovery.Options) {
	l.Helper()
	o.Caller, o.Message = "local user ann", "the disk is gone"
	loss := l.look()
	plan, err := loss.Recovery(o)
	if err != nil {
		l.Fatal(err)
	}
	if err := l.config().Begin(l.Context(), plan); err != nil {
		l.Fatal(err)
	}
}

// lost is a fleet whose database was restored to the day before.
func lost(t *testing.T) (l *lab, before map[string]snapshot.Head) {
	t.Helper()
	l = newLab(t)
	l.commit(l.store, put("Environment/aws", ""), put("Environment/gcp", ""), put("Enrollment/kept", "kept"))
	l.commit(l.store, put("Policy/shop/changed", "GET", "aws"), put("Policy/shop/deleted", "GET"), put("Policy/shop/same", "GET"))
	l.commit(l.store.Security(), put("Revocation/old", "old"), put("Revocation/taken-back", "old"), put("Device/sold", "compliant"))
	l.publish()
	file := l.backup()
	l.commit(l.store, put("Policy/shop/changed", "POST", "aws"), put("Policy/shop/new", "POST", "gcp"), put("Environment/lab", ""))
	l.commit(l.store, remove("Policy/shop/deleted"))
	l.commit(l.store, put("Enrollment/forgotten", "forgotten"))
	l.commit(l.store.Security(), put("Revocation/new", "new"), remove("Revocation/taken-back"), remove("Device/sold"))
	l.publish()
	before = map[string]snapshot.Head{}
	for _, name := range []string{"aws", "gcp", "lab", snapshot.SecurityLane} {
		before[name], _ = l.content(name)
	}
	l.restore(file)
	return l, before
}

// What one etcd has lost may be in another. One that cannot be asked may have more than
// all the others, and so nothing is said without it.
func TestLookAtSeveralTargets(t *testing.T) {
	t.Parallel()
	l, before := lost(t)
	prefix := l.prefix + "-far"
	far := must(etcd.New(etcd.Config{Endpoints: l.raw.Endpoints(), Prefix: prefix, Log: discard()}))
	t.Cleanup(func() { _ = far.Close() })
	for _, kv := range must(l.raw.Get(t.Context(), l.prefix+"/", clientv3.WithPrefix())).Kvs {
		must(l.raw.Put(t.Context(), prefix+strings.TrimPrefix(string(kv.Key), l.prefix), string(kv.Value)))
	}
	must(l.raw.Delete(t.Context(), l.prefix+"/env/aws/head"))
	must(l.raw.Delete(t.Context(), l.prefix+"/chunk/gcp/", clientv3.WithPrefix()))
	must(l.raw.Delete(t.Context(), prefix+"/env/lab/head"))
	c := l.config()
	c.Targets = append(c.Targets, recovery.Place{Name: "far", Target: far})
	loss, err := c.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range loss.Environments {
		if e.Err != nil || e.Head.Digest() != before[e.Name].Digest() {
			t.Errorf("%s: head %s, %v", e.Name, e.Head.Digest().Short(), e.Err)
		}
	}
	if len(loss.Environments) != len(before) {
		t.Errorf("%d environments were lost, want %d", len(loss.Environments), len(before))
	}

	away := must(etcd.New(etcd.Config{Endpoints: []string{"unix:///nowhere/etcd.sock"}, Log: discard()}))
	t.Cleanup(func() { _ = away.Close() })
	c.Targets = append(c.Targets, recovery.Place{Name: "away", Target: away})
	if _, err := c.Look(t.Context()); !errors.Is(err, storage.ErrAway) || !strings.Contains(err.Error(), "away: ") {
		t.Errorf("with one that cannot be reached: %v", err)
	}
}

// The dry run says what was lost, resource by resource.
func TestLook(t *testing.T) {
	t.Parallel()
	l, before := lost(t)
	loss := l.look()
	if loss.At != (snapshot.Position{Epoch: 1, Revision: 2}) || loss.Sequence != 2 {
		t.Errorf("the database is at %v, sequence %d", loss.At, loss.Sequence)
	}
	var got []string
	for _, e := range loss.Environments {
		if e.Err != nil || e.Head.Digest() != before[e.Name].Digest() {
			t.Errorf("%s: head %s, %v", e.Name, e.Head.Digest().Short(), e.Err)
		}
		for _, d := range e.Differences {
			got = append(got, fmt.Sprintf("%s %s %t %t", e.Name, d.Key, d.Published, d.Held))
		}
	}
	want := []string{
		"@security Device/sold false true",
		"@security Revocation/new true false",
		"@security Revocation/taken-back false true",
		"aws Policy/shop/changed true true",
		"aws Policy/shop/deleted false true",
		"gcp Policy/shop/deleted false true",
		"gcp Policy/shop/new true false",
		"lab Environment/lab true false",
		"lab Policy/shop/same true false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lost:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(loss.Seen) != 4 || loss.Seen[0].Witness != "etcd" {
		t.Errorf("seen: %v", loss.Seen)
	}
	if err := l.store.Settled(t.Context()); !errors.Is(err, storage.ErrAhead) {
		t.Errorf("replicas are not told: %v", err)
	}
}

// A new epoch goes on from the database, or from what is published. It is
// numbered above all that was seen, and signed where the lost history ended.
// Nobody who was cut off is let in again.
func TestNewEpoch(t *testing.T) {
	t.Parallel()
	const security = "Revocation/new=new Revocation/old=old Revocation/taken-back=old"
	for name, c := range map[string]struct {
		options recovery.Options
		want    map[string]string
	}{
		"from the database": {recovery.Options{}, map[string]string{
			"aws":                 "Environment/aws Policy/shop/changed=GET Policy/shop/deleted=GET Policy/shop/same=GET",
			"gcp":                 "Environment/gcp Policy/shop/deleted=GET Policy/shop/same=GET",
			snapshot.SecurityLane: security,
		}},
		"with what is published": {recovery.Options{KeepPublished: true}, map[string]string{
			"aws":                 "Environment/aws Policy/shop/changed=POST Policy/shop/same=GET",
			"gcp":                 "Environment/gcp Policy/shop/new=POST Policy/shop/same=GET",
			"lab":                 "Environment/lab Policy/shop/same=GET",
			snapshot.SecurityLane: security,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, before := lost(t)
			l.begin(c.options)
			if loss := l.look(); len(loss.Seen) > 0 {
				t.Errorf("seen: %v", loss.Seen)
			}
			l.publish()
			for name, want := range c.want {
				head, got := l.content(name)
				if got != want {
					t.Errorf("%s: %s\nwant: %s", name, got, want)
				}
				if head.Epoch != 2 || head.Revision <= before[name].Revision || head.Previous != before[name].Digest() {
					t.Errorf("%s is at epoch %d, revision %d after %s", name, head.Epoch, head.Revision, head.Previous.Short())
				}
			}
			l.commit(l.store, put("Policy/shop/after", "GET"))
			l.commit(l.store.Security(), put("Revocation/after", "after"))
			l.publish()
			if at, err := l.store.Position(t.Context()); err != nil || at != (snapshot.Position{Epoch: 2, Revision: 6}) {
				t.Errorf("the fleet is at %v (%v): revision 4 was seen, 5 begins the epoch", at, err)
			}
			entries, err := l.store.Entries(t.Context(), 0, 100)
			if err != nil || !slices.ContainsFunc(entries, func(e storage.AuditEntry) bool {
				return e.Action == "recover --new-epoch" && e.Caller == "local user ann" && e.Revision == 5 && e.Detail == "the disk is gone"
			}) {
				t.Errorf("audit: %v, %v", entries, err)
			}
		})
	}
}

// What cannot be brought back is not given up by itself.
func TestRecoveryRefuses(t *testing.T) {
	t.Parallel()
	wipe := func(l *lab, environment string) {
		if _, err := l.raw.Delete(l.Context(), l.prefix+"/chunk/"+environment, clientv3.WithPrefix()); err != nil {
			l.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage  func(l *lab)
		options recovery.Options
		want    error
		despite recovery.Options
	}{
		"revocations that are published in parts": {
			func(l *lab) { wipe(l, snapshot.SecurityLane) }, recovery.Options{},
			recovery.ErrRevocations, recovery.Options{ForgetRevocations: true},
		},
		"policy that is published in parts": {
			func(l *lab) { wipe(l, "gcp") }, recovery.Options{KeepPublished: true},
			etcd.ErrIncomplete, recovery.Options{},
		},
		"policy that proxies alone have": {
			func(l *lab) {
				l.look()
				if _, err := l.raw.Delete(l.Context(), l.prefix+"/env/gcp", clientv3.WithPrefix()); err != nil {
					l.Fatal(err)
				}
			},
			recovery.Options{KeepPublished: true}, recovery.ErrNotPublished, recovery.Options{},
		},
		"nothing": {
			func(l *lab) { l.begin(recovery.Options{}) }, recovery.Options{},
			recovery.ErrNothingLost, recovery.Options{Force: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _ := lost(t)
			c.damage(l)
			if _, err := l.look().Recovery(c.options); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			l.begin(c.despite)
			l.publish()
		})
	}
}

// An epoch begins from what was looked at, and from nothing else.
func TestDatabaseMovesOnMeanwhile(t *testing.T) {
	t.Parallel()
	l, _ := lost(t)
	plan, err := l.look().Recovery(recovery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.begin(recovery.Options{})
	if err := l.store.BeginEpoch(t.Context(), plan); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("a second time: %v, want %v", err, storage.ErrConflict)
	}
}

// rotate has a new key sign alone, and be that of the replica.
func (l *lab) rotate(seed byte) snapshot.KeySet {
	l.Helper()
	before := must(l.store.KeySets(l.Context(), 0))
	v := signer.Verifier()
	must(v.Extend(before))
	next := snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
	set := must(l.signer.SignKeySet(v.Newest(), next.Public()))
	l.record(set)
	l.signer = next
	return set
}

func (l *lab) record(set snapshot.KeySet) {
	l.Helper()
	if err := l.store.AppendKeySet(l.Context(), set, storage.AuditEntry{Caller: "test", Action: "rotate", Allowed: true}); err != nil {
		l.Fatal(err)
	}
}

// The database has lost a rotation of the signing keys: whoever has the key of before
// can have made the sets that are published. Nothing that they lead to is believed, or
// brought back, before somebody has said whose they are.
func TestLostKeySetsAreJudgedFirst(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(l.store, put("Environment/aws", ""))
	l.publish()
	file := l.backup()
	sets := []snapshot.KeySet{l.rotate(2), l.rotate(3)}
	l.commit(l.store, put("Policy/shop/lost", "GET"))
	l.publish()
	l.restore(file)

	loss := l.look()
	if len(loss.KeySets) != 2 || loss.KeySets[1].Digest() != sets[1].Digest() || len(loss.Seen)+len(loss.Environments) != 0 || loss.At.Revision != 1 {
		t.Fatalf("lost at %v: %v, %v", loss.At, loss.KeySets, loss.Seen)
	}
	for _, o := range []recovery.Options{{}, {KeepPublished: true}, {Force: true, ForgetRevocations: true}} {
		if _, err := loss.Recovery(o); !errors.Is(err, recovery.ErrKeySets) {
			t.Errorf("%+v: %v, want %v", o, err, recovery.ErrKeySets)
		}
	}
	if held := must(l.store.KeySets(t.Context(), 0)); len(held) != 0 {
		t.Errorf("%d key sets were taken", len(held))
	}
	if err := l.store.Settled(t.Context()); err != nil {
		t.Errorf("what nobody has vouched for is recorded: %v", err)
	}

	l.record(sets[0]) // one of both alone
	if loss := l.look(); len(loss.KeySets) != 1 || loss.KeySets[0].Digest() != sets[1].Digest() {
		t.Errorf("lost still: %v", loss.KeySets)
	}
	l.record(sets[1])
	if loss := l.look(); len(loss.KeySets) != 0 || len(loss.Seen) != 1 || loss.Seen[0].Environment != "aws" {
		t.Fatalf("lost besides: %v, %v", loss.KeySets, loss.Seen)
	}
	l.begin(recovery.Options{KeepPublished: true})
	l.publish()
	if head, got := l.content("aws"); got != "Environment/aws Policy/shop/lost=GET" || head.Key() != l.signer.Public().ID() {
		t.Errorf("%s, signed with %s", got, head.Key())
	}
}
