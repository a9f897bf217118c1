package publish_test

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/storage"
)

// BenchmarkManyEnvironments takes a change that touches all environments, from
// its commit to the last head in etcd.
func BenchmarkManyEnvironments(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("environments=%d", n), func(b *testing.B) {
			l := newLab(b)
			var all []storage.Change
			for i := range n {
				all = append(all, environment(b, fmt.Sprint("env-", i), "1"))
			}
			watch := l.raw.Watch(b.Context(), l.prefix+"/env/", clientv3.WithPrefix(), clientv3.WithFilterDelete())
			heads := func() {
				for seen := 0; seen < n; {
					for _, e := range (<-watch).Events {
						if revisionOf(e.Kv.Value) == l.revision {
							seen++
						}
					}
				}
			}
			l.start()
			l.commit(all...)
			heads()
			for i := 0; b.Loop(); i++ {
				l.commit(put(b, policy("p"), fmt.Sprint(i)))
				heads()
			}
		})
	}
}
