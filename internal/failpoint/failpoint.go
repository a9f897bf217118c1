//go:build !failpoint

// Package failpoint marks the places at which tests of the real binaries kill
// a process or make a part of it misbehave. Without the build tag "failpoint",
// as in every release, it compiles to nothing.
package failpoint

// Variable is the environment variable that names one failpoint: "name" or,
// to strike at the Nth time it is reached, "name=N". It counts only in a build
// with the tag.
const Variable = "SALLYPORT_FAILPOINT"

// Hit kills the process here if a test asked for it.
func Hit(string) {}

// Active reports whether a test asked for the named misbehaviour.
func Active(string) bool { return false }
