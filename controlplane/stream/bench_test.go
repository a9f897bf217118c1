package stream_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// BenchmarkCommitToProxies takes the whole way of a change of one document
// within the control plane: from the return of its commit to the head in etcd,
// and to the update at each of the proxies, over TLS.
func BenchmarkCommitToProxies(b *testing.B) {
	for _, c := range []struct{ documents, proxies int }{{1, 2}, {1000, 2}, {100_000, 2}, {1000, 200}} {
		b.Run(fmt.Sprintf("documents=%d/proxies=%d", c.documents, c.proxies), func(b *testing.B) {
			l := newLab(b, patient)
			run(b, publish.New(publish.Config{
				Store: l.database, Election: l.etcd, Targets: []publish.Place{{Name: "etcd", Target: l.etcd}}, Security: l.database.Security(), Signer: ours, Holder: "a", Log: quiet(),
			}).Run)
			base := l.seed(c.documents)
			l.served("aws", base)
			var proxies []*proxy
			for i := range c.proxies {
				p := l.connect(awsID, fmt.Sprint("i-", i), l.hub.State("aws").Snapshot)
				proxies = append(proxies, p)
			}
			for _, p := range proxies {
				eventually(b, "it is connected", func() bool { return l.known(awsID, p.instance).GetRevision() == int64(base) })
			}
			heads := l.raw.Watch(b.Context(), l.prefix+"/env/aws/head", clientv3.WithFilterDelete())
			var published, pushed []time.Duration
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				change := policy(b, fmt.Sprint("p-", n%c.documents), fmt.Sprint("version ", n))
				b.StartTimer()
				l.commit(change)
				began := time.Now()
				<-heads
				published = append(published, time.Since(began))
				revision := base + snapshot.Revision(n) + 1
				for _, p := range proxies {
					for p.current.Head().Revision < revision {
						if u := p.next().GetUpdate(); u != nil {
							next, err := p.assembly.Add(ours.Verifier(), p.current, u)
							if err != nil {
								b.Fatal(err)
							}
							p.current = next
						}
					}
				}
				pushed = append(pushed, time.Since(began))
				b.StopTimer()
				for _, p := range proxies {
					p.ack()
				}
				b.StartTimer()
			}
			report(b, "published", published)
			report(b, "pushed", pushed)
		})
	}
}

func report(b *testing.B, what string, all []time.Duration) {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(all[len(all)/2]), what+"_p50_ms")
	b.ReportMetric(ms(all[len(all)*99/100]), what+"_p99_ms")
}

func policy(t testing.TB, name, content string) storage.Change {
	t.Helper()
	for e := range (documents{name: content}).set(t).All() {
		return storage.Change{Key: e.Key, Document: e.Document, Digest: e.Digest, Scope: storage.Scope{All: true}}
	}
	return storage.Change{}
}

// seed makes aws with as many documents, and returns its revision.
func (l *lab) seed(n int) snapshot.Revision {
	l.Helper()
	key := resource.Key{Kind: resource.KindEnvironment, Name: "aws"}
	l.commit(storage.Change{Key: key, Document: []byte("\x0a\x0bEnvironment\x1a\x03aws"),
		Digest: snapshot.DocumentDigest([]byte("\x0a\x0bEnvironment\x1a\x03aws")), Scope: storage.Scope{Environments: []string{"aws"}}})
	var changes []storage.Change
	d := documents{}
	for i := range n {
		d[fmt.Sprint("p-", i)] = "first"
	}
	for e := range d.set(l).All() {
		changes = append(changes, storage.Change{Key: e.Key, Document: e.Document, Digest: e.Digest, Scope: storage.Scope{All: true}})
	}
	l.commit(changes...)
	position, err := l.database.Position(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return position.Revision
}
