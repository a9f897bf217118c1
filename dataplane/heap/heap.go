// Package heap has the garbage collector leave a small heap alone.
//
// By default Go collects whenever the heap has doubled. The live heap of a process
// that carries traffic is small beside what its requests leave behind, so that it
// collects many times a second, to free little. See
// https://go.dev/doc/gc-guide#GOGC.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// usual is Go's own GOGC: how much a heap grows before it is collected, in percent.
const usual = 100

// Keep has the collector wait, from now on, until the heap has least bytes, and
// leaves it as it is where the heap outgrows that: least is 0 to change nothing. It
// bounds no memory; GOMEMLIMIT does, and is respected. Where the environment has a
// GOGC, that is what somebody wants, and Keep does nothing.
//
// It is called once in a process.
func Keep(least uint64) {
	if least == 0 || os.Getenv("GOGC") != "" {
		return
	}
	k := &keeper{least: least, percent: usual, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	k.adjust()
}

// keeper adjusts the collector after each collection.
type keeper struct {
	least   uint64
	percent int
	live    []metrics.Sample
}

// swept is what each collection frees, and notices by that.
type swept struct{ _ [4]uint64 }

func (k *keeper) adjust() {
	metrics.Read(k.live)
	// Changing it stops the world: not for a few percent.
	if p := percent(k.least, k.live[0].Value.Uint64()); p < k.percent*7/8 || p > k.percent*9/8 {
		k.percent = p
		debug.SetGCPercent(p)
	}
	runtime.AddCleanup(&swept{}, (*keeper).adjust, k)
}

// most is for what has next to no live heap yet.
const most = 2000

// percent returns the GOGC by which a live heap grows to least bytes.
func percent(least, live uint64) int {
	if live == 0 {
		return most
	}
	grown := int(min(least/(live/100+1), most+100))
	return max(grown-100, usual)
}
