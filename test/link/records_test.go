package link_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/decisions"
	"github.com/sallyport/sallyport/dataplane/courier"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/identity"
	principals "github.com/sallyport/sallyport/internal/policy"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	"github.com/sallyport/sallyport/storage"
)

// recorder is a proxy that has nothing but decisions.
type recorder struct {
	*courier.Courier
	dir  string
	stop func()
}

func (f *fleet) recorder(path string, c courier.Config, replicas ...string) *recorder {
	f.Helper()
	if c.SpoolDirectory == "" {
		c.SpoolDirectory = filepath.Join(f.TempDir(), "records")
	}
	c.ControlPlanes, c.ControlPlaneID, c.Instance, c.Log = replicas, controlID, "one", quiet()
	c.Identity = f.identify(identity.ID("spiffe://prod.example/proxy/" + path))
	made, err := courier.New(c)
	if err != nil {
		f.Fatal(err)
	}
	if err := made.Load(); err != nil {
		f.Fatal(err)
	}
	return &recorder{Courier: made, dir: c.SpoolDirectory, stop: run(f.T, made.Run)}
}

var alice = &principals.Principal{
	Kind: principals.User, ID: "alice", Issuer: "https://login.example", Groups: []string{"shop"}, AuthenticatedBy: "jwt",
	Claims: map[string]any{"email": "alice@shop.example"},
}

var all = &record.Rule{Mode: record.All}

// decision is the n-th one of a test.
func decision(n int, allow bool) *record.Decision {
	now := time.Now().Truncate(time.Millisecond)
	id := storage.DecisionsFrom(now)
	id[6] |= 0x70
	id[14], id[15] = byte(n>>8), byte(n)
	d := &record.Decision{
		Time: now, ID: id.String(), Allow: allow, Reason: "allowed_by_policy", Epoch: 1, Revision: 7,
		Listener: "edge/https", ClientIP: netip.MustParseAddr("192.0.2.7"), TLSVersion: "1.3", ServerName: "api.example", ALPN: "h2",
		Protocol: "HTTP/2.0", Method: "GET", Host: "api.example", Path: fmt.Sprintf("/%d", n), RawQuery: "token=secret&page=2",
		Header: map[string][]string{"Authorization": {"Bearer secret"}, "User-Agent": {"test"}},
		Route:  "shop/orders", Principal: alice, Rule: all, Authenticated: time.Millisecond, Took: 2 * time.Millisecond,
	}
	if !allow {
		d.Reason, d.Status = "no_matching_policy", 403
	}
	return d
}

// kept returns what the database has, oldest first.
func (f *fleet) kept() []storage.Decision {
	f.Helper()
	found, err := f.records.Decisions(f.Context(), storage.DecisionPage{Limit: 100000})
	if err != nil {
		f.Fatal(err)
	}
	slices.Reverse(found)
	return found
}

// paths are those of what the database has, sorted.
func (f *fleet) paths() (paths []string) {
	f.Helper()
	for _, d := range f.kept() {
		paths = append(paths, f.read(d).GetRequest().GetPath())
	}
	slices.Sort(paths)
	return paths
}

func (f *fleet) read(d storage.Decision) *decisionv1.Decision {
	f.Helper()
	var m decisionv1.Decision
	if err := proto.Unmarshal(d.Record, &m); err != nil {
		f.Fatal(err)
	}
	return &m
}

// await waits until the database has so many records.
func (f *fleet) await(n int) {
	f.Helper()
	eventually(f.T, fmt.Sprintf("%d records are kept", n), func() bool { return len(f.kept()) >= n })
	if got := len(f.kept()); got != n {
		f.Fatalf("%d records are kept, want %d", got, n)
	}
}

