package upstream

import "context"

// Endpoints returns the addresses that requests go to.
func (u *Upstream) Endpoints() []string {
	var all []string
	for _, e := range u.balancer.Endpoints() {
		all = append(all, e.Address())
	}
	return all
}

// Check connects to the first endpoint as a check does.
func (u *Upstream) Check(ctx context.Context) error {
	conn, err := u.connections.check(ctx, placeOf(u.balancer.Endpoints()[0]), "http/1.1")
	if err == nil {
		_ = conn.Close()
	}
	return err
}
