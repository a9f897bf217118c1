package bench_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// samples is how many changes are measured at least: a 99th percentile needs
// some hundreds.
const samples = 300

// BenchmarkEnforced measures the time from calling Apply with a change of one
// policy to holding the proof that both proxies of a fleet enforce it.
func BenchmarkEnforced(b *testing.B) {
	f := start(b)
	for _, policies := range []int{1, 1000} {
		fill(b, f, policies)
		b.Run(fmt.Sprintf("policies=%d", policies), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = append(took, change(b, f, len(took)))
			}
			for len(took) < samples {
				took = append(took, change(b, f, len(took)))
			}
			slices.Sort(took)
			p50, p99 := took[len(took)/2], took[len(took)*99/100]
			b.ReportMetric(milliseconds(p50), "p50-ms")
			b.ReportMetric(milliseconds(p99), "p99-ms")
			name := fmt.Sprintf("enforced_p99_demo_%d_policies", policies)
			if policies == 1000 {
				name = "enforced_p99_demo"
			}
			fmt.Printf("\ncommit to enforced by both proxies, %d policies, %d changes: p50 %.1f ms, p99 %.1f ms, max %.1f ms\n",
				policies, len(took), milliseconds(p50), milliseconds(p99), milliseconds(took[len(took)-1]))
			fmt.Printf("figure %s %.1f ms\n", name, milliseconds(p99))
		})
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// change applies one policy with a new content, and waits for the proof.
func change(b *testing.B, f *fleet.Fleet, i int) time.Duration {
	b.Helper()
	began := time.Now()
	revision, err := f.Admin.Apply(b.Context(), policy("changing", fmt.Sprintf("group-%d", i)), "change")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Admin.Enforced(b.Context(), revision, f.Environments()...); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// fill applies as many policies as there are to be beside the one that changes.
func fill(b *testing.B, f *fleet.Fleet, n int) {
	b.Helper()
	var all []string
	for i := range n {
		all = append(all, policy(fmt.Sprintf("filler-%d", i), fmt.Sprintf("filler-%d", i)))
	}
	revision, err := f.Admin.Apply(b.Context(), strings.Join(all, "---\n"), "fill")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Admin.Enforced(b.Context(), revision, f.Environments()...); err != nil {
		b.Fatal(err)
	}
}

func policy(name, group string) string {
	return fmt.Sprintf(`apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: %s}
spec:
  routes: {names: [orders]}
  effect: DENY
  principals: [{group: %s}]
  when: request.method == "DELETE" && signals.tls.version == "1.3"
`, name, group)
}

// start builds the binaries as they are released and runs a fleet of them.
func start(b *testing.B) *fleet.Fleet {
	b.Helper()
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, name := range []string{"sallyport-controlplane", "sallyport-proxy"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/sallyport/sallyport/cmd/"+name)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			b.Fatal(err)
		}
	}
	f, err := fleet.Start(b.Context(), fleet.Config{Dir: dir, Bin: dir, Log: slog.New(slog.DiscardHandler)})
	b.Cleanup(func() {
		if err := f.Stop(); err != nil {
			b.Error(err)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	return f
}
