package gateway

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/dataplane/limit"
	"github.com/sallyport/sallyport/internal/quota"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Why a connection is one too many, as metrics name it.
const (
	overTotal   = "total"
	overAddress = "address"
	overRate    = "rate"
	overTurns   = "handshakes"
	overBudget  = "budget"
)

// What connections are limited to where nothing is said.
const (
	usualTotal      = 50_000
	usualPerAddress = 2_000
	usualNew        = 200
)

// doorLimits bound the connections of a listener.
type doorLimits struct {
	total, perAddress int
	rate              quota.Rate
	loopback          bool // bounds those of loopback addresses
}

func limitsOfDoor(spec *resourcev1.ConnectionLimits) doorLimits {
	or := func(given uint32, usual int) int {
		if given == 0 {
			return usual
		}
		return int(given)
	}
	l := doorLimits{
		total: or(spec.GetTotal(), usualTotal), perAddress: or(spec.GetPerAddress(), usualPerAddress),
		loopback: spec.GetPerAddress() > 0 || spec.GetNewPerSecond() > 0,
	}
	n := or(spec.GetNewPerSecond(), usualNew)
	interval := time.Second / time.Duration(n)
	l.rate = quota.Rate{Interval: interval, Tolerance: time.Duration(n) * interval}
	return l
}

// door counts the connections of a listener, and those of each address. It has no
// more of the latter than there are connections.
type door struct {
	mu    sync.Mutex
	open  int
	by    map[netip.Prefix]*household
	rates *limit.Table
	// floods has those whose connections have spent their budgets of late.
	floods *limit.Table
	epoch  time.Time // long before the first connection
}

// guest is a connection that is counted until it is closed.
type guest struct {
	net.Conn
	door *door
	once sync.Once

	// network is whose it counts as, invalid for nobody's. It is set by admit, in the
	// goroutine that serves the connection first.
	network netip.Prefix
	home    *household // of its own for nobody's
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.once.Do(g.leave)
	return g.Conn.Close()
}

// SyscallConn implements syscall.Conn.
func (g *guest) SyscallConn() (syscall.RawConn, error) { return socketOf(g.Conn) }

// socketOf returns what is below conn.
func socketOf(conn net.Conn) (syscall.RawConn, error) {
	if c, ok := conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (g *guest) leave() {
	d := g.door
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if !g.network.IsValid() {
		return
	}
	if g.home.connections--; g.home.connections == 0 {
		delete(d.by, g.network)
	}
}

// enter counts a connection; nil when there are too many.
func (d *door) enter(raw net.Conn, limits doorLimits) *guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open >= limits.total {
		return nil
	}
	d.open++
	return &guest{Conn: raw, door: d, home: &household{}}
}

// admit counts a connection as one of a client, and says which limit it is over;
// nothing when it is over none.
func (d *door) admit(g *guest, client netip.Addr, limits doorLimits, now time.Time) (over string) {
	if !client.IsValid() || client.IsLoopback() && !limits.loopback {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	network := networkOf(client)
	if d.by == nil {
		d.by, d.epoch = make(map[netip.Prefix]*household), now.AddDate(-1, 0, 0)
		d.rates, d.floods = limit.NewTable(limit.NewRoom(roomOfDoor)), limit.NewTable(limit.NewRoom(roomOfDoor))
	}
	home := d.by[network]
	if home != nil && home.connections >= limits.perAddress {
		return overAddress
	}
	if !d.rates.Take(hashOf(network), now.Sub(d.epoch), limits.rate, 1).Allowed {
		return overRate
	}
	if home == nil {
		home = g.home
		d.by[network] = home
	}
	g.network, g.home = network, home
	home.connections++
	return ""
}

// floodRate is how many connections of a client may spend their budgets before all of its
// are watched, and how soon one is forgotten.
var floodRate = quota.Rate{Interval: 15 * time.Second, Tolerance: time.Minute}

// flooded is for a connection that has spent its budget.
func (g *guest) flooded(now time.Time) {
	if d := g.door; g.network.IsValid() {
		d.floods.Take(hashOf(g.network), now.Sub(d.epoch), floodRate, 1)
	}
}

// budget is what a connection over HTTP/2 may spend. Clients behind one address may be many:
// what one of them has done ends nobody's connection, and keeps nobody from another.
func (g *guest) budget(now time.Time) wire.Budget {
	d := g.door
	if !g.network.IsValid() || d.floods.Take(hashOf(g.network), now.Sub(d.epoch), floodRate, 0).Remaining > 0 {
		return wire.DefaultBudget
	}
	return wire.WaryBudget
}

// roomOfDoor is for sixty thousand addresses of the last second, in bytes.
const roomOfDoor = 1 << 20

// networkOf is an address of IPv4, and the network of an address of IPv6 that one
// customer has.
func networkOf(client netip.Addr) netip.Prefix {
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	network, _ := client.Prefix(bits) // it has so many bits
	return network
}

func hashOf(network netip.Prefix) limit.Hash {
	key, _ := network.MarshalBinary() // it never fails
	return limit.HashOf(key)
}

// refuse closes a connection that is one too many.
func (l *listener) refuse(raw net.Conn, over string) {
	l.gateway.metrics.overflow.WithLabelValues(l.name, over).Inc()
	_ = raw.Close() // nothing was said over it
}