func TestRecordsReachTheDatabase(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.recorder("aws/1", courier.Config{}, r.url)
	traced := decision(1, true)
	traced.Trace = [16]byte{0: 0x0a, 15: 0xf1}
	p.Decide(traced)
	f.await(1)
	d := f.kept()[0]
	if d.Environment != "aws" || d.Proxy != "spiffe://prod.example/proxy/aws/1#one" || d.Principal != "alice" || d.Route != "shop/orders" || !d.Allow || d.Sequence != 1 {
		t.Errorf("kept is %+v", d)
	}
	m := f.read(d)
	if strings.Contains(m.String(), "secret") {
		t.Errorf("the record has a secret: %v", m)
	}
	if names := m.GetRequest().GetQueryNames(); !slices.Equal(names, []string{"token", "page"}) {
		t.Errorf("the query has the names %q", names)
	}
	for _, h := range m.GetRequest().GetHeaders() {
		if want := map[string]string{"User-Agent": "test"}[h.GetName()]; h.GetValue() != want {
			t.Errorf("of %s is recorded %q", h.GetName(), h.GetValue())
		}
	}
	if m.GetPrincipal().GetClaims() != `{"email":"alice@shop.example"}` || m.GetTimings().GetDecided().AsDuration() != 2*time.Millisecond ||
		m.GetTraceId() != "0a0000000000000000000000000000f1" {
		t.Errorf("the record is %v", m)
	}
}

// How a request ended is kept with its decision, whichever journals the two came
// in: once, and never without it.
func TestOutcomesReachTheDatabase(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.recorder("aws/1", courier.Config{}, r.url)
	ends := func(d *record.Decision, status int, reason string) {
		p.Finish(&record.Outcome{
			Time: d.Time.Add(time.Second), ID: d.ID, Status: status, Reason: reason, Sent: 7, Endpoint: "10.0.0.1:443", Took: time.Second, ClosedBy: d.Closes,
			Target: "orders.internal/v2", Upstream: "shop/next", Attempts: 2,
		})
	}
	short, long, required := decision(1, true), decision(2, true), decision(3, true)
	required.Closes = decision(9, false).ID
	if !p.Decide(long) {
		t.Error("the decision was not taken")
	}
	f.await(1)
	if f.read(f.kept()[0]).GetOutcome() != nil {
		t.Error("an end is known before it has come")
	}
	p.Decide(short)
	ends(short, 200, "")
	if err := p.Require(t.Context(), required); err != nil {
		t.Fatal(err)
	}
	ends(required, 403, "no_matching_policy")
	ends(long, 502, "upstream_failed")
	ends(decision(4, true), 200, "")
	told := func() (all []string) {
		for _, d := range f.kept() {
			m := f.read(d)
			o := m.GetOutcome()
			all = append(all, fmt.Sprintf("%s %d %s %t", m.GetRequest().GetPath(), o.GetStatus(), o.GetReason(), o.GetClosedBy() != ""))
		}
		slices.Sort(all)
		return all
	}
	want := []string{"/1 200  false", "/2 502 upstream_failed false", "/3 403 no_matching_policy true"}
	eventually(t, "all have ended", func() bool { return slices.Equal(told(), want) })
	if p.Dropped() != 0 {
		t.Errorf("%d records were dropped", p.Dropped())
	}
	o := f.read(f.kept()[0]).GetOutcome()
	if o.GetTook().AsDuration() != time.Second || o.GetSent() != 7 || o.GetEndpoint() != "10.0.0.1:443" || o.GetTime() == nil {
		t.Errorf("the outcome is %v", o)
	}
	if o.GetTarget() != "orders.internal/v2" || o.GetUpstream() != "shop/next" || o.GetAttempts() != 2 {
		t.Errorf("the outcome is %v", o)
	}
}

// Records wait in memory while the control plane, or its database, is away; they
// arrive once, whichever replica takes them, and what finds no room is counted.
func TestRecordsWaitForTheControlPlane(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.recorder("aws/1", courier.Config{Queue: 64 << 10}, r.url)
	p.Decide(decision(0, true))
	f.await(1)
	f.lost.Store(true)
	n := 1
	for ; p.Dropped() == 0; n++ {
		if n > 10000 {
			t.Fatal("the queue has no end")
		}
		began := time.Now()
		p.Decide(decision(n, true))
		if took := time.Since(began); took > 10*time.Second { // and it would be away for ever
			t.Errorf("a decision took %v while the database is away", took)
		}
	}
	r.stop()
	f.lost.Store(false)
	f.replica("one", r.url)
	f.await(n - 1)
	if got := len(slices.Compact(f.paths())); got != n-1 || p.Dropped() != 1 {
		t.Errorf("%d of %d different records are kept, %d dropped", got, n, p.Dropped())
	}
	p.Decide(decision(n, true))
	f.await(n)
}

