package deployments_test

import (
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// The examples of the language do what the text says they do. Resources add up
// within a section, and begin anew in the next with those that come before the
// first one.
func TestPolicyLanguage(t *testing.T) {
	b := book{t: t}
	b.asks = b.ask
	b.read("docs/policy.md")
	if b.asked < 35 || b.refused < 3 {
		t.Errorf("%d requests and %d refusals: too few examples were found", b.asked, b.refused)
	}
}

// read takes a document.
func (b *book) read(name string) {
	b.t.Helper()
	lines := strings.Split(read(b.t, name), "\n")
	for i := 0; i < len(lines); i++ {
		if strings.HasPrefix(lines[i], "## ") {
			b.section()
			continue
		}
		kind, fenced := strings.CutPrefix(lines[i], "```")
		if !fenced {
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		b.block(kind, begin+1, lines[begin:i])
	}
}

// book is the document as far as it was read.
type book struct {
	t       *testing.T
	base    string // resources of every section
	added   string // resources of this one
	pending string // resources that may be refused
	begun   bool
	table   *compile.Table // of what was taken

	asks func(at int, line string) // what becomes of a request

	asked, refused int
}

func (b *book) section() {
	b.settle(0)
	if !b.begun {
		b.begun, b.base, b.added = true, b.added, ""
	}
	b.added = ""
}

// block takes a fenced block of some kind, that begins at a line.
func (b *book) block(kind string, at int, lines []string) {
	text := strings.Join(lines, "\n")
	switch kind {
	case "yaml":
		b.settle(at)
		b.pending = "---\n" + text + "\n"
	case "refused":
		_, problems := b.plan(b.base + b.added + b.pending)
		var got []string
		for _, p := range problems.Kept {
			got = append(got, p.String())
		}
		if strings.Join(got, "\n") != text {
			b.t.Errorf("line %d: refused for\n%s", at, strings.Join(got, "\n"))
		}
		b.pending = ""
		b.refused++
	case "requests":
		b.settle(at)
		for i, line := range lines {
			b.asks(at+i, line)
		}
	default:
		b.t.Errorf("line %d: nobody runs a block of %q", at, kind)
	}
}

// settle takes what is pending, which nobody says is refused.
func (b *book) settle(at int) {
	b.t.Helper()
	b.added += b.pending
	b.pending = ""
	plan, problems := b.plan(b.base + b.added)
	if problems.Total > 0 {
		b.t.Fatalf("before line %d: %s", at, problems.Kept[0].String())
	}
	b.table = tableOf(b.t, plan)
	for _, r := range b.table.Rejects() {
		b.t.Errorf("before line %d: %s", at, r)
	}
}

// today is when the examples are applied, and decided.
var today = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)

func (b *book) plan(text string) (*admission.Plan, resource.Problems) {
	located, problems := resource.ParseYAML([]byte(text))
	if problems.Total > 0 {
		return nil, problems
	}
	var resources []*adminv1.Resource
	for _, l := range located {
		resources = append(resources, l.Resource)
	}
	var state admission.State
	return state.Plan(admission.NewApply(resources, today))
}

func tableOf(t *testing.T, plan *admission.Plan) *compile.Table {
	t.Helper()
	var entries []snapshot.Entry
	for _, c := range plan.Changes {
		e, err := snapshot.NewEntry(c.Document)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	set := snapshot.NewSet(entries...)
	head, err := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))).SignHead(snapshot.Statement{
		Epoch: 1, Environment: "prod", Revision: 1, Root: set.Root(), Documents: set.Len(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatal(err)
	}
	return compile.Compile(nil, s)
}

// ask asks "WHO METHOD TARGET [NAME=VALUE...] => REASON [POLICY] [...]". What
// follows may be the changes that would have turned it round, one a line.
func (b *book) ask(at int, line string) {
	b.asked++
	question, want, ok := strings.Cut(line, " => ")
	f := strings.Fields(question)
	if !ok || len(f) < 3 {
		b.t.Errorf("line %d: %q is no request", at, line)
		return
	}
	in := b.input(f)
	if got := answer(b.table.Policies(), in, strings.Contains(want, "; ")); got != strings.Join(strings.Fields(want), " ") {
		b.t.Errorf("line %d: %s\n got %s\nwant %s", at, question, got, want)
	}
}

func (b *book) input(f []string) *policy.Input {
	b.t.Helper()
	path, query, _ := strings.Cut(f[2], "?")
	route, _ := b.table.Match(&request.Canonical{Method: f[1], Host: "shop.example", Path: path, RawQuery: query})
	if route == nil {
		b.t.Fatalf("no route for %s", f)
	}
	in := &policy.Input{
		Principal: principal(f[0]), Method: f[1], Host: "shop.example", Path: path, Query: query,
		Route: route.ID(), RouteLabels: route.Labels, Templates: route.Paths, Header: map[string][]string{},
		Now: today, ClientIP: netip.MustParseAddr("203.0.113.7"), TLSVersion: "1.3",
	}
	for _, given := range f[3:] {
		name, value, _ := strings.Cut(given, "=")
		switch name {
		case "ip":
			in.ClientIP = netip.MustParseAddr(value)
		case "time":
			at, err := time.Parse(time.RFC3339, value)
			if err != nil {
				b.t.Fatal(err)
			}
			in.Now = at
		default:
			in.Header[name] = []string{value}
		}
	}
	return in
}

// principal reads "-", a SPIFFE ID, or ID,GROUP,...
func principal(who string) *policy.Principal {
	names := strings.Split(who, ",")
	switch {
	case who == "-":
		return nil
	case strings.HasPrefix(who, "spiffe://"):
		return &policy.Principal{Kind: policy.Workload, ID: who, SPIFFEID: who}
	}
	return &policy.Principal{
		Kind: policy.User, ID: names[0], Groups: names[1:], Issuer: "https://login.example", Provider: "shop/login",
	}
}

func answer(set *policy.Set, in *policy.Input, why bool) string {
	e := set.Explain(in)
	text := string(e.Decision.Reason)
	if e.Decision.Policy != "" {
		text += " " + e.Decision.Policy
	}
	if s := e.Decision.Shadow; s.Policy != "" {
		text += fmt.Sprintf(", would be %s %s", s.Reason, s.Policy)
	}
	if !why {
		return text
	}
	for _, change := range e.Changes {
		var flips []string
		for _, f := range change {
			flip := f.Policy + " " + string(f.Part)
			if f.Line > 0 {
				flip += fmt.Sprintf(":%d:%d", f.Line, f.Column)
			}
			flips = append(flips, flip+" ["+f.Text+"] were "+f.Want.String())
		}
		text += "; " + strings.Join(flips, " and ")
	}
	return text
}
