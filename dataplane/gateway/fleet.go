package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/sallyport/sallyport/dataplane/limit"
	"github.com/sallyport/sallyport/internal/quota"
)

// LimitStore counts for all proxies that share it. It is safe for concurrent use.
type LimitStore interface {
	// Take counts what costs so much; ok is false when nobody answers in time.
	Take(ctx context.Context, key string, rate quota.Rate, cost int64) (o quota.Outcome, ok bool)
	// Give takes back what was counted. It does not wait.
	Give(key string, rate quota.Rate, cost int64)
	// Proxies returns how many proxies counted there last; 0 when it is not known.
	Proxies() int64
}

// strangers is among how many proxies a limit is shared while it is not known how
// many there are: little for each, but never more than the limit for a fleet that is
// not larger.
const strangers = 10

// share is what this proxy has of the limit while the store is away.
func (l *limiter) share() quota.Rate {
	if l.store != nil {
		if n := l.store.Proxies(); n > 0 {
			return l.of.Rate.Share(n)
		}
	}
	return l.of.Rate.Share(strangers)
}

// shared counts at the store, and here what the store lets through, so that whoever
// has had it does not get a share besides when the store goes away.
func (l *limiter) shared(ctx context.Context, key []byte, now time.Duration, cost int64) quota.Outcome {
	share, hash := l.share(), limit.HashOf(key)
	if l.store != nil {
		if o, ok := l.store.Take(ctx, l.storeKey(key), l.of.Rate, cost); ok {
			if o.Allowed {
				l.table.Take(hash, now, share, cost)
			}
			return o
		}
	}
	return l.table.Take(hash, now, share, cost)
}

func (l *limiter) takeBack(key []byte, cost int64) {
	if l.store != nil {
		l.store.Give(l.storeKey(key), l.of.Rate, cost)
	}
	l.table.Give(limit.HashOf(key), l.share(), cost)
}

// storeKey tells nobody who reads the store what clients have sent.
func (l *limiter) storeKey(key []byte) string {
	const enough = 18 // bytes
	sum := sha256.Sum256(key)
	return "sallyport:" + name(l.of.Key) + ":" + base64.RawURLEncoding.EncodeToString(sum[:enough])
}
