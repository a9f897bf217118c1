package assertion

// Held returns how many assertions are remembered, and their bytes.
func (s *Signer) Held() (entries, bytes int) {
	for i := range s.shards {
		entries += len(s.shards[i].held)
		bytes += s.shards[i].size
	}
	return entries, bytes
}
