package registry

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
