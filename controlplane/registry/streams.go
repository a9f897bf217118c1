package registry

import "github.com/sallyport/sallyport/storage"

// Streams returns how many proxies of each environment have their stream on
// this replica.
func (r *Registry) Streams() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	streams := map[string]int{}
	for _, e := range r.local {
		if e.session != nil {
			streams[e.proxy.GetEnvironment()]++
		}
	}
	return streams
}

// Move has up to n proxies that have their stream on this replica be asked to open it
// elsewhere: any of those that may. It returns which.
func (r *Registry) Move(n int, may func(storage.ProxyID) bool) (asked []storage.ProxyID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.local { // in no order
		if len(asked) >= n {
			break
		}
		if e.session == nil || !may(id) {
			continue
		}
		select {
		case e.session.moved <- struct{}{}:
			asked = append(asked, id)
		default: // it was asked already
		}
	}
	return asked
}

// Moved receives when the proxy is to be asked to open its stream elsewhere.
func (s *Session) Moved() <-chan struct{} { return s.moved }
