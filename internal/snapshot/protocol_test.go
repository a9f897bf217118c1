package snapshot_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/snapshot"
)

func TestProtocol(t *testing.T) {
	t.Parallel()
	for p, want := range map[snapshot.Protocol]struct {
		common snapshot.Protocol
		lacks  int
	}{
		0:                           {0, 0},
		snapshot.FirstProtocol:      {snapshot.FirstProtocol, 8},
		snapshot.SecondProtocol:     {snapshot.SecondProtocol, 1},
		snapshot.ThirdProtocol:      {snapshot.ThirdProtocol, 0},
		snapshot.NewestProtocol + 1: {snapshot.NewestProtocol, 0},
	} {
		if got := p.Common(); got != want.common {
			t.Errorf("with %d, %d is spoken", p, got)
		}
		if got := p.Lacks(); len(got) != want.lacks {
			t.Errorf("%d lacks %q", p, got)
		}
	}
}
