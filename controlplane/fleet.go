package controlplane

import (
	"fmt"

	"github.com/sallyport/sallyport/controlplane/balance"
)

// Fleet is how proxies are kept account of, and served.
type Fleet struct {
	// ForgetLostAfterDays is after how many days proxies are forgotten of which
	// nothing was heard; 30 when 0. Those that are refused or quarantined stay.
	ForgetLostAfterDays int `json:"forget_lost_after_days"`
	// KeepStreams has this replica ask no proxy to go to another when it has more than
	// its share: for where proxies know some of the replicas only.
	KeepStreams bool `json:"keep_streams"`
}

// maxForgetDays bounds it.
const maxForgetDays = 3650

func (t *Fleet) validate(f *faults) {
	if t.ForgetLostAfterDays < 0 || t.ForgetLostAfterDays > maxForgetDays {
		f.report("fleet.forget_lost_after_days", fmt.Errorf("is from 0 to %d", maxForgetDays))
	}
}

// balancer is what spreads proxies over the replicas.
func (s *Server) balancer() *balance.Balancer {
	return balance.New(balance.Config{
		Replica: s.settings.Replica, Store: s.database, Streams: s.registry, Log: s.log,
		Stay: s.settings.Fleet.KeepStreams, Registerer: s.metrics,
	})
}
