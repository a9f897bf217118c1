package bench_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	revocations = 100
	// clients of a proxy, each with a connection and a request every pace:
	// 5,000 requests a second over two proxies.
	clients = 10
	pace    = 4 * time.Millisecond
	// settles is how long nobody has to be let in for a revocation to be over.
	settles = 300 * time.Millisecond
)

// BenchmarkRevocation measures, under 5,000 requests a second on two proxies,
// the time from calling Apply with a revocation to the start of the last request
// that any of them let in.
func BenchmarkRevocation(b *testing.B) {
	f := start(b)
	l := newTraffic(b, f)
	var took []time.Duration
	for b.Loop() {
		took = append(took, l.revoke(b, len(took)))
	}
	for len(took) < revocations {
		took = append(took, l.revoke(b, len(took)))
	}
	rate := l.stop()
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	b.ReportMetric(milliseconds(p50), "p50-ms")
	b.ReportMetric(milliseconds(p99), "p99-ms")
	fmt.Printf("\nfrom revocation to the last request let in, 2 proxies, %.0f requests/s, %d revocations: p50 %.1f ms, p99 %.1f ms, max %.1f ms\n",
		rate, len(took), milliseconds(p50), milliseconds(p99), milliseconds(took[len(took)-1]))
	fmt.Printf("figure revocation_p99_ms %.1f ms\n", milliseconds(p99))
}

// traffic is what clients of both proxies send.
type traffic struct {
	fleet  *fleet.Fleet
	began  time.Time
	sent   atomic.Int64
	cancel context.CancelFunc
	done   sync.WaitGroup

	token  atomic.Pointer[string]
	lastIn atomic.Int64 // when the last request began that was let in, in Unix nanoseconds
	failed atomic.Pointer[string]
}

func newTraffic(b *testing.B, f *fleet.Fleet) *traffic {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	l := &traffic{fleet: f, began: time.Now(), cancel: cancel}
	l.be(b, "nobody")
	for _, m := range f.Members {
		for range clients {
			client, err := f.Client(false)
			if err != nil {
				b.Fatal(err)
			}
			l.done.Go(func() { l.send(ctx, client, m.URL+"/v1/inventory/cups") })
		}
	}
	b.Cleanup(func() { l.stop() })
	return l
}

// stop ends the traffic and returns how many requests there were in a second.
func (l *traffic) stop() float64 {
	l.cancel()
	l.done.Wait()
	return float64(l.sent.Load()) / time.Since(l.began).Seconds()
}

// be has the clients send a token of the subject from now on.
func (l *traffic) be(b *testing.B, subject string) {
	b.Helper()
	token, err := l.fleet.Sign(fleet.TokenRequest{Subject: subject, Groups: []string{"shop"}, Audience: "orders", ExpiresIn: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	l.token.Store(&token)
}

func (l *traffic) send(ctx context.Context, client *http.Client, url string) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			client.CloseIdleConnections()
			return
		case <-tick.C:
		}
		if err := l.one(ctx, client, url); err != nil && ctx.Err() == nil {
			why := err.Error()
			l.failed.Store(&why)
		}
	}
}

func (l *traffic) one(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+*l.token.Load())
	began := time.Now().UnixNano()
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	l.sent.Add(1)
	switch res.StatusCode {
	case http.StatusOK:
		for last := l.lastIn.Load(); began > last && !l.lastIn.CompareAndSwap(last, began); {
			last = l.lastIn.Load()
		}
	case http.StatusUnauthorized:
	default:
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}

// revoke has everybody be a new subject, revokes it, and returns how long it
// took until nobody was let in any more.
func (l *traffic) revoke(b *testing.B, i int) time.Duration {
	b.Helper()
	subject := fmt.Sprint("subject-", i)
	l.be(b, subject)
	l.await(b, "is let in", func() bool { return time.Since(time.Unix(0, l.lastIn.Load())) < pace })
	spec, err := structpb.NewStruct(map[string]any{
		"subject": map[string]any{"issuer": l.fleet.Described.TokenIssuer, "id": subject}, "reason": "benchmark",
	})
	if err != nil {
		b.Fatal(err)
	}
	revocation := &adminv1.Resource{
		ApiVersion: "sallyport/v1", Kind: "Revocation", Metadata: &adminv1.Metadata{Name: subject}, Spec: spec,
	}
	began := time.Now()
	if _, err := l.fleet.Admin.Config.Apply(b.Context(), connect.NewRequest(&adminv1.ApplyRequest{
		Resources: []*adminv1.Resource{revocation}, Message: "benchmark",
	})); err != nil {
		b.Fatal(err)
	}
	l.await(b, "is not let in", func() bool { return time.Since(time.Unix(0, l.lastIn.Load())) > settles })
	if why := l.failed.Load(); why != nil {
		b.Fatal(*why)
	}
	return max(0, time.Unix(0, l.lastIn.Load()).Sub(began))
}

func (l *traffic) await(b *testing.B, what string, is func() bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-ctx.Done():
			b.Fatal("the subject ", what, ": it never came to that")
		}
	}
}
