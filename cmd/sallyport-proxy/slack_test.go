package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const relaxed = "SALLYPORT_TEST_RELAX"

func TestMain(m *testing.M) {
	if os.Getenv(relaxed) == "" {
		os.Exit(m.Run())
	}
	relax()
	given, _ := io.ReadAll(os.NewFile(3, "given"))
	fmt.Println(os.Getpid(), slackOf(), os.Args[1:], string(given))
}

// A process has its slack from its first thread on, and is the same otherwise.
func TestRelax(t *testing.T) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	var out strings.Builder
	c := exec.Command(os.Args[0], "one", "two words")
	c.Env, c.Stdout, c.ExtraFiles = append(os.Environ(), relaxed+"=1"), &out, []*os.File{ours}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(theirs, "given"); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintln(c.Process.Pid, slack, []string{"one", "two words"}, "given"); out.String() != want {
		t.Errorf("the process is %q, want %q", out.String(), want)
	}
}
