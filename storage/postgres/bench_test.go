package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// large returns a fleet of 100,000 routes of about half a kilobyte, in five
// revisions, and one environment.
func large(b *testing.B) fleet {
	b.Helper()
	f := open(b)
	f.apply(b, environment("aws"))
	for round := range 5 {
		changes := make([]storage.Change, 20_000)
		for i := range changes {
			changes[i] = route(round*len(changes)+i, 0)
		}
		f.apply(b, changes...)
	}
	alter(b, f.dsn, `vacuum analyze`) // as autovacuum would
	return f
}

func route(i, version int) storage.Change {
	k := resource.Key{Kind: resource.KindRoute, Namespace: fmt.Sprintf("team-%02d", i%50), Name: fmt.Sprintf("route-%06d", i)}
	return put(k.String(), "aws", fmt.Sprintf("%s %d %s", k, version, strings.Repeat("x", 450)))
}

// figure measures each call of f and prints the median and the 99th percentile.
func figure(b *testing.B, name string, f func()) {
	b.Helper()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		f()
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	for suffix, d := range map[string]time.Duration{"p50": took[len(took)/2], "p99": took[len(took)*99/100]} {
		b.Logf("figure %s_%s %.2f ms", name, suffix, float64(d.Microseconds())/1000)
	}
}

func BenchmarkCommit(b *testing.B) {
	f := large(b)
	at := f.position(b)
	b.Run("one of 100,000", func(b *testing.B) {
		i := 0
		figure(b, "postgres_commit_1_of_100k", func() {
			i++
			at = f.applyAt(b, at, route(i*7919%100_000, i))
		})
	})
	b.Run("20,000 of 100,000", func(b *testing.B) {
		i := 0
		figure(b, "postgres_commit_20k_of_100k", func() {
			i++
			changes := make([]storage.Change, 20_000)
			for j := range changes {
				changes[j] = route(j*5, -i)
			}
			at = f.applyAt(b, at, changes...)
		})
	})
}

func (f fleet) position(b testing.TB) snapshot.Revision {
	b.Helper()
	p, err := f.Position(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return p.Revision
}

// applyAt commits changes that were checked against the newest revision.
func (f fleet) applyAt(b testing.TB, at snapshot.Revision, changes ...storage.Change) snapshot.Revision {
	b.Helper()
	c, err := f.Commit(b.Context(), storage.Commit{Base: at, Changes: changes}, ignore)
	if err != nil {
		b.Fatal(err)
	}
	return c.Revision
}

func BenchmarkRead(b *testing.B) {
	f := large(b)
	at := f.position(b)
	for i := range 1000 { // a fleet has a past
		at = f.applyAt(b, at, route(i%10, i+1))
	}
	for name, read := range map[string]func() (int, error){
		"since_0": func() (int, error) { v, _, err := f.Since(b.Context(), 0); return len(v) - 100_001, err },
		"since_10_revisions_ago": func() (int, error) {
			v, _, err := f.Since(b.Context(), at-10)
			return len(v) - 10, err
		},
		"environment_state": func() (int, error) {
			v, err := f.EnvironmentState(b.Context(), "aws", at)
			return len(v) - 100_001, err
		},
		"environment_100_revisions": func() (int, error) {
			v, err := f.EnvironmentRevisions(b.Context(), "aws", at-100, 100)
			return len(v) - 100, err
		},
		"list_100": func() (int, error) {
			v, _, err := f.List(b.Context(), storage.Filter{Kind: "Route", After: route(4711, 0).Key, Limit: 100})
			return len(v) - 100, err
		},
		"heads": func() (int, error) { v, err := f.Heads(b.Context()); return len(v) - 2, err }, // aws, and the security lane
	} {
		b.Run(name, func(b *testing.B) {
			figure(b, "postgres_"+name+"_of_100k", func() {
				if off, err := read(); err != nil || off != 0 {
					b.Fatalf("%d too many, %v", off, err)
				}
			})
		})
	}
}
