package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	writers = 10
	// perWriter is how many policies a writer changes in turn.
	perWriter = 100
	// writersPause is between two changes of one writer: the machine is for what
	// is tested.
	writersPause = 200 * time.Millisecond
)

// journal is what writers were told. It is safe for concurrent use.
type journal struct {
	mu       sync.Mutex
	answered map[int64]string // message by revision
	newest   map[string]int64 // revision by name of the policy
}

func newJournal() *journal { return &journal{answered: map[int64]string{}, newest: map[string]int64{}} }

func (j *journal) note(revision int64, name, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.answered[revision] = message
	j.newest[name] = max(j.newest[name], revision)
}

// write has ten writers apply policies until what it returns is called.
func (s *stage) write(t *testing.T) (end func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			tick := time.NewTicker(writersPause)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				// What is not answered is not in the journal, whatever became of it.
				_, _ = s.apply(ctx, fmt.Sprintf("w%d-%d", w, i%perWriter), fmt.Sprintf("w%d: %d", w, i))
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	end = func() { stop(); writing.Wait() }
	t.Cleanup(end)
	return end
}

// judged compares what was answered with what is there, waits for proof that all
// proxies enforce the newest revision, and reads what each of them put in force.
func (s *stage) judged(t *testing.T) {
	t.Helper()
	s.settled(t)
	history := s.history(t)
	lost := 0
	for revision, message := range s.journal.answered {
		if revision > int64(len(history)) || history[revision-1].GetMessage() != message {
			t.Errorf("%q was answered with revision %d, which is not it", message, revision)
			lost++
		}
	}
	stored := s.stored(t)
	for name, revision := range s.journal.newest {
		if stored[name] < revision { // later, where the answer of a commit was lost
			t.Errorf("%s was answered with revision %d, and is stored at %d", name, revision, stored[name])
			lost++
		}
	}
	figure(t, "applies_answered", float64(len(s.journal.answered)), "applies", 0)
	figure(t, "applies_lost", float64(lost), "applies", 0)
	last := history[len(history)-1].GetRevision()
	eventually(t, patience, func(ctx context.Context) (bool, string) {
		err := s.Admin.Enforced(ctx, last, s.Environments()...)
		return err == nil, fmt.Sprintf("revision %d is not enforced: %v", last, err)
	})
	for _, m := range s.Members {
		checkApplied(t, m, history)
	}
}

// history returns all revisions, oldest first, none of which is missing.
func (s *stage) history(t *testing.T) (all []*adminv1.Revision) {
	t.Helper()
	req := &adminv1.ListRevisionsRequest{PageSize: 1000}
	for {
		res, err := s.Admin.Config.ListRevisions(t.Context(), connect.NewRequest(req))
		must(t, err)
		all = append(all, res.Msg.GetRevisions()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	slices.Reverse(all)
	for i, r := range all {
		if r.GetRevision() != int64(i+1) {
			t.Fatalf("revision %d stands in place %d", r.GetRevision(), i+1)
		}
	}
	return all
}

// stored returns the revision of each policy by name.
func (s *stage) stored(t *testing.T) map[string]int64 {
	t.Helper()
	stored := map[string]int64{}
	req := &adminv1.ListRequest{Kind: "Policy", PageSize: 1000}
	for {
		res, err := s.Admin.Config.List(t.Context(), connect.NewRequest(req))
		must(t, err)
		for _, r := range res.Msg.GetResources() {
			stored[r.GetResource().GetMetadata().GetName()] = r.GetRevision()
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return stored
		}
	}
}

// entry is a line of a proxy's log.
type entry struct {
	Message     string `json:"msg"`
	Environment string `json:"environment"`
	From        int64  `json:"from"`
	Revision    int64  `json:"revision"`
}

// checkApplied reads what a proxy put in force over all its lives. Each step
// begins where the one before has ended, leads forward, and ends at a revision
// that touches the environment: what lies between was merged into it. A new life
// begins with what is on disk, and takes nothing that is older than what was
// enforced before.
func checkApplied(t *testing.T, m *fleet.Member, history []*adminv1.Revision) {
	t.Helper()
	log, err := os.ReadFile(m.Log)
	must(t, err)
	var at, highest int64 // what is enforced, and was at most
	count := 0
	for line := range bytes.Lines(log) {
		var e entry
		if json.Unmarshal(line, &e) != nil || e.Environment != m.Environment {
			continue
		}
		switch e.Message {
		case "last-good snapshot enforced":
			at = e.Revision
		case "snapshot applied":
			touches := e.Revision <= int64(len(history)) && slices.Contains(history[e.Revision-1].GetEnvironments(), m.Environment)
			if e.From != at || e.Revision <= at || e.Revision < highest || !touches {
				t.Errorf("%s, at revision %d and before at %d, went from %d to %d (which touches it: %v)",
					m.Name, at, highest, e.From, e.Revision, touches)
			}
			at, highest = e.Revision, e.Revision
			count++
		}
	}
	if count == 0 {
		t.Errorf("%s applied nothing", m.Name)
	}
	figure(t, "applied_"+m.Name, float64(count), "snapshots", 0)
}
