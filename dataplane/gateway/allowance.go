package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/quota"
)

// allowances are what an answer tells of the limits of its request, in the fields of
// draft-ietf-httpapi-ratelimit-headers-09: of the first few, and of one that is used
// up.
type allowances struct {
	told   [maxTold]allowance
	count  int
	retry  time.Duration
	denied bool
}

// maxTold is of how many limits an answer tells.
const maxTold = 4

type allowance struct {
	of        *limiter
	remaining int64
	reset     time.Duration
}

// unlimited is left of a limit that is not for the request: nobody is told.
const unlimited = -1

func (a *allowances) add(l *limiter, o quota.Outcome) {
	if o.Remaining == unlimited || a.count == maxTold {
		return
	}
	a.told[a.count] = allowance{l, o.Remaining, o.Reset}
	a.count++
}

// exceeded has the answer tell of what it is for alone.
func (a *allowances) exceeded(l *limiter, o quota.Outcome) {
	a.told[0], a.count = allowance{l, 0, o.Reset}, 1
	a.retry, a.denied = o.Retry, true
}

// tell adds the fields to an answer; one makes a list of one value. An upstream may have
// limits of its own.
func (a *allowances) tell(h http.Header, one func(string) []string) {
	if a.count == 0 {
		return
	}
	var room [128]byte
	limits := room[:0]
	for i, t := range a.told[:a.count] {
		if i > 0 {
			limits = append(limits, ", "...)
		}
		limits = append(append(limits, t.of.label...), ";r="...)
		limits = append(strconv.AppendInt(limits, t.remaining, 10), ";t="...)
		limits = strconv.AppendInt(limits, seconds(t.reset), 10)
	}
	h["Ratelimit-Policy"] = with(h["Ratelimit-Policy"], one(a.policies()))
	h["Ratelimit"] = with(h["Ratelimit"], one(string(limits)))
	if a.denied {
		h["Retry-After"] = []string{strconv.FormatInt(max(seconds(a.retry), 1), 10)}
	}
}

// policies are those of the limits that are told of, usually one.
func (a *allowances) policies() string {
	if a.count == 1 {
		return a.told[0].of.policy
	}
	all := make([]string, a.count)
	for i := range all {
		all[i] = a.told[i].of.policy
	}
	return strings.Join(all, ", ")
}

// with does not change values, which may be an upstream's.
func with(values, last []string) []string {
	if len(values) == 0 {
		return last
	}
	return append(slices.Clip(values), last...)
}

// seconds are rounded up: it is never too early.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
