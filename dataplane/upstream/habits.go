package upstream

import (
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
)

// Balancing is how an endpoint is chosen. The zero value goes by turns.
type Balancing struct {
	Method balance.Method
	Hash   HashKey // with balance.Hash
	// SlowStart is how long the share of an endpoint that comes, or comes back, grows;
	// it has all of it at once when zero.
	SlowStart time.Duration
	// Panic is the percentage of endpoints below which ejection and checks do not
	// matter; 50 when zero.
	Panic int
}

// HashKey is what requests have in common that go to the same endpoint. One field is
// set.
type HashKey struct {
	Header, Cookie           string // a canonical name; a name
	ClientAddress, Principal bool
}

// Ejection is when endpoints are passed over.
type Ejection struct {
	Off   bool
	After int // failures in a row; 5 when zero
	// Time is how long it takes at first, and Most at last; 30 s and 5 minutes when zero.
	Time, Most time.Duration
	Percent    int // of the endpoints, at most; 50 when zero
}

// Retries are when requests are sent again.
type Retries struct {
	Off      bool
	Attempts int    // beside the first; 1 when zero
	On       Faults // those after which it happens; all when zero
	// PerTry is how long an endpoint has for its answer to begin; as long as the request
	// has when zero.
	PerTry time.Duration
	// BudgetPercent of the requests of the last ten seconds may be sent again, and
	// BudgetPerSecond more each second; 20 and 3 when zero.
	BudgetPercent, BudgetPerSecond int
}

// Circuit is what an upstream may have to do at once.
type Circuit struct {
	Requests    int // that have not ended; any number when zero
	Connections int // to all endpoints; any number when zero
	Pending     int // requests that wait for one of them; 1,024 when zero
}

// complete puts in what is meant by zero.
func (s *Spec) complete() {
	e, r := &s.Ejection, &s.Retries
	orElse(&s.Balancing.Panic, 50)
	orElse(&s.Near, 70)
	orElse(&e.After, 5)
	orElse(&e.Time, 30*time.Second)
	orElse(&e.Most, max(e.Time, 5*time.Minute))
	orElse(&e.Percent, 50)
	orElse(&r.Attempts, 1)
	orElse(&r.On, OnConnect|OnReset|OnGatewayError|OnTimeout)
	orElse(&r.BudgetPercent, 20)
	orElse(&r.BudgetPerSecond, 3)
	orElse(&s.Circuit.Pending, 1024)
	if e.Off {
		e.After = 0
	}
	if r.Off {
		r.On = 0
	}
}

func orElse[T int | time.Duration | Faults](value *T, otherwise T) {
	if *value == 0 {
		*value = otherwise
	}
}

// balancing is for a Spec that is complete.
func (s *Spec) balancing(p *Pool) balance.Config {
	e := &s.Ejection
	return balance.Config{
		Method: s.Balancing.Method, SlowStart: s.Balancing.SlowStart, Panic: s.Balancing.Panic, Zone: p.zone, Near: s.Near, Now: p.now,
		Ejection: balance.Ejection{After: e.After, Time: e.Time, Most: e.Most, Percent: e.Percent, Avoid: p.avoid},
	}
}
