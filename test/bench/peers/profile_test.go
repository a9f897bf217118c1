//go:build peers

package peers_test

import (
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

var profiles = flag.String("profiles", "", "write to this directory where a proxy of ours spends its time; Profile alone")

// profiled are the works that a build is optimised for.
var profiled = map[string]bool{"plain": true, "h2": true, "secured": true}

// BenchmarkProfile writes a profile of each kind of work, of which a build is made that
// knows what is called often.
func BenchmarkProfile(b *testing.B) {
	if *profiles == "" {
		b.Fatal("say where to: -profiles DIR")
	}
	pin(b)
	s := begin(b)
	for _, w := range works(s.token) {
		if profiled[w.name] {
			s.profile(b, w)
		}
	}
}

// profile has our proxy work until its profile is there.
func (s *stage) profile(b *testing.B, w work) {
	b.Helper()
	us := s.peers[0]
	written := make(chan error, 1)
	go func() {
		written <- fetch(us.status+"/debug/pprof/profile?seconds=25", filepath.Join(*profiles, w.name+".pprof"))
	}()
	for {
		s.measure(b, us, w.load)
		select {
		case err := <-written:
			must(b, err)
			return
		default:
		}
	}
}

func fetch(url, file string) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	to, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, res.Body); err != nil {
		return err
	}
	return to.Close()
}
