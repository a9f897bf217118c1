//go:build race

package e2e_test

// raceEnabled builds our binaries with the race detector too.
const raceEnabled = true
