package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// points are the places between a request and the acknowledgement of proxies
// at which the control plane is killed.
var points = []string{
	"apply.received", "apply.planned",
	"commit.locked", "commit.rechecked", "commit.inserted", "commit.committing", "commit.committed",
	"apply.answering",
	"publish.signed", "publish.recorded", "publish.chunks", "publish.head", "publish.cursor",
	"stream.pushed", "stream.acked",
}

var (
	hitsPerPoint = flag.Int("hits", 3, "how often the control plane is killed at each `point`")
	randomKills  = flag.Int("kills", 50, "how often it is killed at random instants")
)

const (
	writers = 4
	// perWriter is how many policies a writer changes in turn: however long it
	// goes on, what is killed is a fleet of some thousand policies.
	perWriter = 1000
)

// An Apply that was answered survives the death of the control plane at any
// step and at any instant, and reaches both proxies. No revision is skipped,
// doubled or reordered.
func TestAcknowledgedAppliesSurviveKills(t *testing.T) {
	f := start(t)
	if err := f.ControlPlane.Stop(); err != nil {
		t.Fatal(err)
	}
	load := newLoad(f)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	for i := range writers {
		running.Go(func() { load.write(ctx, i) })
	}

	running.Go(func() { load.revoke(ctx) })

	hits := map[string]int{}
	for range *hitsPerPoint {
		for _, point := range points {
			// Not always the first time: steps fall together differently.
			armedPoint := fmt.Sprintf("%s=%d", point, 1+rand.N(3))
			if err := f.ControlPlane.Start(armed(armedPoint)); err != nil {
				t.Fatal(err)
			}
			select {
			case <-f.ControlPlane.Done():
			case <-time.After(time.Minute):
				t.Fatalf("%s was not reached", armedPoint)
			}
			hits[point]++
		}
	}
	for range *randomKills {
		if err := f.ControlPlane.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-time.After(rand.N(1500 * time.Millisecond)):
		case <-f.ControlPlane.Done():
			t.Fatal("the control plane ended by itself")
		}
		if err := f.ControlPlane.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ControlPlaneReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	running.Wait()

	checkHits(t, f, hits)
	history := gapless(t, f)
	checkNothingLost(t, f, load, history)
	checkHistory(t, f, history)
	checkRevocations(t, f, load)
	for _, m := range f.Members {
		checkOrder(t, m)
	}
}

// load applies policies, each time with a message of its own, and remembers
// what was answered.
type load struct {
	fleet *fleet.Fleet

	mu       sync.Mutex
	answered map[int64]string // message by revision
	newest   map[string]int64 // revision by name of the policy
	revoked  map[string]int64 // security sequence by name of the revocation
}

func newLoad(f *fleet.Fleet) *load {
	return &load{fleet: f, answered: map[int64]string{}, newest: map[string]int64{}, revoked: map[string]int64{}}
}

