package fleet_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	// What the programs are made of, so that no result is taken from the cache of
	// tests when it has changed.
	_ "github.com/sallyport/sallyport/controlplane"
	_ "github.com/sallyport/sallyport/dataplane"
)

var (
	sizes   = flag.String("proxies", "20", "how many simulated proxies a replica serves, one fleet after another")
	changes = flag.Int("changes", 3, "how many changes of a policy are measured in each fleet")
	profile = flag.String("profile", "", "the file that a profile of the replica's processor goes to, through the changes")
	judge   = flag.Bool("judge", false, "fail where a figure is not what is promised")
)

// bin holds our programs as they are released, built once.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sallyport-fleet-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	for _, name := range []string{"sallyport-controlplane", "sallyport-proxy"} {
		build := exec.Command("go", "build", "-o", filepath.Join(bin, name), "github.com/sallyport/sallyport/cmd/"+name)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build", name, err)
			return 1
		}
	}
	return m.Run()
}

// fleets are the sizes of the fleets that are measured.
func fleets(t *testing.T) (all []int) {
	t.Helper()
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("-proxies %s: %q is no number of proxies", *sizes, text)
		}
		all = append(all, n)
	}
	return all
}

// figure prints a figure; with -judge it is an error beyond a limit. No limit is
// zero.
func figure(t *testing.T, name string, value float64, unit string, limit float64) {
	t.Helper()
	fmt.Printf("figure %s %.2f %s\n", name, value, unit)
	if *judge && limit > 0 && value > limit {
		t.Errorf("%s is %.2f %s, and %.2f at most is promised", name, value, unit, limit)
	}
}
