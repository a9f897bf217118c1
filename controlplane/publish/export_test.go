package publish

import "time"

// ExpireEvery sets how often a publisher looks for expired revocations, before
// Run.
func (p *Publisher) ExpireEvery(d time.Duration) { p.expireEvery = d }

// SurveyWithin sets how long a term waits for targets that do not answer, before Run.
func (p *Publisher) SurveyWithin(d time.Duration) { p.surveyWithin = d }

// Every sets how often a publisher reconciles and confirms, before Run.
func (p *Publisher) Every(reconcile, freshness time.Duration) {
	p.reconcileEvery, p.freshnessEvery = reconcile, freshness
}

// Every sets how often the history is trimmed, before Run.
func (r *Retention) Every(d time.Duration) { r.every = d }
