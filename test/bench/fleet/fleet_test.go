package fleet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	// within bounds a change, and a reconnection.
	within = time.Minute
	// pace is the time between changes for each proxy, in which those who enforce
	// one write it to their disks. longestPace is for many of them: longer than any of
	// them waits with that.
	pace        = 4 * time.Millisecond
	longestPace = 4 * time.Second
)

// What is promised, by the number of proxies.
var promised = map[int]float64{1000: 250, 5000: 1500}

// Every simulated proxy enforces each change, by the digest of what was signed; and
// when the one replica dies that all are connected to, all go to the other, which
// publishes the next change, and enforce that.
func TestFleet(t *testing.T) {
	for _, n := range fleets(t) {
		t.Run(fmt.Sprint("proxies=", n), func(t *testing.T) { measure(t, n) })
	}
}

func measure(t *testing.T, n int) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // of the simulation, beside the control plane
	s := begin(t)
	r := newRelay(t, s.first.proxies)
	h := newHerd(t, s, n, []string{s.first.proxies, s.second.proxies}, []string{r.url(), s.second.proxies})
	revision := apply(t, s.first, fmt.Sprintf(ground, environment, fleet.TrustDomain)+policies(20))

	empty := s.first.memory(t)
	began := time.Now()
	h.start(t)
	figure(t, fmt.Sprint("connect_all_", n), since(began, h.enforced(t, revision)).max().Seconds(), "s", 0)
	proven(t, s.first, revision, n)

	h.change(t, s.first, r)
	figure(t, fmt.Sprint("replica_kib_per_proxy_", n), float64(s.first.memory(t)-empty)/float64(n), "KiB", 128)

	h.outlive(t, s, n)
}

// outlive kills the replica that all are connected to.
func (h *herd) outlive(t *testing.T, s *stage, n int) {
	t.Helper()
	s.second.start(t)
	killed := time.Now()
	must(t, s.first.Kill())
	revision := apply(t, s.second, policy("changing", "after the death of a replica"))
	took := since(killed, h.enforced(t, revision))
	proven(t, s.second, revision, n)
	figure(t, fmt.Sprint("reconnect_all_", n), took.max().Seconds(), "s", 30)
}

// enforced waits until all proxies have a revision in force, which they prove
// with the digest that was signed, and returns since when each has.
func (h *herd) enforced(t *testing.T, revision int64) []time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	defer cancel()
	at, err := h.marks.await(ctx, snapshot.Revision(revision))
	must(t, err)
	for _, p := range h.all {
		if head := p.live.Load().Head(); p.live.Load().EnforcedRoot() != head.Root || int64(head.Revision) < revision {
			t.Fatalf("proxy %d enforces revision %d with another root than was signed, or not revision %d", p.index, head.Revision, revision)
		}
	}
	return at
}

// change makes changes and says what they took.
func (h *herd) change(t *testing.T, r *replica, relay *relay) {
	t.Helper()
	n, pause := len(h.all), min(time.Duration(len(h.all))*pace, longestPace)
	if *profile != "" {
		wait := r.profile(t, *profile, time.Duration(*changes)*(pause+time.Second))
		defer wait()
	}
	var enforced, proof durations
	var ratio float64
	before, ours := r.cpu(t), cpu(t, os.Getpid())
	for i := range *changes {
		one := h.changeOnce(t, r, relay, i)
		enforced, proof = append(enforced, one.enforced...), append(proof, one.proof)
		ratio = max(ratio, float64(one.received)/float64(one.size))
		<-time.After(pause)
	}
	spent, simulated := r.cpu(t)-before, cpu(t, os.Getpid())-ours
	enforced.figures(t, "enforced", n, promised[n])
	proof.figures(t, "proven", n, 0)
	figure(t, fmt.Sprint("bytes_per_change_ratio_", n), ratio, "times", 2)
	figure(t, fmt.Sprint("replica_cpu_per_change_", n), float64(spent.Milliseconds())/float64(*changes), "ms", 0)
	figure(t, fmt.Sprint("proxies_cpu_per_change_", n), float64(simulated.Milliseconds())/float64(*changes), "ms", 0)
}

// changed is what one change took.
type changed struct {
	enforced       durations     // from the call of Apply, by proxy
	proof          time.Duration // to the proof that all enforce it
	size, received int           // bytes of the document, and what came to one proxy
}

