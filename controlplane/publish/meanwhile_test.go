package publish_test

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/storage"
)

// What is done beside publishing is done by the elected replica alone, and ends
// with its term.
func TestMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	began, ended := make(chan string, 10), make(chan string, 10)
	beside := func(name string) func(*publish.Config) {
		return func(c *publish.Config) {
			c.Meanwhile = []publish.Task{func(ctx context.Context, _ storage.Term) error {
				began <- name
				<-ctx.Done()
				ended <- name
				return ctx.Err()
			}}
		}
	}
	says := func(from <-chan string) string {
		t.Helper()
		select {
		case name := <-from:
			return name
		case <-time.After(30 * time.Second):
			t.Fatal("nothing was said")
			return ""
		}
	}
	replicas := map[string]*replica{"a": l.start(beside("a")), "b": l.start(beside("b"))}
	first := says(began)
	replicas[first].stop()
	if got := says(ended); got != first {
		t.Errorf("%s ended, and %s had begun", got, first)
	}
	if second := says(began); second == first {
		t.Errorf("%s began again", second)
	}
}
