package overload

import "time"

// Control is control, for tests that have no clock.
type Control struct{ control }

// NewControl returns one that has seen nothing.
func NewControl(target time.Duration) *Control { return &Control{control{target: target}} }

// Step is step.
func (c *Control) Step(delay, elapsed time.Duration) { c.step(delay, elapsed) }

// Share is what a Guard refuses.
func (c *Control) Share(delay time.Duration) float64 {
	if !c.overloaded {
		return 0
	}
	return share(max(delay, c.mean), c.target)
}

// Delay is what g goes by.
func (g *Guard) Delay() time.Duration { return g.delay() }
