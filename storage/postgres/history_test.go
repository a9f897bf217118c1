package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	f := history(t)
	for _, c := range []struct {
		key    string
		before snapshot.Revision
		page   storage.Page
		want   []string
	}{
		{"Policy/shop/a", 0, storage.Page{Limit: 9}, []string{"Policy/shop/a@4[aws]a4", "Policy/shop/a@3[]deleted", "Policy/shop/a@2[gcp]a2", "Policy/shop/a@1[all]a1"}},
		{"Policy/shop/a", 4, storage.Page{Limit: 2}, []string{"Policy/shop/a@3[]deleted", "Policy/shop/a@2[gcp]a2"}},
		{"Policy/shop/a", 1, storage.Page{Limit: 2}, nil},
		{"Policy/shop/a", 0, storage.Page{Limit: 9, Bytes: 1}, []string{"Policy/shop/a@4[aws]a4", "Policy/shop/a@3[]deleted"}},
		{"Policy/shop/a", 3, storage.Page{Limit: 9, Bytes: 3}, []string{"Policy/shop/a@2[gcp]a2", "Policy/shop/a@1[all]a1"}},
		{"Route/bank/a", 0, storage.Page{Limit: 9}, nil},
	} {
		past, err := f.History(t.Context(), key(c.key), c.before, c.page)
		if err != nil {
			t.Fatal(err)
		}
		var got []storage.Version
		for _, p := range past {
			got = append(got, p.Version)
			if p.Caller != "ann" || p.Message != "why" || time.Since(p.CommittedAt) > time.Minute {
				t.Errorf("%s was made by %q at %s: %q", show(p.Version), p.Caller, p.CommittedAt, p.Message)
			}
		}
		wantAll(t, fmt.Sprintf("%s before %d", c.key, c.before), got, c.want...)
	}
}

// both shows the sides of differences.
func both(differences []storage.Difference) string {
	var lines []string
	for _, d := range differences {
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", d.Key, strings.TrimPrefix(show(d.Before), d.Key.String()), strings.TrimPrefix(show(d.After), d.Key.String())))
	}
	return strings.Join(lines, "\n")
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	f := history(t)
	f.apply(t, put("Policy/shop/a", "gcp", "a2")) // as it was at 2
	shop := "shop"
	for name, c := range map[string]struct {
		span storage.Span
		want []string
	}{
		"one revision":       {storage.Span{From: 1, To: 2}, []string{"Policy/shop/a: @1[all]a1 -> @2[gcp]a2", "Route/shop/a: @0[]deleted -> @2[gcp]r2"}},
		"the same backwards": {storage.Span{From: 2, To: 1}, []string{"Policy/shop/a: @2[gcp]a2 -> @1[all]a1", "Route/shop/a: @2[gcp]r2 -> @0[]deleted"}},
		"a deletion":         {storage.Span{From: 2, To: 3}, []string{"Policy/shop/a: @2[gcp]a2 -> @3[]deleted"}},
		"changed back":       {storage.Span{From: 2, To: 5}, []string{"Policy/bank/z: @1[aws]z1 -> @4[]deleted"}},
		"came and went":      {storage.Span{From: 3, To: 3}, nil},
		"from nothing": {storage.Span{To: 3}, []string{
			"Environment/aws: @0[]deleted -> @1[aws]environment aws", "Environment/gcp: @0[]deleted -> @1[gcp]environment gcp",
			"Policy/bank/z: @0[]deleted -> @1[aws]z1", "Route/shop/a: @0[]deleted -> @2[gcp]r2",
		}},
		"of a kind":      {storage.Span{From: 1, To: 2, Kind: resource.KindRoute}, []string{"Route/shop/a: @0[]deleted -> @2[gcp]r2"}},
		"of a namespace": {storage.Span{From: 2, To: 4, Namespace: &shop}, []string{"Policy/shop/a: @2[gcp]a2 -> @4[aws]a4"}},
		"after":          {storage.Span{From: 1, To: 2, After: key("Policy/shop/a")}, []string{"Route/shop/a: @0[]deleted -> @2[gcp]r2"}},
		"the first two":  {storage.Span{To: 3, Page: storage.Page{Limit: 2}}, []string{"Environment/aws: @0[]deleted -> @1[aws]environment aws", "Environment/gcp: @0[]deleted -> @1[gcp]environment gcp"}},
		"a small page":   {storage.Span{To: 3, Page: storage.Page{Limit: 9, Bytes: 1}}, []string{"Environment/aws: @0[]deleted -> @1[aws]environment aws", "Environment/gcp: @0[]deleted -> @1[gcp]environment gcp"}},
	} {
		if c.span.Page.Limit == 0 {
			c.span.Page.Limit = 100
		}
		got, err := f.Differences(t.Context(), c.span)
		if err != nil || both(got) != lines(c.want...) {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, both(got), lines(c.want...))
		}
	}
	for _, s := range []storage.Span{{From: 1, To: 6}, {From: 6, To: 1}, {From: -1, To: 1}} {
		_, err := f.Differences(t.Context(), s)
		wantErr(t, fmt.Sprint(s.From, " to ", s.To), err, storage.ErrNotFound)
	}
}
