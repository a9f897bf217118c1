package overload

import "time"

// Control is control, for tests that have no clock.
type Control struct{ control }

// NewControl returns one that has seen nothing.
func NewControl(target time.Duration) *Control { return &Control{control{target: target}} }

// Step is step.
func (c *Control) Step(delay time.Duration) float64 { return c.step(delay) }

// SchedulingDelay is schedulingDelay.
var SchedulingDelay = schedulingDelay
