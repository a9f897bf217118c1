package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A replica is there for as long as it says so, and anew when it comes back.
func TestReplicas(t *testing.T) {
	t.Parallel()
	f := open(t)
	const within = time.Minute
	present := func(name string, streams int) string {
		t.Helper()
		all, err := f.Present(t.Context(), name, streams, within)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range all {
			got = append(got, fmt.Sprintf("%s=%d/%s", r.Name, r.Streams, r.For.Round(time.Minute)))
		}
		return strings.Join(got, " ")
	}
	passes := func(minutes int) {
		alter(t, f.dsn, fmt.Sprintf(`update replica set since = since - interval '%[1]d minutes', heard_at = heard_at - interval '%[1]d minutes'`, minutes))
	}
	for _, c := range []struct {
		got, want string
	}{
		{present("b", 7), "b=7/0s"},
		{present("a", 0), "a=0/0s b=7/0s"},
		{present("b", 8), "a=0/0s b=8/0s"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
	alter(t, f.dsn, `update replica set since = since - interval '3 minutes'`)
	if got, want := present("b", 8), "a=0/3m0s b=8/3m0s"; got != want {
		t.Errorf("after a while: %s, want %s", got, want)
	}
	passes(2)
	if got, want := present("b", 8), "b=8/0s"; got != want {
		t.Errorf("when both were away: %s, want %s", got, want)
	}
	if err := f.Leave(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got, want := present("a", 1), "a=1/0s"; got != want {
		t.Errorf("when one has left: %s, want %s", got, want)
	}
}
