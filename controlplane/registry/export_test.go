package registry

// Known returns how many proxies are in memory.
func (r *Registry) Known() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.local)
}
