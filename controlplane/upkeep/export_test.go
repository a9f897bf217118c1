package upkeep

import "time"

// Every sets how often each etcd is looked at, and kept, before Run.
func (u *Upkeep) Every(look, keep time.Duration) { u.lookEvery, u.keepEvery = look, keep }
