package authn

// Reachable and NewTransport let tests look at the guard without a network that
// has such addresses.
var (
	Reachable    = reachable
	NewTransport = newTransport
)

// Held returns how many verified tokens a pool remembers, and the bytes of
// token text in its fullest shard.
func Held(p *Pool) (tokens, most int) {
	for i := range p.cache.shards {
		s := &p.cache.shards[i]
		tokens += len(s.held)
		most = max(most, s.size)
	}
	return tokens, most
}
