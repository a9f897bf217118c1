package gateway_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What docs/upstreams.md says becomes of requests does.
func TestDocumentedUpstreams(t *testing.T) {
	text, err := os.ReadFile("../../docs/upstreams.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(yaml|requests)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	asked, spec := 0, ""
	for _, b := range blocks {
		if b[1] == "yaml" {
			spec = b[2]
			continue
		}
		var on *stage
		for line := range strings.Lines(b[2]) {
			line, goesOn := strings.CutPrefix(strings.TrimSpace(line), "then ")
			if !goesOn {
				on = newStage(t, spec)
			}
			on.play(line)
			asked++
		}
	}
	if asked < 12 {
		t.Errorf("%d requests: too few examples were found", asked)
	}
}

// stage is a gateway before the endpoints of an Upstream of the text.
type stage struct {
	*world

	ends   map[string]*echo // by port in the text
	client *http.Client
}

func newStage(t *testing.T, spec string) *stage {
	t.Helper()
	s := &stage{world: newWorld(t, options{}), ends: map[string]*echo{}}
	addresses := regexp.MustCompile(`127\.0\.0\.1:(\d+)`)
	spec = addresses.ReplaceAllStringFunc(spec, func(address string) string {
		e := newEcho(t)
		s.ends[address[len("127.0.0.1:"):]] = e
		return e.address()
	})
	name := regexp.MustCompile(`name: ([a-z]+)`).FindStringSubmatch(spec)[1]
	resources := s.listener() + s.login() + s.route("usual", host, plaintext("127.0.0.1:1")) + "\n---\n" + spec
	s.apply(strings.Replace(resources, "upstream: usual", "upstream: "+name, 1))
	s.client = s.world.client(true, s.tls(host))
	return s
}

// behave has an endpoint do to requests what the text says.
func (s *stage) behave(port, what string) {
	s.t.Helper()
	e := s.ends[port]
	status, err := strconv.Atoi(what)
	switch {
	case err == nil:
		e.answerWith(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	case what == "reset":
		e.answerWith(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	case what == "slow":
		e.answerWith(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	case what == "closed":
		e.Close()
	default:
		s.t.Fatalf("nobody does %q", what)
	}
}

// play asks "METHOD PORT=WHAT... => STATUS..., N tries".
func (s *stage) play(line string) {
	s.t.Helper()
	asked, want, _ := strings.Cut(line, " => ")
	f := strings.Fields(asked)
	for _, given := range f[1:] {
		port, what, _ := strings.Cut(given, "=")
		s.behave(port, what)
	}
	statuses, tries := map[int]bool{}, 0
	for range s.ends {
		res, _ := s.ask(s.client, f[0], "/v1/orders", nil)
		statuses[res.StatusCode] = true
		tries += max(1, s.records.of(s.t, "outcome", res.Header.Get("Sallyport-Decision-Id")).Attempts)
	}
	var got strings.Builder
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		fmt.Fprint(&got, status, " ")
	}
	if got := fmt.Sprintf("%s, %d tries", strings.TrimSpace(got.String()), tries); got != want {
		s.t.Errorf("%s\n got %s\nwant %s", asked, got, want)
	}
}