// What must be recorded is safe before it is let through, also when the process is
// killed then; a full spool denies, and drains.
func TestRequiredRecords(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	dir := filepath.Join(t.TempDir(), "records")
	p := f.recorder("aws/1", courier.Config{SpoolDirectory: dir, SpoolLimit: 16 << 10}, "https://127.0.0.1:1")
	n := 0
	for ; p.Require(t.Context(), decision(n, true)) == nil; n++ {
		if n > 1000 {
			t.Fatal("the spool has no end")
		}
	}
	if n == 0 {
		t.Fatal("the spool takes nothing")
	}
	p.stop()
	r := f.replica("one")
	next := f.recorder("aws/1", courier.Config{SpoolDirectory: dir, SpoolLimit: 16 << 10}, r.url)
	f.await(n)
	eventually(t, "there is room again", func() bool { return next.Require(t.Context(), decision(n, true)) == nil })
	f.await(n + 1)
	if got := len(slices.Compact(f.paths())); got != n+1 {
		t.Errorf("%d different records are kept, want %d", got, n+1)
	}
}

// A flood of denials is counted, and nothing of it is lost.
func TestFloodsAreCounted(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.recorder("aws/1", courier.Config{}, r.url)
	const flood = 5000
	for n := range flood {
		p.Decide(decision(n, false))
	}
	quiet := decision(flood, false)
	quiet.Principal, quiet.ClientIP = nil, netip.MustParseAddr("198.51.100.9")
	p.Decide(quiet)
	counted := func() (sum int64) {
		for _, d := range f.kept() {
			sum += max(f.read(d).GetCount(), 1)
		}
		return sum
	}
	eventually(t, "all are counted", func() bool { return counted() == flood+1 })
	if got := len(f.kept()); got > 100 {
		t.Errorf("%d denials of one kind are %d records", flood, got)
	}
	if !slices.Contains(f.paths(), quiet.Path) {
		t.Error("a flood hid a denial of somebody else")
	}
}

// A sample of what is allowed says for how much it stands.
func TestSamples(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	began, passed := time.Now().Truncate(time.Second), time.Duration(0)
	p := f.recorder("aws/1", courier.Config{Now: func() time.Time { return began.Add(passed) }}, r.url)
	rule := &record.Rule{Rate: 3}
	for n := range 300 { // in three seconds
		d := decision(n, true)
		d.Rule, passed = rule, time.Duration(n)*10*time.Millisecond
		p.Decide(d)
	}
	none := decision(1, true)
	none.Rule = nil
	p.Decide(none)
	last := decision(9999, false)
	p.Decide(last)
	eventually(t, "the last record", func() bool { return slices.Contains(f.paths(), last.Path) })
	if got := len(f.kept()) - 1; got != 9 {
		t.Errorf("%d records of a sample of 3 a second, in 3 of them", got)
	}
	var sum int64
	for _, d := range f.kept() {
		sum += f.read(d).GetCount()
	}
	if want := int64(9 + 97 + 97 + 1); sum != want { // and of what is denied one
		t.Errorf("the sample stands for %d requests, want %d", sum, want)
	}
}

