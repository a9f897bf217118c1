package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Every command of the README's tour is run as it stands there, and answers
// what the README says of it.
func TestReadmeTour(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "demo")); err == nil {
		t.Fatal("the folder demo is in the way: end the demo that runs there, and remove it")
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(root, "demo")) })
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := tour(string(readme))
	if len(blocks) < 6 || !strings.HasPrefix(blocks[0], "make demo") {
		t.Fatalf("the tour has %d blocks of commands and begins with %q", len(blocks), blocks[0])
	}
	startDemo(t, root, blocks[0])

	script := "set -eo pipefail\n" + strings.Join(blocks[1:], "echo\necho '=== next block'\n")
	tour := exec.CommandContext(within(t, 2*time.Minute), "bash", "-c", script)
	tour.Dir = root
	output, err := tour.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Logf("%s", output)
	said := strings.Split(string(output), "\n=== next block\n")
	for i, want := range [][]string{
		{},
		{`"path":"/v1/orders/7"`, `"reason":"no_matching_policy"`},
		{"created", "delete-orders", "is enforced by 1 of 1", `"method":"DELETE"`},
		{"aws-demo", "gcp-demo", "ENFORCED", "shop deletes its orders", "kind: Policy"},
		{"CHANGE_TYPE_DELETED"},
		{"undefined field", "standard input:", "nothing was changed", "refused"},
	} {
		for _, text := range want {
			if !strings.Contains(said[i], text) {
				t.Errorf("block %d does not say %q:\n%s", i+2, text, said[i])
			}
		}
	}
}

// tour returns the blocks of shell commands of the tour.
func tour(readme string) []string {
	_, text, _ := strings.Cut(readme, "\n## Five-minute tour\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var blocks []string
	for {
		_, rest, found := strings.Cut(text, "\n```sh\n")
		if !found {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "```\n")
		blocks, text = append(blocks, block), "\n"+after
	}
}

// startDemo runs the command that starts the demo, and waits for its
// description.
func startDemo(t *testing.T, root, command string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "demo.txt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	said := func() string {
		b, _ := os.ReadFile(log.Name()) // it is there
		return string(b)
	}
	demo := exec.Command("bash", "-c", "exec "+command)
	demo.Dir, demo.Stdout, demo.Stderr = root, log, log
	demo.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = demo.Wait(); close(done) }() // it is ended by a signal
	t.Cleanup(func() {
		_ = syscall.Kill(-demo.Process.Pid, syscall.SIGINT)
		<-done
		if t.Failed() {
			t.Logf("the demo said:\n%s", said())
		}
	})
	eventually(t, 3*time.Minute, func(context.Context) (bool, string) {
		select {
		case <-done:
			t.Fatal("the demo has ended")
		default:
		}
		return strings.Contains(said(), "It stays up"), "the demo is not up"
	})
}
