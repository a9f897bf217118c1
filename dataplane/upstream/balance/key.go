package balance

// Key is what requests have in common that go to the same endpoint. Zero is none.
type Key uint64

// FNV-1a: what it has to be is the same at every proxy, and for ever.
const (
	offset = 14695981039346656037
	prime  = 1099511628211
)

// KeyOf returns the key of some texts, which is not zero.
func KeyOf[T string | []byte](texts ...T) Key {
	sum := uint64(offset)
	for _, text := range texts {
		for i := range len(text) {
			sum = (sum ^ uint64(text[i])) * prime
		}
		sum = (sum ^ 1<<8) * prime // what no byte is
	}
	return Key(max(1, mix(sum)))
}

// mix spreads what differs in few bits over all of them, as FNV does not.
func mix(sum uint64) uint64 {
	sum = (sum ^ sum>>33) * 0xff51afd7ed558ccd
	sum = (sum ^ sum>>33) * 0xc4ceb9fe1a85ec53
	return sum ^ sum>>33
}
