package authn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// nonceTime is how long a nonce is the current one. It is taken for as long
// again, so that nobody is refused in the moment of the change.
const nonceTime = 5 * time.Minute

// nonces makes the nonces that clients have to put into their proofs
// (RFC 9449 §9): a proof that holds one was made after it, and for this
// process. They are a MAC of the time, so that nothing is kept of them.
type nonces struct{ key [sha256.Size]byte }

func newNonces() (n nonces) {
	_, _ = rand.Read(n.key[:]) // it does not fail
	return n
}

// current returns the nonce to use at now.
func (n *nonces) current(now time.Time) string { return n.of(epochOf(now)) }

func (n *nonces) valid(nonce string, now time.Time) bool {
	epoch := epochOf(now)
	return hmac.Equal([]byte(nonce), []byte(n.of(epoch))) || hmac.Equal([]byte(nonce), []byte(n.of(epoch-1)))
}

func (n *nonces) of(epoch int64) string {
	mac := hmac.New(sha256.New, n.key[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(epoch))) //nolint:gosec // its bits
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

func epochOf(now time.Time) int64 { return now.Unix() / int64(nonceTime/time.Second) }
