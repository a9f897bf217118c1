package spool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/record/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a spool that runs until it is killed.
type process struct {
	*spool.Spool
	kill func()
}

func start(t *testing.T, dir string, limit int64) process {
	t.Helper()
	s, err := spool.New(spool.Config{Directory: dir, Limit: limit, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Load(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	kill := sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(kill)
	return process{s, kill}
}

func (p process) append(t *testing.T, records ...string) {
	t.Helper()
	for _, r := range records {
		if err := p.Append(t.Context(), []byte(r)); err != nil {
			t.Fatal(err)
		}
	}
}

// takeAll empties the spool, and returns each record with its place.
func (p process) takeAll(t *testing.T, most int) (all []string) {
	t.Helper()
	for {
		b, ok := p.Take(most)
		if !ok {
			return all
		}
		for i, r := range b.Records {
			all = append(all, fmt.Sprintf("%d:%s", b.First+int64(i), r))
		}
		p.Done(b)
	}
}

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, 0)
	if got := p.takeAll(t, 1); len(got) != 0 {
		t.Errorf("an empty spool has %q", got)
	}
	p.append(t, "a", "b")
	if got := fmt.Sprint(p.takeAll(t, 1)); got != "[1:a 2:b]" {
		t.Errorf("taken were %s", got)
	}
	p.append(t, "c")
	b, ok := p.Take(1)
	if !ok || b.First != 3 {
		t.Errorf("after two comes %+v", b)
	}
	p.kill() // nobody said that c is kept elsewhere
	next := start(t, dir, 0)
	// What was taken is taken again with what was not, and from the same places.
	if got := fmt.Sprint(next.takeAll(t, 1)); got != "[1:a 2:b 3:c]" {
		t.Errorf("the next process took %s", got)
	}
	if next.Size() != 0 {
		t.Errorf("an empty spool takes %d bytes", next.Size())
	}
	if err := p.Append(t.Context(), []byte("late")); !errors.Is(err, spool.ErrEnded) {
		t.Errorf("after the end: %v", err)
	}
}

// A killed process leaves a record that is not whole: nobody was told that it is
// safe, and those before it are.
func TestTornEnd(t *testing.T) {
	for cut := range 10 {
		dir := t.TempDir()
		p := start(t, dir, 0)
		p.append(t, "whole", "torn!")
		p.kill()
		files, _ := filepath.Glob(filepath.Join(dir, "*.spool"))
		info, err := os.Stat(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(files[0], info.Size()-int64(cut)); err != nil {
			t.Fatal(err)
		}
		want := "[1:whole]"
		if cut == 0 {
			want = "[1:whole 2:torn!]"
		}
		next := start(t, dir, 0)
		if got := fmt.Sprint(next.takeAll(t, 1000)); got != want {
			t.Errorf("less %d bytes: %s, want %s", cut, got, want)
		}
		next.kill()
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, 0)
	p.append(t, "first", "second")
	p.kill()
	files, _ := filepath.Glob(filepath.Join(dir, "*.spool"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "strange.spool"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next := start(t, dir, 0)
	if got := fmt.Sprint(next.takeAll(t, 1000)); got != "[1:first]" {
		t.Errorf("taken were %s", got)
	}
}

// A full spool takes nothing, until somebody has taken of it.
func TestFullSpool(t *testing.T) {
	p := start(t, t.TempDir(), 8000)
	record := strings.Repeat("x", 92) // 100 bytes with its header
	n := 0
	for ; ; n++ {
		if err := p.Append(t.Context(), []byte(record)); err != nil {
			if !errors.Is(err, spool.ErrFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if n != 80 {
		t.Errorf("a spool of 8000 bytes took %d records of 100", n)
	}
	if got := p.takeAll(t, 1000); len(got) != n {
		t.Errorf("taken were %d of %d", len(got), n)
	}
	for i := range 70 {
		if err := p.Append(t.Context(), []byte(record)); err != nil {
			t.Fatalf("the record number %d after all was taken: %v", i, err)
		}
	}
	if got := p.takeAll(t, 1000); len(got) != 70 || !strings.HasPrefix(got[0], "81:") {
		t.Errorf("taken were %d, the first %.10s", len(got), got[0])
	}
}

func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, 1<<20)
	var g sync.WaitGroup
	for w := range 16 {
		g.Go(func() {
			for i := range 50 {
				if err := p.Append(t.Context(), fmt.Appendf(nil, "%d-%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	var got []string
	for _, r := range p.takeAll(t, 500) {
		_, r, _ = strings.Cut(r, ":")
		got = append(got, r)
	}
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != 800 {
		t.Errorf("taken were %d, want 800", n)
	}
}

// A directory that cannot be written fails those who append, and the next ones find
// it mended.
func TestTrouble(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	p := start(t, dir, 0)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := p.Append(t.Context(), []byte("a")); err == nil {
		t.Error("a record is safe in a directory that is not there")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.append(t, "b")
	if got := p.takeAll(t, 1000); len(got) != 1 || !strings.HasSuffix(got[0], ":b") {
		t.Errorf("taken were %q", got)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, 0)
	s, err := spool.New(spool.Config{Directory: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Load(); err == nil {
		t.Error("two processes have one spool")
	}
}
