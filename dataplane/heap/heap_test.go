package heap_test

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/sallyport/sallyport/dataplane/heap"
)

func TestKeep(t *testing.T) {
	const least = 64 << 20
	t.Setenv("GOGC", "")
	heap.Keep(least)
	wants(t, "a small heap is left alone", func(goal uint64) bool { return goal > least*3/4 && goal < least*3/2 })

	kept := make([]byte, 2*least)
	wants(t, "a large one is collected when it has doubled", func(goal uint64) bool { return goal > 7*least/2 && goal < 5*least })
	runtime.KeepAlive(kept)

	wants(t, "and a small one is left alone again", func(goal uint64) bool { return goal > least*3/4 && goal < least*3/2 })
}

// wants collects until the size that the collector waits for is as it should be:
// the collector is adjusted some time after a collection.
func wants(t *testing.T, what string, is func(goal uint64) bool) {
	t.Helper()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	for range 1000 {
		runtime.GC()
		metrics.Read(goal)
		if is(goal[0].Value.Uint64()) {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("%s: the goal is %d MiB", what, goal[0].Value.Uint64()>>20)
}