// Who is asked for pseudonyms keeps nothing that names a principal, and finds the
// same one again.
func TestPseudonyms(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	f.commit("{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}, spec: {records: {pseudonymise: true}}}")
	r := f.replica("one")
	px := f.proxy("aws/1", newTable(), r.url)
	eventually(t, "the revision is there", func() bool { return px.table.live.Load() != nil })
	p := f.recorder("aws/1", courier.Config{}, r.url)
	p.Decide(decision(1, true))
	proven := decision(2, true)
	proven.Values = []record.Value{{Field: `request.params["user"]`, Value: "alice"}}
	proven.Device = &principals.Device{ID: "laptop-of-alice", Owner: "alice", Expires: proven.Time.Add(time.Hour)}
	p.Decide(proven)
	named := principals.Clause{Part: principals.MissPrincipal, Text: "id: alice", Value: principals.True, Want: principals.False}
	denied := decision(3, false)
	denied.Principal = &principals.Principal{Kind: principals.User, ID: "alice", Beside: []*principals.Principal{{Kind: principals.User, ID: "alice"}}}
	denied.Explanation = principals.Explanation{
		Steps:   []principals.Step{{Policy: "shop/blocks", Effect: principals.Deny, Matched: true, Ways: []principals.Way{{named}}}},
		Changes: []principals.Change{{{Policy: "shop/blocks", Clause: named}}},
	}
	p.Decide(denied)
	f.await(3)
	nyms, err := decisions.NewPseudonyms(key(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.kept() {
		if d.Principal != nyms.Of("alice") || strings.Contains(string(d.Record), "alice") {
			t.Errorf("kept is %v", f.read(d))
		}
	}
	// That somebody used their own device can still be seen.
	device := f.read(f.kept()[1]).GetSignals().GetDevice()
	if device.GetId() != nyms.Of("laptop-of-alice") || device.GetOwner() != nyms.Of("alice") || !device.GetPseudonymised() {
		t.Errorf("the device is %v", device)
	}
}

// The fleet shows what a proxy could not keep for the control plane.
func TestDroppedRecordsAreShown(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.proxy("aws/1", newTable(), r.url)
	p.dropped.Store(7)
	r.await(p, "7 records were dropped", func(k *adminv1.Proxy) bool { return k.GetRecordsDropped() == 7 })
}

// A proxy that is not admitted has nothing kept, and another one's name is not to be
// had.
func TestWhoseRecords(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	stranger := f.recorder("nowhere/1", courier.Config{}, r.url)
	stranger.Decide(decision(1, true))
	p := f.recorder("gcp/1", courier.Config{}, r.url)
	ancient := decision(2, true)
	ancient.ID = "0153589a-1c00-7abc-8def-0123456789ab"
	p.Decide(ancient)
	p.Decide(decision(3, true))
	f.await(1)
	if d := f.kept()[0]; d.Environment != "gcp" || f.read(d).GetRequest().GetPath() != "/3" {
		t.Errorf("kept is %+v", d)
	}
	eventually(t, "the proxy knows of what was refused", func() bool { return p.Dropped() == 1 })
}

var recordsFor = flag.Duration("records", 2*time.Second, "how long 5,000 decisions a second are recorded")

// At 5,000 decisions a second, all of which are to be kept, none is dropped or doubled,
// and none waits.
func TestRecordsAtFiveThousandASecond(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.recorder("aws/1", courier.Config{}, r.url)
	const perSecond = 5000
	// The longest call, and the longest without the time in which it had no processor.
	var longest, own time.Duration
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	queued := runQueue(t)
	began, n := time.Now(), 0
	used := cpu(t)
	for ; time.Since(began) < *recordsFor; n++ {
		if due := began.Add(time.Duration(n) * time.Second / perSecond); time.Until(due) > time.Millisecond {
			<-time.After(time.Until(due))
		}
		d := decision(n, true)
		d.Path = "/" + strconv.Itoa(n)
		before := queued()
		start := time.Now()
		p.Decide(d)
		took := time.Since(start)
		longest, own = max(longest, took), max(own, took-(queued()-before))
	}
	rate := float64(n) / time.Since(began).Seconds()
	eventually(t, "all have arrived", func() bool { return f.count() >= n })
	if got := f.count(); got != n || p.Dropped() != 0 {
		t.Errorf("of %d decisions %d records are kept, %d were dropped", n, got, p.Dropped())
	}
	fmt.Printf("figure records_per_second %.0f 1/s\nfigure record_longest_wait_ms %.2f ms\nfigure record_longest_wait_with_processor_ms %.2f ms\n"+
		"figure record_both_planes_cpu_ns %d ns\n",
		rate, float64(longest.Microseconds())/1000, float64(own.Microseconds())/1000, (cpu(t)-used).Nanoseconds()/int64(n))
}

// runQueue returns for how long this thread, which is to be locked, has been ready
// to run and had no processor.
func runQueue(t *testing.T) func() time.Duration {
	t.Helper()
	f, err := os.Open("/proc/thread-self/schedstat")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var buf [64]byte
	return func() time.Duration {
		n, _ := f.ReadAt(buf[:], 0)
		fields := strings.Fields(string(buf[:n]))
		if len(fields) < 2 {
			t.Fatalf("schedstat says %q", buf[:n])
		}
		ns, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ns)
	}
}

// count says how many records the database has, page by page.
func (f *fleet) count() (n int) {
	f.Helper()
	p := storage.DecisionPage{Limit: 10000}
	for {
		found, err := f.records.Decisions(f.Context(), p)
		if err != nil {
			f.Fatal(err)
		}
		n += len(found)
		if len(found) < p.Limit {
			return n
		}
		p.After = &found[len(found)-1]
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
