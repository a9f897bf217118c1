package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// slack is by how much the kernel may be late in waking a thread that sleeps. A thread of
// Go's runtime looks every 20 us whether others are stuck, for as long as a process goes
// from having nothing to do to having something, as a proxy does all the time: with the
// usual slack of 50 us that is every 70, and takes 5 to 8 % of the processor where there
// is one. What is stuck in the kernel, in writing to a disk, keeps others from running
// for up to twice as long.
const slack = time.Millisecond

// relax begins this process anew with that slack, unless it has it: a thread can set its
// own alone, and has it from who made it, here from before main. The process keeps its
// ID, its arguments and what it was given open. Where the kernel does not agree to it,
// nothing changes.
func relax() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slackOf() >= slack || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) != nil || slackOf() < slack {
		return
	}
	if path, err := os.Executable(); err == nil {
		_ = syscall.Exec(path, os.Args, os.Environ()) //nolint:gosec // it is what runs
	}
}

// slackOf is that of this thread.
func slackOf() time.Duration {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}
