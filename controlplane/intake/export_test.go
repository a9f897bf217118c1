package intake

import (
	"context"

	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
)

// What bounds questions.
const (
	MaxQuestions = maxQuestions
	MaxPolls     = maxPolls
	AbsentAfter  = absentAfter
)

// Poll waits for questions, as an edge.
func (q *Questions) Poll(ctx context.Context, stop <-chan struct{}, edge string, by identity.ID) ([]*replicav1.Question, error) {
	return q.poll(ctx, stop, edge, by)
}

// Answered says what a proxy has answered, as an edge; nil: that it is elsewhere.
func (q *Questions) Answered(id string, by identity.ID, said *proxyv1.Inspection) bool {
	return q.answered(id, answer{by, said})
}
