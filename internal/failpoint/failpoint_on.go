//go:build failpoint

// Package failpoint marks the places at which tests of the real binaries kill
// a process or make a part of it misbehave. Without the build tag "failpoint",
// as in every release, it compiles to nothing.
package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable is the environment variable that names one failpoint: "name" or,
// to strike at the Nth time it is reached, "name=N".
const Variable = "SALLYPORT_FAILPOINT"

var (
	armed, strikeAt = parse(os.Getenv(Variable))
	reached         atomic.Int64
)

func parse(s string) (name string, n int64) {
	name, count, ok := strings.Cut(s, "=")
	if !ok {
		return name, 1
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		panic("failpoint: " + Variable + " is name or name=N, got " + strconv.Quote(s))
	}
	return name, n
}

// Hit kills the process with SIGKILL, after a line on standard error, when the
// named failpoint is armed and was reached as often as asked for.
func Hit(name string) {
	if name != armed || reached.Add(1) != strikeAt {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s\n", name)
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

// Active reports whether the named misbehaviour is armed.
func Active(name string) bool { return name == armed }
