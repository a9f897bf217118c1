package e2e_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

var changes = flag.Int("changes", 300, "how many changes the memory of a fleet is watched over")

const (
	// atOnce is how many changes are under way together: proxies then pass over
	// some revisions, as they do in a busy fleet.
	atOnce = 8
	// changing is how many policies take turns, and the size that the fleet
	// keeps.
	changing = 20

	// warm is how many changes come before the first look, so that what is made
	// once (statements of the database, buffers of connections) is there.
	warm = 100

	// What a process may grow between the first tenth of the changes and the
	// last one: over 10,000 changes, 233 bytes for each.
	mayGrow  = 2 << 20 // bytes of live heap
	mayGrowN = 50      // goroutines, and open files
)

// A control plane and its proxies are as large after many changes as they were
// after a tenth of them.
func TestMemoryDoesNotGrow(t *testing.T) {
	f := start(t)
	status := map[string]string{"controlplane": f.Described.Status}
	for _, m := range f.Members {
		status["proxy_"+m.Name] = m.Status
	}
	early := max(warm, *changes/10)
	change(t, f, 0, early)
	before := map[string]weight{}
	for name, url := range status {
		before[name] = weigh(t, url)
	}
	change(t, f, early, *changes)
	for name, url := range status {
		before[name].compare(t, name, weigh(t, url))
	}
	fmt.Printf("figure e2e_memory_changes %d changes\n", *changes)
	for _, m := range f.Members {
		checkOrder(t, m)
	}
}

// change makes the changes from one number to another, each proven to be
// enforced.
func change(t *testing.T, f *fleet.Fleet, from, to int) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(atOnce)
	for i := from; i < to; i++ {
		g.Go(func() error {
			if i%10 == 9 {
				return comeAndGo(ctx, f, i)
			}
			return prove(ctx, f, policyAgainst(fmt.Sprintf("changing-%d", i%changing), fmt.Sprintf("group-%d", i)))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func prove(ctx context.Context, f *fleet.Fleet, text string) error {
	revision, err := f.Admin.Apply(ctx, text, "a change")
	if err != nil {
		return err
	}
	return f.Admin.Enforced(ctx, revision, f.Environments()...)
}

// comeAndGo makes a route with a path of its own, uses it, and takes it away.
func comeAndGo(ctx context.Context, f *fleet.Fleet, i int) error {
	name, path := fmt.Sprintf("passing-%d", i), fmt.Sprintf("/v1/passing/%d", i)
	if err := prove(ctx, f, `apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: `+name+`}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [`+path+`]
  upstream: orders
  authentication: {clientCertificates: true}
---
`+allowBilling(name)); err != nil {
		return err
	}
	for _, m := range f.Members {
		answer, err := f.Send(ctx, m, fleet.Request{Method: http.MethodGet, Path: path, Certificate: true})
		if err != nil {
			return err
		}
		if answer.Status != http.StatusOK {
			return fmt.Errorf("%s answers %d %s", path, answer.Status, answer.Body)
		}
	}
	res, err := f.Admin.Config.Delete(ctx, connect.NewRequest(&adminv1.DeleteRequest{Message: "gone", Keys: []*adminv1.Key{
		{Kind: "Route", Namespace: "shop", Name: name}, {Kind: "Policy", Namespace: "shop", Name: name},
	}}))
	if err != nil {
		return err
	}
	return f.Admin.Enforced(ctx, res.Msg.GetRevision(), f.Environments()...)
}

// allowBilling is a policy for the billing workload on the route of its name.
func allowBilling(name string) string {
	return `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: ` + name + `}
spec:
  routes: {names: [` + name + `]}
  effect: ALLOW
  principals: [{spiffe: "` + fleet.BillingID + `"}]
`
}

// weight is what a process holds.
type weight struct{ live, resident, goroutines, files float64 }

// weigh asks a process for its metrics until it has collected its garbage a
// few times, which takes no more than asking: the collector then knows what is
// live. Anything pooled outlives one collection.
func weigh(t *testing.T, status string) weight {
	t.Helper()
	const collections = "go_gc_duration_seconds_count"
	first := metrics(t, status)[collections]
	var m map[string]float64
	eventually(t, time.Minute, func(context.Context) (bool, string) {
		m = metrics(t, status)
		return m[collections] >= first+3, "no garbage was collected"
	})
	return weight{
		live:       m["go_memstats_next_gc_bytes"] / 2, // at GOGC=100
		resident:   m["process_resident_memory_bytes"],
		goroutines: m["go_goroutines"],
		files:      m["process_open_fds"],
	}
}

func (w weight) compare(t *testing.T, name string, now weight) {
	t.Helper()
	const mib = 1 << 20
	fmt.Printf("figure e2e_%s_live_early %.2f MiB\nfigure e2e_%s_live_late %.2f MiB\n", name, w.live/mib, name, now.live/mib)
	fmt.Printf("figure e2e_%s_resident_early %.2f MiB\nfigure e2e_%s_resident_late %.2f MiB\n", name, w.resident/mib, name, now.resident/mib)
	if now.live <= 0 || now.live > w.live+mayGrow {
		t.Errorf("%s: %.0f bytes were live, now %.0f", name, w.live, now.live)
	}
	if now.goroutines > w.goroutines+mayGrowN || now.files > w.files+mayGrowN {
		t.Errorf("%s: %.0f goroutines and %.0f open files, now %.0f and %.0f", name, w.goroutines, w.files, now.goroutines, now.files)
	}
}

// metrics returns the metrics of a process that have no labels.
func metrics(t *testing.T, status string) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodGet, status+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	found := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			found[name] = v
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
