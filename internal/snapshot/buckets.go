package snapshot

import "crypto/sha256"

// RootOfBuckets returns the root of a set whose buckets have these digests,
// zero where they are empty: what lets a reader check which buckets a head
// signs before it reads any of them.
func RootOfBuckets(digests *[BucketCount]Digest) Digest {
	h := sha256.New()
	h.Write([]byte("sallyport root v1\x00"))
	for _, d := range digests {
		h.Write(d[:])
	}
	return Digest(h.Sum(nil))
}

// DigestOfBucket returns the digest of a bucket that holds exactly these
// entries, zero when there are none. They may come in any order, and be brought
// into another.
func DigestOfBucket(entries []*Entry) Digest {
	if len(entries) == 0 {
		return Digest{}
	}
	return bucketDigestOf(inOrder(entries))
}
