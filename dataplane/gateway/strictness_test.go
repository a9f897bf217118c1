package gateway_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fate is what becomes of a class of tricks, over all of its cases.
type fate struct {
	passes, refused, cut bool
	reasons              []string // of refusals
}

// classes is what the tables of tricks say, by the heading and the class that
// docs/strictness.md has for them.
type classes map[string]map[string]*fate

func (c classes) add(heading, class string, passes, cut bool, answers ...string) {
	if c[heading] == nil {
		c[heading] = map[string]*fate{}
	}
	f := c[heading][class]
	if f == nil {
		f = &fate{}
		c[heading][class] = f
	}
	switch {
	case passes:
		f.passes = true
		return
	case cut:
		f.cut = true
		return
	}
	f.refused = true
	for _, a := range answers {
		if _, reason, ok := strings.Cut(a, " "); ok && !slices.Contains(f.reasons, reason) {
			f.reasons = append(f.reasons, reason)
		}
	}
	slices.Sort(f.reasons)
}

func corpus() classes {
	all := classes{}
	for _, c := range framingTricks {
		all.add("Where a request ends", c.class, len(c.saw) > 0, false, c.answers...)
	}
	for _, c := range headTricks {
		all.add("What a request says", c.class, len(c.saw) > 0, false, c.answers...)
	}
	for _, c := range http2Tricks {
		all.add("Over HTTP/2", c.class, len(c.saw) > 0, false, c.answer)
	}
	for _, c := range hostileAnswers {
		answers := strings.HasPrefix(c.told, "HTTP/1.1 ")
		told := c.told
		if told == "" {
			told = "502 upstream_malformed"
		}
		all.add("What upstreams answer", c.class, answers && !c.torn, c.torn, told)
	}
	return all
}

// The page that says what is refused and what is brought into one form says it of
// every class of tricks, and of no other, as the tests of tricks have it.
func TestStrictnessIsWrittenDown(t *testing.T) {
	text, err := os.ReadFile("../../docs/strictness.md")
	if err != nil {
		t.Fatal(err)
	}
	all := corpus()
	row, reason := regexp.MustCompile(`^\| (.+) \| (.+) \|(.*)\|$`), regexp.MustCompile("`([a-z][a-z0-9_]+)`")
	heading := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "## "); ok {
			heading = h
		}
		m := row.FindStringSubmatch(line)
		if m == nil || all[heading] == nil || m[1] == "what" {
			continue
		}
		f := all[heading][m[1]]
		if f == nil {
			t.Errorf("%s: no test tries %q", heading, m[1])
			continue
		}
		delete(all[heading], m[1])
		var reasons []string
		for _, r := range reason.FindAllStringSubmatch(m[3], -1) {
			reasons = append(reasons, r[1])
		}
		slices.Sort(reasons)
		is := map[string]fate{
			"refused": {refused: true}, "cut off": {cut: true}, "one form": {passes: true}, "as it came": {passes: true},
		}[m[2]]
		if is.passes != f.passes || is.refused != f.refused || is.cut != f.cut || f.refused && !slices.Equal(reasons, f.reasons) {
			t.Errorf("%s: %q is written to be %s with %q; tests have it %+v", heading, m[1], m[2], reasons, *f)
		}
	}
	for heading, rest := range all {
		for class, f := range rest {
			t.Errorf("%s: %q is not written down: %+v", heading, class, *f)
		}
	}
}
