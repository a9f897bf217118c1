package api

import "time"

// Bound is what every request passes first.
var Bound = bound

// TestOnlySendWithin changes how long a caller may take to receive a message,
// before any calls.
func (a *API) TestOnlySendWithin(d time.Duration) { a.sendWithin = d }

// LimitRollback makes fewer resources than usual too many.
func (a *API) LimitRollback(most int) { a.maxRollback = most }

// TestOnlyInquireWithin changes how long another replica may take, before any calls.
func (a *API) TestOnlyInquireWithin(d time.Duration) { a.inquireWithin = d }
