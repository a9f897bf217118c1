package snapshot_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/snapshot"
)

func TestRootOfBuckets(t *testing.T) {
	var digests [snapshot.BucketCount]snapshot.Digest
	if snapshot.RootOfBuckets(&digests) != snapshot.NewSet().Root() {
		t.Error("the root of no buckets is not that of an empty set")
	}
	set := snapshot.NewSet(entries(t, 0, 600, "spec")...)
	for b := range set.Buckets() {
		digests[b.Index] = b.Digest
	}
	if snapshot.RootOfBuckets(&digests) != set.Root() {
		t.Error("the root of the buckets is not that of the set")
	}
	digests[3], digests[4] = digests[4], digests[3]
	if snapshot.RootOfBuckets(&digests) == set.Root() {
		t.Error("buckets in other places make the same root")
	}
}
