package policy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// FuzzConditionAgainstLibrary draws a condition and a request, and has closures
// and CEL's library answer: true, false, or that there is no value, and where.
func FuzzConditionAgainstLibrary(f *testing.F) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		f.Add(noise(random, 60), noise(random, 60))
	}
	f.Fuzz(func(t *testing.T, expression, request []byte) {
		text := (&draw{bytes: expression}).flag()
		c, err := policy.CompileCondition(text)
		if err != nil {
			return // too long, deep or costly
		}
		agree(t, text, c, (&draw{bytes: request}).input())
	})
}

func noise(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// agree reports whether closures had an answer, which then is the library's.
func agree(t *testing.T, text string, c *policy.Condition, in *policy.Input) bool {
	t.Helper()
	got, answered := c.Closures(in)
	want := c.Library(in)
	if strings.Contains(text, ").exists(") || strings.Contains(text, ").all(") {
		// Which of several keys of a map fails first is chance.
		got, _, _ = strings.Cut(got, " at ")
		want, _, _ = strings.Cut(want, " at ")
	}
	if answered && got != want {
		t.Errorf("%s\nof %.900s\nby %.900s\nclosures: %s\nlibrary:  %s", text, fmt.Sprintf("%+v", in), fmt.Sprintf("%+v", in.Principal), got, want)
	}
	return answered
}

// Twenty policies that all match but for their conditions cost no garbage.
func TestConditionsDoNotAllocate(t *testing.T) {
	set := policy.NewSet([]policy.Binding{
		{Route: policy.RouteID{Namespace: "shop", Name: "route-0"}, Policies: candidates(t, "p", func(n int) int { return n % 5 })},
	})
	all := visitors(1)
	i := 0
	if n := testing.AllocsPerRun(1_000, func() { set.Decide(all[i%64]); i++ }); n > 0 {
		t.Errorf("a decision allocates %v times", n)
	}
}

// The limit holds for what is larger than closures take, and is the library's.
func TestClosuresKeepTheCostLimit(t *testing.T) {
	pairs, err := policy.CompileCondition(`principal.groups.all(a, principal.groups.all(b, a.size() == b.size()))`)
	if err != nil {
		t.Fatal(err)
	}
	for groups := range 100 {
		p := user("ann")
		for range groups {
			p.Groups = append(p.Groups, "g")
		}
		in := request(p, "GET", "/")
		native := agree(t, "pairs", pairs, in)
		if library := pairs.Library(in); native && library != "true" || groups < 16 && !native {
			t.Errorf("%d groups: closures answer %v, the library %s", groups, native, library)
		}
	}
}

// What is drawn is odder than what people write, and closures answer it still.
func TestClosuresAnswerMostOfWhatIsDrawn(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	answers := map[string]int{}
	for range 3_000 {
		text := (&draw{bytes: noise(random, 200)}).flag()
		c, err := policy.CompileCondition(text)
		if err != nil {
			answers["refused"]++
			continue
		}
		for range 4 {
			in := (&draw{bytes: noise(random, 200)}).input()
			if agree(t, text, c, in) {
				answers[fmt.Sprintf("%.5s", c.Library(in))]++
			} else {
				answers["library"]++
			}
		}
	}
	if answers["true"] < 1_000 || answers["false"] < 2_000 || answers["condi"] < 2_000 || answers["library"] > 4_500 || answers["refused"] > 100 {
		t.Errorf("too few of a kind: %v", answers)
	}
}
