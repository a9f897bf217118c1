package edge_test

import (
	"context"
	"errors"
	"testing"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/edge"
)

// A proxy gives up records alone that no replica would ever understand, by the word of
// one with a database: of all else it is told to try again.
func TestRecordsThatAreNotKept(t *testing.T) {
	t.Parallel()
	cause := errors.New("a cause")
	for what, c := range map[string]struct {
		err  error
		want connect.Code
	}{
		"they are not understood":        {connect.NewWireError(connect.CodeInvalidArgument, cause), connect.CodeInvalidArgument},
		"the edge does not send them":    {connect.NewError(connect.CodeInvalidArgument, cause), connect.CodeUnavailable},
		"the proxy is not admitted":      {connect.NewWireError(connect.CodePermissionDenied, cause), connect.CodeUnavailable},
		"the edge is not let in":         {connect.NewWireError(connect.CodeUnauthenticated, cause), connect.CodeUnavailable},
		"the replica does not take them": {connect.NewWireError(connect.CodeUnimplemented, cause), connect.CodeUnavailable},
		"the database is away":           {connect.NewWireError(connect.CodeUnavailable, cause), connect.CodeUnavailable},
		"no replica answers":             {context.DeadlineExceeded, connect.CodeUnavailable},
	} {
		if got := connect.CodeOf(edge.Unkept(c.err)); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}
