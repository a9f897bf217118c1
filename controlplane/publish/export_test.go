package publish

import "time"

// Every sets how often a publisher reconciles and confirms, before Run.
func (p *Publisher) Every(reconcile, freshness time.Duration) {
	p.reconcileEvery, p.freshnessEvery = reconcile, freshness
}
