package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/failpoint"

	// What the binaries are made of, so that no result is taken from the cache
	// of tests when it has changed.
	_ "github.com/sallyport/sallyport/controlplane"
	_ "github.com/sallyport/sallyport/dataplane"
)

// bin holds our binaries, built once, with failpoints.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv(attackerVariable) != "" {
		beAttacker()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sallyport-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for _, name := range []string{"sallyport", "sallyport-controlplane", "sallyport-proxy"} {
		args := []string{"build", "-pgo=off", "-tags", "failpoint", "-o", filepath.Join(bin, name)}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "github.com/sallyport/sallyport/cmd/"+name)...)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", name, err)
			return 1
		}
	}
	return m.Run()
}

// start runs a fleet for the test.
func start(t testing.TB) *fleet.Fleet {
	t.Helper()
	return startWith(t, nil)
}

// startWith runs a fleet with the given identities, or those of the
// development issuer when they are nil.
func startWith(t testing.TB, identities fleet.Identities) *fleet.Fleet {
	t.Helper()
	f, err := fleet.Start(t.Context(), fleet.Config{
		Dir: folder(t), Bin: bin, Log: slog.New(slog.DiscardHandler), Identities: identities,
	})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// folder returns a folder for the test, and shows the logs in it should the
// test fail.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-e2e-") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, dir)
		}
		_ = os.RemoveAll(dir)
	})
	return dir
}

func showLogs(t testing.TB, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log")) // the pattern is well-formed
	for _, file := range logs {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		t.Logf("--- the end of %s\n%s", filepath.Base(file), b[max(0, len(b)-4000):])
	}
}

// busy is how many times longer than elsewhere a step may take on a machine that has
// other work as well. Only what fails takes as long.
const busy = 3

// within returns a context for one step of a test, which takes up to d on a machine that
// has nothing else to do.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), busy*d)
	t.Cleanup(cancel)
	return ctx
}

// armed is the variable that arms a failpoint.
func armed(name string) string { return failpoint.Variable + "=" + name }

// eventually asks until ok, or fails the test with what was last answered.
func eventually(t *testing.T, d time.Duration, ask func(ctx context.Context) (ok bool, answer string)) {
	t.Helper()
	ctx := within(t, d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, answer := ask(ctx)
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s: %s", busy*d, answer)
		case <-tick.C:
		}
	}
}
