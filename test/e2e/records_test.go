package e2e_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// A route all of whose requests are recorded, and one where they have to be.
const recordedRoutes = `apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: counted}
spec: {hosts: [localhost, 127.0.0.1], paths: [/v1/counted/**], upstream: orders, authentication: {clientCertificates: true}, record: {mode: ALL}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: audited}
spec: {hosts: [localhost, 127.0.0.1], paths: [/v1/audited/**], upstream: orders, authentication: {clientCertificates: true}, record: {mode: REQUIRED}}
---
`

// visitors send requests at once, and keep the IDs of those that were let through.
type visitors struct {
	*testing.T
	member *fleet.Member
	client *http.Client

	mu      sync.Mutex
	allowed []string
	denied  map[string]int // by what they were told
	broken  int            // got no answer
}

func newVisitors(t *testing.T, f *fleet.Fleet, m *fleet.Member) *visitors {
	t.Helper()
	client, err := f.Client(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return &visitors{T: t, member: m, client: client, denied: map[string]int{}}
}

// ask sends a request, and reports whether it was let through.
func (v *visitors) ask(ctx context.Context, path string) bool {
	id, told := v.send(ctx, path)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case id != "":
		v.allowed = append(v.allowed, id)
	case told != "":
		v.denied[told]++
	default:
		v.broken++
	}
	return id != ""
}

func (v *visitors) send(ctx context.Context, path string) (id, told string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.member.URL+path, nil)
	if err != nil {
		return "", err.Error()
	}
	res, err := v.client.Do(req)
	if err != nil {
		return "", ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode == http.StatusOK && err == nil {
		return res.Header.Get("Sallyport-Decision-Id"), ""
	}
	return "", fmt.Sprintf("%d %s", res.StatusCode, body)
}

// until sends requests, several at once, until enough says so.
func (v *visitors) until(path string, enough func() bool) {
	ctx, cancel := context.WithTimeout(v.Context(), 2*time.Minute)
	defer cancel()
	var sending sync.WaitGroup
	for range 8 {
		sending.Go(func() {
			for ctx.Err() == nil && !enough() {
				v.ask(ctx, path)
			}
		})
	}
	sending.Wait()
	if ctx.Err() != nil {
		v.Error("it was never enough")
	}
}

// count returns how many were let through, and how many denied.
func (v *visitors) count() (allowed, denied int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.denied {
		denied += n
	}
	return len(v.allowed), denied
}

// onlyDenied fails if anything was answered but that a record is not to be had.
func (v *visitors) onlyDenied(reason string) {
	v.Helper()
	for told := range v.denied {
		if !strings.HasPrefix(told, "503 ") || !strings.Contains(told, reason) {
			v.Errorf("a request was denied with %s", told)
		}
	}
}

// recordsOf returns how often the database has each decision of a route that let
// something through.
func recordsOf(t *testing.T, f *fleet.Fleet, route string) map[string]int {
	t.Helper()
	store, err := postgres.NewDecisions(postgres.Config{DSN: f.Postgres.DSN(fleet.Database), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	yes := true
	found := map[string]int{}
	p := storage.DecisionPage{DecisionFilter: storage.DecisionFilter{Route: route, Allow: &yes}, Limit: 5000}
	for {
		page, err := store.Decisions(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			found[d.ID.String()]++
		}
		if len(page) < p.Limit {
			return found
		}
		p.After = &page[len(page)-1]
	}
}

// What was let through on condition that it is recorded is recorded once: also when
// the proxy is killed over it while the control plane is away. A full spool denies,
// harms nothing else, and drains.
func TestRequiredRecordsSurviveKills(t *testing.T) {
	f := start(t)
	m := f.Members[0]
	if err := prove(within(t, time.Minute), f, recordedRoutes+allowBilling("counted")+"---\n"+allowBilling("audited")); err != nil {
		t.Fatal(err)
	}
	small(t, f, m)
	v := newVisitors(t, f, m)
	eventually(t, time.Minute, func(ctx context.Context) (bool, string) {
		p, err := proxyOf(ctx, f, m)
		return err == nil && p.GetPersistedRevision() == p.GetRevision(), "what it enforces is not on disk"
	})
	if err := f.ControlPlane.Kill(); err != nil {
		t.Fatal(err)
	}
	for half := 200; half <= 600; half += 200 { // the spool has room for more
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			v.until("/v1/audited/7", func() bool {
				n, denied := v.count()
				return n >= half+50 || denied > 0 || v.gone() > 0
			})
		}()
		eventually(t, time.Minute, func(context.Context) (bool, string) {
			n, denied := v.count()
			return n >= half || denied > 0, fmt.Sprintf("%d requests were let through", n)
		})
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		<-sent
		v.broken = 0
		v.client.CloseIdleConnections()
		restart(t, f, m)
	}
	v.until("/v1/audited/7", func() bool { _, denied := v.count(); return denied > 0 })
	v.onlyDenied("record_unavailable")
	if n, _ := v.count(); n < 600 {
		t.Fatalf("the spool was full with %d records", n)
	}
	if !newVisitors(t, f, m).ask(within(t, time.Minute), "/v1/counted/7") {
		t.Error("a full spool denies what need not be recorded")
	}
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func(ctx context.Context) (bool, string) {
		return v.ask(ctx, "/v1/audited/7"), "there is no room yet"
	})
	var kept map[string]int
	eventually(t, time.Minute, func(context.Context) (bool, string) {
		kept = recordsOf(t, f, "shop/audited")
		for _, id := range v.allowed {
			if kept[id] == 0 {
				return false, fmt.Sprintf("%d of %d records are kept", len(kept), len(v.allowed))
			}
		}
		return true, ""
	})
	for id, times := range kept {
		if times != 1 {
			t.Errorf("%s is kept %d times", id, times)
		}
	}
	t.Logf("%d requests were let through, %d records are kept", len(v.allowed), len(kept))
}

