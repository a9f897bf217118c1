package deployments_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/schema"
)

// The examples of docs/validation.md are as it says.
func TestValidationExamples(t *testing.T) {
	b := book{t: t}
	compared := 0
	lines := strings.Split(read(t, "docs/validation.md"), "\n")
	for i := 0; i < len(lines); i++ {
		kind, fenced := strings.CutPrefix(lines[i], "```")
		if !fenced {
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		if kind != "requests" {
			b.block(kind, begin+1, lines[begin:i])
			continue
		}
		b.settle(begin)
		for n, line := range lines[begin:i] {
			question, want, _ := strings.Cut(line, " => ")
			if got := b.compared(question); got != want {
				t.Errorf("line %d: %s\n got %s\nwant %s", begin+n+1, question, got, want)
			}
			compared++
		}
	}
	if compared < 15 || b.refused < 3 {
		t.Errorf("%d requests and %d refusals: too few examples were found", compared, b.refused)
	}
}

// compared says how "METHOD TARGET [NAME=VALUE] [TYPE BODY]" differs from the schema
// of its route.
func (b *book) compared(question string) string {
	b.t.Helper()
	f := strings.SplitN(question, " ", 4)
	c := request.Canonical{Method: f[0], Host: "api.shop.example"}
	c.Path, c.RawQuery, _ = strings.Cut(f[1], "?")
	route, _ := b.table.Match(&c)
	if route == nil || route.Validation == nil {
		b.t.Fatalf("no route with a validation for %s", question)
	}
	r := schema.Request{Method: c.Method, Path: c.Path, RawQuery: c.RawQuery, Header: map[string][]string{}, HasBody: len(f) == 4}
	switch len(f) {
	case 3:
		name, value, _ := strings.Cut(f[2], "=")
		r.Header[name] = []string{value}
	case 4:
		r.Header["Content-Type"] = []string{f[2]}
	}
	found, body := route.Validation.Schema.Head(&r, route.Validation.Options)
	if body != nil {
		found = body.Judge([]byte(f[3]))
	}
	if found.Valid() {
		return "taken"
	}
	var all []string
	for _, p := range found.Problems {
		all = append(all, strings.TrimSpace(p.Pointer+" "+p.Detail))
	}
	return fmt.Sprintf("%d %s: %s", found.Status(), found.Reason, strings.Join(all, ", "))
}
