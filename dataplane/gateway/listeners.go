package gateway

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
)

// ListenerStatus says how a listener of the table in force is doing.
type ListenerStatus struct {
	Namespace, Name string
	Address         string // where it listens; as it was asked for when it does not
	Open            bool   // clients are served there
	Error           string // what keeps it from listening, or from serving all it should
}

// Listeners returns the status of every listener, by namespace and name.
func (g *Gateway) Listeners() []ListenerStatus {
	live := *g.listeners.live.Load()
	status := make([]ListenerStatus, 0, len(live))
	for _, key := range slices.SortedFunc(maps.Keys(live), resource.Key.Compare) {
		status = append(status, live[key].status())
	}
	return status
}

// Changed receives after the status of a listener has changed. It carries no
// data and has room for one.
func (g *Gateway) Changed() <-chan struct{} { return g.listeners.changed }

// listeners keeps sockets open across tables.
type listeners struct {
	new     func(*compile.Listener) *listener
	reload  time.Duration
	files   func() // looks at those that are no listener's
	changed chan struct{}
	wake    chan struct{} // live is not what run has seen

	// live is never changed in place. Apply is its only writer.
	live atomic.Pointer[map[resource.Key]*listener]
}

func newListeners(g *Gateway, c Config) *listeners {
	ls := &listeners{
		reload: c.Reload, files: g.refresh, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
	if ls.reload == 0 {
		ls.reload = 5 * time.Second
	}
	drain := c.Drain
	if drain == 0 {
		drain = 10 * time.Second
	}
	ls.new = func(spec *compile.Listener) *listener {
		return &listener{
			gateway: g, identity: c.Identity, listen: c.Listen, drain: drain, changed: func() { signal(ls.changed) },
			key: spec.Key, name: name(spec.Key), address: spec.Spec.GetAddress(), ended: make(chan struct{}),
		}
	}
	ls.live.Store(&map[resource.Key]*listener{})
	return ls
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close ends the listeners that are not in specs, or have another address
// there. Their sockets are closed when it returns.
func (ls *listeners) close(specs []*compile.Listener) {
	wanted := make(map[resource.Key]string, len(specs))
	for _, s := range specs {
		wanted[s.Key] = s.Spec.GetAddress()
	}
	live := maps.Clone(*ls.live.Load())
	for key, l := range live {
		if address, ok := wanted[key]; !ok || address != l.address {
			l.end()
			delete(live, key)
		}
	}
	ls.live.Store(&live)
}

// open opens those of specs that are not, and changes those that do.
func (ls *listeners) open(specs []*compile.Listener) {
	live := maps.Clone(*ls.live.Load())
	for _, s := range specs {
		l := live[s.Key]
		if l == nil {
			l = ls.new(s)
			live[s.Key] = l
		}
		l.become(s)
		l.bind()
	}
	ls.live.Store(&live)
	signal(ls.wake)
	signal(ls.changed)
}

// run serves until ctx ends and everything that was served has.
func (ls *listeners) run(ctx context.Context) {
	tick := time.NewTicker(ls.reload)
	defer tick.Stop()
	var serving sync.WaitGroup
	defer serving.Wait()
	started := map[*listener]bool{}
	for {
		live := *ls.live.Load()
		for _, l := range live {
			if !started[l] {
				serving.Go(func() { l.run(ctx) })
			}
		}
		started = make(map[*listener]bool, len(live))
		for _, l := range live {
			started[l] = true
		}
		select {
		case <-ctx.Done():
			return
		case <-ls.wake:
		case <-tick.C:
			ls.files()
			for _, l := range live {
				l.refresh()
			}
		}
	}
}
