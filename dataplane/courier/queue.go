package courier

import "sync"

const (
	// A chunk is what is sent at once: so many bytes, or so many records.
	chunkBytes   = 256 << 10
	chunkRecords = 2048
	// overhead is what a record takes besides its bytes.
	overhead = 8
)

// queue is the records that wait in memory, in the order in which they came.
type queue struct {
	boot  [16]byte
	limit int
	// ready has room for one: there is something to send.
	ready chan struct{}

	mu     sync.Mutex
	bytes  int
	last   int64 // sequence
	chunks []*chunk
	spare  *chunk
}

// chunk is consecutive records. When it is sealed it does not change any more.
type chunk struct {
	first  int64
	bytes  []byte
	ends   []int
	sealed bool
}

func newQueue(limit int) *queue { return &queue{limit: limit, ready: make(chan struct{}, 1)} }

// put queues a copy of record, if there is room.
func (q *queue) put(record []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(record)+overhead > q.limit {
		return false
	}
	q.bytes += len(record) + overhead
	q.last++
	c := q.growing(len(record))
	c.bytes = append(c.bytes, record...)
	c.ends = append(c.ends, len(c.bytes))
	if len(c.ends) == 1 || c.full() {
		q.wake()
	}
	return true
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// growing returns the chunk that takes a record of so many bytes.
func (q *queue) growing(size int) *chunk {
	if n := len(q.chunks); n > 0 {
		if c := q.chunks[n-1]; !c.sealed && !c.full() && len(c.bytes)+size <= chunkBytes {
			return c
		}
	}
	c := q.spare
	if c == nil {
		c = &chunk{bytes: make([]byte, 0, chunkBytes), ends: make([]int, 0, chunkRecords)}
	}
	q.spare = nil
	c.first = q.last
	q.chunks = append(q.chunks, c)
	return c
}

func (c *chunk) full() bool { return len(c.ends) >= chunkRecords || len(c.bytes) >= chunkBytes }

func (c *chunk) records() [][]byte {
	all := make([][]byte, len(c.ends))
	start := 0
	for i, end := range c.ends {
		all[i], start = c.bytes[start:end:end], end
	}
	return all
}

// brimming reports whether there is a chunk that gets no more.
func (q *queue) brimming() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.chunks) > 1 || len(q.chunks) == 1 && q.chunks[0].full()
}

// oldest seals and returns the first chunk, until drop; nil when there is none.
func (q *queue) oldest() *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.chunks) == 0 {
		return nil
	}
	q.chunks[0].sealed = true
	return q.chunks[0]
}

// drop removes the first chunk.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.chunks[0]
	q.bytes -= len(c.bytes) + overhead*len(c.ends)
	q.chunks[0] = nil
	if q.chunks = q.chunks[1:]; len(q.chunks) == 0 {
		q.chunks = nil
	}
	c.bytes, c.ends, c.sealed = c.bytes[:0], c.ends[:0], false
	q.spare = c
}

func (q *queue) waiting() (records, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.chunks {
		records += len(c.ends)
	}
	return records, q.bytes
}
