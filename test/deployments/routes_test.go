package deployments_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/evaluate"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// The examples of routes are taken as the text says.
func TestRoutesDocument(t *testing.T) {
	b := book{t: t}
	b.asks = b.take
	b.read("docs/routes.md")
	if b.asked < 15 || b.refused < 2 {
		t.Errorf("%d requests and %d refusals: too few examples were found", b.asked, b.refused)
	}
}

// take asks "METHOD URL [NAME=VALUE...] => ROUTE[, ROUTE...]", or
// "ROUTE: " and where it goes.
func (b *book) take(at int, line string) {
	b.asked++
	asked, want, ok := strings.Cut(line, " => ")
	f := strings.Fields(asked)
	if !ok || len(f) < 2 {
		b.t.Errorf("line %d: %q is no request", at, line)
		return
	}
	target, err := url.Parse(f[1])
	if err != nil {
		b.t.Errorf("line %d: %v", at, err)
		return
	}
	described := &adminv1.Question{Method: f[0], Host: target.Host, Path: target.RequestURI()}
	for _, given := range f[2:] {
		name, value, _ := strings.Cut(given, "=")
		described.Headers = append(described.Headers, &decisionv1.Header{Name: name, Value: value})
	}
	q, err := evaluate.Describe(described, today)
	if err != nil {
		b.t.Errorf("line %d: %v", at, err)
		return
	}
	a := evaluate.Ask(b.table, &q)
	got := strings.Join(a.GetRoutes(), ", ")
	if a.GetReason() == evaluate.ReasonPreflight {
		got = a.GetRoute() + ": " + a.GetReason()
	}
	if a.GetTarget() != "" {
		got = a.GetRoute() + ": " + a.GetTarget()
	}
	if a.GetRoute() == "" || a.GetReason() == "denied_by_policy" || a.GetReason() == evaluate.ReasonNoPreflight {
		got = fmt.Sprint(a.GetStatus(), " ", a.GetReason())
	} else if a.GetRoutes()[0] != a.GetRoute() {
		b.t.Errorf("line %d: %s is taken by %s, and first is %s", at, asked, a.GetRoute(), got)
	}
	if got != want {
		b.t.Errorf("line %d: %s\n got %s\nwant %s", at, asked, got, want)
	}
}
