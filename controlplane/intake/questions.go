package intake

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// maxQuestions bounds the questions that are not answered, and maxPolls the polls
	// that wait for some.
	maxQuestions = 64
	maxPolls     = 256
	// absentAfter is how long an edge may take from one poll to the next.
	absentAfter = 5 * time.Second
)

var (
	errQuestions = errors.New("too many questions to edges are not answered yet")
	errPolls     = errors.New("too many edges poll")
)

// Questions are what edges are to ask of their proxies, until they have answered. They
// are in memory alone, as who waits for the answers is. It is safe for concurrent use.
type Questions struct {
	mu    sync.Mutex
	open  []*question
	more  chan struct{}        // closed when there is another one
	edges map[string]*presence // by how they are called where a replica is named
	polls int                  // that wait
}

// presence is that of an edge which polls, or did a moment ago.
type presence struct {
	polls int       // that wait
	until time.Time // the last one has ended
}

// question is what a proxy of an edge is asked. It does not change, but for given.
type question struct {
	id     string
	edge   string
	proxy  storage.ProxyID
	ask    *proxyv1.Inspect
	given  identity.ID // who has been asked; empty for nobody
	answer chan answer // has room for one
}

// answer is what an edge has said; nothing if the proxy has no stream there.
type answer struct {
	by   identity.ID
	said *proxyv1.Inspection
}

// NewQuestions returns none.
func NewQuestions() *Questions {
	return &Questions{more: make(chan struct{}), edges: map[string]*presence{}}
}

// Here returns the edges that poll at this replica, as they are called where a replica
// is named.
func (q *Questions) Here() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var names []string
	for name, p := range q.edges {
		if p.polls == 0 && time.Since(p.until) > absentAfter {
			delete(q.edges, name)
			continue
		}
		names = append(names, name)
	}
	return names
}

// Inspect has an edge, as it is called where a replica is named, ask one of its proxies,
// and returns the answer and who has given it. It waits until ctx ends.
// registry.ErrElsewhere.
func (q *Questions) Inspect(ctx context.Context, edge string, proxy storage.ProxyID, ask *proxyv1.Inspect) (*proxyv1.Inspection, identity.ID, error) {
	asked := &question{id: rand.Text(), edge: edge, proxy: proxy, ask: proto.CloneOf(ask), answer: make(chan answer, 1)}
	if !q.put(asked) {
		return nil, "", errQuestions
	}
	defer q.take(asked)
	select {
	case a := <-asked.answer:
		if a.said == nil {
			return nil, a.by, registry.ErrElsewhere
		}
		return a.said, a.by, nil
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

// put has polls return a question. It returns false if there are too many.
func (q *Questions) put(asked *question) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.open) >= maxQuestions {
		return false
	}
	q.open = append(q.open, asked)
	close(q.more)
	q.more = make(chan struct{})
	return true
}

// take removes a question; nothing if it is gone.
func (q *Questions) take(asked *question) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = slices.DeleteFunc(q.open, func(o *question) bool { return o == asked })
}

// poll waits for questions to an edge, and gives them to who polls in its name. It
// returns none when ctx ends, or stop is closed.
func (q *Questions) poll(ctx context.Context, stop <-chan struct{}, edge string, by identity.ID) ([]*replicav1.Question, error) {
	if !q.begin(edge) {
		return nil, errPolls
	}
	defer q.end(edge)
	for ctx.Err() == nil {
		given, more := q.give(edge, by)
		if len(given) > 0 {
			return given, nil
		}
		select {
		case <-ctx.Done():
		case <-stop:
			return nil, nil
		case <-more:
		}
	}
	return nil, nil
}

func (q *Questions) begin(edge string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.edges[edge]
	switch {
	case q.polls >= maxPolls, p == nil && len(q.edges) >= 2*maxPolls:
		return false
	case p == nil:
		p = &presence{}
		q.edges[edge] = p
	}
	p.polls++
	q.polls++
	return true
}

func (q *Questions) end(edge string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.edges[edge]
	p.polls--
	q.polls--
	p.until = time.Now()
}

// give returns the questions to an edge that nobody has been given, and what is closed
// when there is another.
func (q *Questions) give(edge string, by identity.ID) (given []*replicav1.Question, more <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range q.open {
		if o.edge == edge && o.given == "" {
			o.given = by
			given = append(given, &replicav1.Question{Id: o.id, Proxy: string(o.proxy), Inspect: o.ask})
		}
	}
	return given, q.more
}

// answered takes an answer of who was given the question. It returns false if nobody
// waits for that.
func (q *Questions) answered(id string, a answer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, o := range q.open {
		if o.id == id && o.given == a.by {
			q.open = slices.Delete(q.open, i, i+1)
			o.answer <- a
			return true
		}
	}
	return false
}
