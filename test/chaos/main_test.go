package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	// What the programs are made of, so that no result is taken from the cache of
	// tests when it has changed.
	_ "github.com/sallyport/sallyport/controlplane"
	_ "github.com/sallyport/sallyport/dataplane"
)

var (
	kills   = flag.Int("kills", 20, "how many processes are killed at random instants")
	lasting = flag.Duration("lasting", 40*time.Second, "the time over which they are")
	judge   = flag.Bool("judge", false, "fail where a figure is not what is promised")
)

// bin holds our programs, built once, with failpoints.
var bin string

func TestMain(m *testing.M) {
	if text := os.Getenv(memberVariable); text != "" {
		os.Exit(beMember(text))
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sallyport-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for _, name := range []string{"sallyport-controlplane", "sallyport-proxy"} {
		build := exec.Command("go", "build", "-pgo=off", "-tags", "failpoint", "-o", filepath.Join(bin, name), "github.com/sallyport/sallyport/cmd/"+name)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", name, err)
			return 1
		}
	}
	return m.Run()
}

// folder returns a folder for the test, and shows the logs in it should the test
// fail.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-chaos-") // short: sockets have short paths
	must(t, err)
	t.Cleanup(func() {
		logs, _ := filepath.Glob(filepath.Join(dir, "*.log")) // the pattern is well-formed
		for _, file := range logs {
			if b, err := os.ReadFile(file); err == nil && t.Failed() {
				t.Logf("--- the end of %s\n%s", filepath.Base(file), b[max(0, len(b)-3000):])
			}
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

// eventually asks until ok, or fails the test with what was last answered.
func eventually(t *testing.T, d time.Duration, ask func(ctx context.Context) (ok bool, answer string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, answer := ask(ctx)
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s: %s", d, answer)
		case <-tick.C:
		}
	}
}

// figure prints a figure; with -judge it is an error beyond a limit. No limit is
// zero.
func figure(t *testing.T, name string, value float64, unit string, limit float64) {
	t.Helper()
	fmt.Printf("figure chaos_%s %.2f %s\n", name, value, unit)
	if *judge && limit > 0 && value > limit {
		t.Errorf("%s is %.2f %s, and %.2f at most is promised", name, value, unit, limit)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