func (h *herd) changeOnce(t *testing.T, r *replica, relay *relay, i int) (c changed) {
	t.Helper()
	text := policy("changing", fmt.Sprint("version ", i))
	c.size = size(t, text)
	before := relay.received.Load()
	began := time.Now()
	revision := apply(t, r, text)
	proven(t, r, revision, len(h.all))
	c.proof = time.Since(began)
	c.enforced = since(began, h.enforced(t, revision))
	c.received = int(relay.received.Load() - before)
	return c
}

func apply(t *testing.T, r *replica, text string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	revision, err := r.admin.Apply(ctx, text, "measure")
	must(t, err)
	return revision
}

// proven waits for the control plane's proof that n proxies enforce a revision.
func proven(t *testing.T, r *replica, revision int64, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	defer cancel()
	stream, err := r.admin.Fleet.WaitEnforced(ctx, connect.NewRequest(&adminv1.WaitEnforcedRequest{
		Revision: revision, Environments: []string{environment}, Timeout: durationpb.New(within),
	}))
	must(t, err)
	defer func() { _ = stream.Close() }() // its error is the stream's
	var last *adminv1.WaitEnforcedResponse
	for stream.Receive() {
		last = stream.Msg()
	}
	must(t, stream.Err())
	if got := last.GetEnvironments(); !last.GetDone() || len(got) != 1 || int(got[0].GetEnforced()) != n {
		t.Fatalf("not proven of %d proxies: %v", n, got)
	}
}

const ground = `apiVersion: sallyport/v1
kind: Environment
metadata: {name: %[1]s}
spec:
  configurationAge: {limit: 24h, action: SERVE}
---
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: %[1]s}
spec:
  spiffeId: spiffe://%[2]s/herd/*
  environment: %[1]s
`

func policies(n int) string {
	var all strings.Builder
	for i := range n {
		all.WriteString("---\n" + policy(fmt.Sprint("filler-", i), "filler"))
	}
	return all.String()
}

// policy is one of about a KiB.
func policy(name, what string) string {
	var groups strings.Builder
	for i := range 32 {
		fmt.Fprintf(&groups, "  - {group: \"%s of %s, team %d\"}\n", what, name, i)
	}
	return fmt.Sprintf(`apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: %s}
spec:
  routes: {names: [orders]}
  effect: DENY
  when: request.method == "DELETE" && signals.tls.version == "1.3"
  principals:
%s`, name, groups.String())
}

// size returns how many bytes proxies get of a resource.
func size(t *testing.T, text string) int {
	t.Helper()
	located, problems := resource.ParseYAML([]byte(text))
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0].String())
	}
	parsed, problems := resource.Decode(located[0].Resource)
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0].String())
	}
	document, err := resource.Encode(parsed)
	must(t, err)
	return len(document)
}

// durations are what something took, each time.
type durations []time.Duration

func since(began time.Time, at []time.Time) durations {
	all := make(durations, len(at))
	for i := range at {
		all[i] = at[i].Sub(began)
	}
	return all
}

func (d durations) max() time.Duration { return slices.Max(d) }

// figures prints p50, p99 and max in milliseconds; the limit is of p99.
func (d durations) figures(t *testing.T, name string, n int, limit float64) {
	t.Helper()
	slices.Sort(d)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	figure(t, fmt.Sprint(name, "_p50_", n), ms(d[len(d)/2]), "ms", 0)
	figure(t, fmt.Sprint(name, "_p99_", n), ms(d[len(d)*99/100]), "ms", limit)
	figure(t, fmt.Sprint(name, "_max_", n), ms(d[len(d)-1]), "ms", 0)
}

// relay passes connections on to a replica, and counts what comes from there.
type relay struct {
	net.Listener
	received atomic.Int64
}

func newRelay(t *testing.T, url string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{Listener: ln}
	background(t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return nil //nolint:nilerr // it is closed
			}
			go r.pass(conn, strings.TrimPrefix(url, "https://"))
		}
	})
	return r
}

func (r *relay) url() string { return "https://" + r.Addr().String() }

func (r *relay) pass(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client) // whoever ends it
		_ = server.Close()
	}()
	_, _ = io.Copy(counting{client, &r.received}, server)
}

// counting counts what is written.
type counting struct {
	io.Writer
	n *atomic.Int64
}

func (c counting) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}