// gone is how many requests got no answer.
func (v *visitors) gone() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.broken
}

// small gives a proxy the smallest spool there is.
func small(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	file, err := os.OpenFile(m.Args[len(m.Args)-1], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("spool_mib: 1\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	restart(t, f, m)
}

// restart starts a proxy that has ended, and waits until it serves.
func restart(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func(ctx context.Context) (bool, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Status+"/readyz", nil)
		if err != nil {
			return false, err.Error()
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(req)
		if err != nil {
			return false, err.Error()
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK, res.Status
	})
}

// While the database is away, what proxies remember of records is bounded, what is
// too much is counted, and requests go on. Then all that is not counted arrives.
func TestRecordsWhileTheDatabaseIsAway(t *testing.T) {
	f := start(t)
	m := f.Members[0]
	if err := prove(within(t, time.Minute), f, recordedRoutes+allowBilling("counted")+"---\n"+allowBilling("audited")); err != nil {
		t.Fatal(err)
	}
	v := newVisitors(t, f, m)
	long := "/v1/counted/" + strings.Repeat("x", 4000) // of which 2048 bytes are recorded
	v.until(long, func() bool { n, _ := v.count(); return n >= 200 })
	before := weigh(t, m.Status)
	if err := f.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	v.until(long, func() bool {
		n, _ := v.count()
		return n%500 == 0 && metrics(t, m.Status)["sallyport_remote_records_dropped_total"] > 100
	})
	after := weigh(t, m.Status)
	if grown := after.live - before.live; grown > 32<<20 {
		t.Errorf("the proxy has grown by %.0f bytes", grown)
	}
	if _, denied := v.count(); denied > 0 || v.gone() > 0 {
		t.Errorf("%d requests were denied, %d got no answer", denied, v.gone())
	}
	if err := f.Postgres.Start(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func(context.Context) (bool, string) {
		all := metrics(t, m.Status)
		return all["sallyport_remote_records_waiting_bytes"] == 0, fmt.Sprintf("%v bytes wait", all["sallyport_remote_records_waiting_bytes"])
	})
	n, _ := v.count()
	kept := recordsOf(t, f, "shop/counted")
	for id, times := range kept {
		if times != 1 {
			t.Errorf("%s is kept %d times", id, times)
		}
	}
	// Each decision that is kept has an end, which is kept or dropped as well.
	all := metrics(t, m.Status)
	arrived, dropped := int(all["sallyport_remote_records_total"]), int(all["sallyport_remote_records_dropped_total"])
	if arrived+dropped != n+len(kept) || len(kept) >= n {
		t.Errorf("of %d requests %d are kept; %d records have arrived and %d were dropped", n, len(kept), arrived, dropped)
	}
	t.Logf("%d requests, of which %d are kept; %d records were dropped", n, len(kept), dropped)
}
