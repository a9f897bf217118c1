package api_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

// One change over the network into an empty fleet and into one of 100,000
// resources, from one writer and from twenty.
func BenchmarkApply(b *testing.B) {
	for _, resources := range []int{0, 100_000} {
		w := newWorld(b)
		fill(b, w, resources)
		for _, writers := range []int{1, 20} {
			b.Run(fmt.Sprintf("resources=%d/writers=%d", resources, writers), func(b *testing.B) {
				clients := make([]adminv1connect.ConfigServiceClient, writers)
				for i := range clients {
					clients[i] = w.config(b, admin)
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for i := range writers {
					wg.Go(func() {
						for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
							r := small(fmt.Sprintf("w%d", i), fmt.Sprintf("n%d-%d", n, time.Now().UnixNano()))
							if _, err := clients[i].Apply(b.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: []*adminv1.Resource{r}})); err != nil {
								b.Error(explain(err))
								return
							}
						}
					})
				}
				wg.Wait()
				if b.N == 1 {
					return // how many to do is still being found out
				}
				fmt.Printf("figure apply_%dk_%d_writers %.2f ms\n", resources/1000, writers, float64(b.Elapsed())/float64(b.N)/float64(time.Millisecond))
			})
		}
	}
}

// 20,000 resources in one request, over the network, until they are committed.
func BenchmarkApplyMany(b *testing.B) {
	w := newWorld(b)
	config := w.config(b, admin)
	for i := 0; b.Loop(); i++ {
		if _, err := config.Apply(b.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: many(fmt.Sprintf("r%d", i), 20_000)})); err != nil {
			b.Fatal(explain(err))
		}
	}
	fmt.Printf("figure apply_20k_at_once %.0f ms\n", float64(b.Elapsed())/float64(b.N)/float64(time.Millisecond))
}

// fill applies so many resources.
func fill(b *testing.B, w *world, n int) {
	b.Helper()
	config := w.config(b, admin)
	for i := 0; i < n; i += 20_000 {
		if _, err := config.Apply(b.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: many(fmt.Sprintf("f%d", i), 20_000)})); err != nil {
			b.Fatal(explain(err))
		}
	}
}

func many(prefix string, n int) []*adminv1.Resource {
	all := make([]*adminv1.Resource, n)
	for i := range all {
		all[i] = small(fmt.Sprintf("ns%d", i%100), fmt.Sprintf("%s-%d", prefix, i))
	}
	return all
}

// small is an Upstream.
func small(namespace, name string) *adminv1.Resource {
	return &adminv1.Resource{
		ApiVersion: "sallyport/v1", Kind: "Upstream",
		Metadata: &adminv1.Metadata{Namespace: namespace, Name: strings.ToLower(name)},
		Spec: must(structpb.NewStruct(map[string]any{
			"endpoints": []any{"orders.internal:443"}, "tls": map[string]any{},
		})),
	}
}