func (l *load) write(ctx context.Context, writer int) {
	for i := 0; ctx.Err() == nil; i++ {
		name, message := fmt.Sprintf("w%d-%d", writer, i%perWriter), fmt.Sprintf("w%d: %d", writer, i)
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		revision, err := l.fleet.Admin.Apply(one, policyAgainst(name, fmt.Sprintf("g%d-%d", writer, i)), message)
		cancel()
		if err == nil {
			l.mu.Lock()
			l.answered[revision], l.newest[name] = message, revision
			l.mu.Unlock()
			continue
		}
		select { // the control plane is down
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func policyNamed(name string) string { return policyAgainst(name, name) }

func policyAgainst(name, group string) string {
	return `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: ` + name + `}
spec:
  routes: {names: [orders]}
  effect: DENY
  principals: [{group: ` + group + `}]
`
}

func checkHits(t *testing.T, f *fleet.Fleet, hits map[string]int) {
	t.Helper()
	log, err := os.ReadFile(f.ControlPlane.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range points {
		said := bytes.Count(log, []byte("failpoint "+point+"\n"))
		t.Logf("failpoint %-18s hit %d times", point, said)
		if said < *hitsPerPoint || said != hits[point] {
			t.Errorf("failpoint %s: %d hits, want %d", point, said, hits[point])
		}
	}
	t.Logf("and %d kills at random instants", *randomKills)
	fmt.Printf("figure e2e_kills %d kills\n", len(points)**hitsPerPoint+*randomKills)
}

// checkNothingLost compares what was answered with what is there, and waits
// until both proxies prove the newest revision.
func checkNothingLost(t *testing.T, f *fleet.Fleet, l *load, history []*adminv1.Revision) {
	t.Helper()
	lost := 0
	for revision, message := range l.answered {
		if revision > int64(len(history)) || history[revision-1].GetMessage() != message {
			t.Errorf("%q was answered with revision %d, which is not it", message, revision)
			lost++
		}
	}
	stored := storedOf(t, f, "Policy")
	for name, revision := range l.newest {
		// Later, where an Apply was committed whose answer died.
		if stored[name] < revision {
			t.Errorf("%s was answered with revision %d, and is stored at %d", name, revision, stored[name])
			lost++
		}
	}
	fmt.Printf("figure e2e_applies_answered %d applies\nfigure e2e_applies_lost %d applies\n", len(l.answered), lost)
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What was committed in lives too short to publish it waits to be signed,
	// revision by revision.
	began, last := time.Now(), newest(t, f)
	eventually(t, 2*time.Minute, func(ctx context.Context) (bool, string) {
		err := f.Admin.Enforced(ctx, last, f.Environments()...)
		return err == nil, fmt.Sprintf("revision %d is not enforced: %v", last, err)
	})
	fmt.Printf("figure e2e_catch_up %.1f s\n", time.Since(began).Seconds())
}

// storedOf returns the revision, or sequence, of each resource of a kind by name.
func storedOf(t *testing.T, f *fleet.Fleet, kind string) map[string]int64 {
	t.Helper()
	stored := map[string]int64{}
	req := &adminv1.ListRequest{Kind: kind, PageSize: 1000}
	for {
		res, err := f.Admin.Config.List(within(t, 10*time.Second), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.Msg.GetResources() {
			stored[r.GetResource().GetMetadata().GetName()] = r.GetRevision()
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return stored
		}
	}
}

func newest(t *testing.T, f *fleet.Fleet) int64 {
	t.Helper()
	res, err := f.Admin.Config.ListRevisions(within(t, 10*time.Second), connect.NewRequest(&adminv1.ListRevisionsRequest{PageSize: 1}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetRevisions()[0].GetRevision()
}

// checkOrder reads from a proxy's log which revisions it put in force, over
// all its lives: in each lane they only ever grow.
func checkOrder(t *testing.T, m *fleet.Member) {
	t.Helper()
	b, err := os.ReadFile(m.Log)
	if err != nil {
		t.Fatal(err)
	}
	last, count := map[string]int64{}, 0
	for line := range bytes.Lines(b) {
		var entry struct {
			Message     string      `json:"msg"`
			Environment string      `json:"environment"` // or the security lane
			Revision    json.Number `json:"revision"`
		}
		if json.Unmarshal(line, &entry) != nil || entry.Message != "snapshot applied" {
			continue
		}
		revision, err := strconv.ParseInt(entry.Revision.String(), 10, 64)
		if err != nil {
			t.Fatalf("%s: %q", m.Label, line)
		}
		if count++; revision <= last[entry.Environment] {
			t.Errorf("%s applied revision %d of %s after %d", m.Label, revision, entry.Environment, last[entry.Environment])
		}
		last[entry.Environment] = revision
	}
	t.Logf("%s applied %d snapshots", m.Label, count)
	if count == 0 {
		t.Errorf("%s applied nothing", m.Label)
	}
}
