package balance

import (
	"strings"
	"sync/atomic"
	"time"
)

// Endpoint is one place to connect to, and what is known of it. It belongs to one
// Balancer. Its methods are safe for concurrent use.
type Endpoint struct {
	address string
	name    string
	zone    string
	weight  int
	hash    uint64

	flight   atomic.Int64 // requests
	failures atomic.Int64 // in a row

	// What follows is written with the Balancer's mu held. Times are Unix nanoseconds.
	ejected   atomic.Int64 // until when
	avoided   atomic.Int64 // until when
	unhealthy atomic.Bool
	ejections int   // in a row
	in        bool  // requests went to it when last looked at
	since     int64 // when that began
	known     bool  // it is somebody's heir
}

// mostWeight bounds how much more than another endpoint one gets.
const mostWeight = 1000

// NewEndpoint returns the endpoint at an address, host:port, that nothing is known of.
// It gets requests by its weight, which is between 1 and 1,000. The zone may be empty.
func NewEndpoint(address, zone string, weight int) *Endpoint {
	return &Endpoint{address: address, zone: zone, weight: min(max(weight, 1), mostWeight), hash: uint64(KeyOf(address))}
}

// Address returns host:port.
func (e *Endpoint) Address() string { return e.address }

// Named says by which host name e was found, and returns e. Nobody else has it yet.
func (e *Endpoint) Named(host string) *Endpoint {
	e.name = host
	return e
}

// Name returns the host name that it was found by, empty for none.
func (e *Endpoint) Name() string { return e.name }

// Zone returns where it is, as "REGION/ZONE" or "REGION", empty for unknown.
func (e *Endpoint) Zone() string { return e.zone }

// farthest is the distance to endpoints that are not in our region.
const farthest = 2

// distance is how far away an endpoint is from a zone, or a region: 0 in the same zone, 1
// in the same region, or farthest. Nobody knows how far away a place is that is unknown.
func (e *Endpoint) distance(from string) int {
	ours, _, _ := strings.Cut(from, "/")
	theirs, _, _ := strings.Cut(e.zone, "/")
	switch {
	case from == "" || ours != theirs:
		return farthest
	case from == e.zone:
		return 0
	}
	return 1
}

// InFlight returns how many requests were begun and have not ended.
func (e *Endpoint) InFlight() int64 { return e.flight.Load() }

// Begin counts a request that is sent to it, and End one that has ended.
func (e *Endpoint) Begin() { e.flight.Add(1) }

// End ends what Begin began.
func (e *Endpoint) End() { e.flight.Add(-1) }

// State is whether requests go to an endpoint.
type State uint8

// The states. What is unhealthy is told before what else is the matter.
const (
	Live State = iota
	Avoided
	Ejected
	Unhealthy
)

// State returns what it is at a time.
func (e *Endpoint) State(now time.Time) State { return e.state(now.UnixNano()) }

func (e *Endpoint) state(now int64) State {
	switch {
	case e.unhealthy.Load():
		return Unhealthy
	case e.ejected.Load() > now:
		return Ejected
	case e.avoided.Load() > now:
		return Avoided
	}
	return Live
}
