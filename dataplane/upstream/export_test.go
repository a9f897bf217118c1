package upstream

// Endpoints returns the addresses that requests go to.
func (u *Upstream) Endpoints() []string {
	var all []string
	for _, e := range u.balancer.Endpoints() {
		all = append(all, e.Address())
	}
	return all
}
