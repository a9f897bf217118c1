package resource_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

const many = 100_000

// members returns the text of so many members of a Set, one a line.
func members(n int, member func(i int) string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  - %s\n", member(i))
	}
	return b.String()
}

// network4 and network6 are networks that differ; network6 has the longest text
// that a network can have.
func network4(i int) string { return fmt.Sprintf("10.%d.%d.%d/30", i>>14, i>>6&255, i<<2&255) }

func network6(i int) string {
	b := [16]byte{0x20, 0x01, 0x1d, 0xb8, 0x12, 0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0x34}
	binary.BigEndian.PutUint32(b[12:], 0x1000_1000+uint32(i))
	return netip.AddrFrom16(b).String() + "/128"
}

func idOf(bytes int) func(int) string {
	return func(i int) string { return fmt.Sprintf("u%0*d", bytes-1, i) }
}

func setOf(field, members string) string {
	return "apiVersion: sallyport/v1\nkind: Set\nmetadata: {namespace: shop, name: many}\nspec:\n  " + field + ":\n" + members
}

// setWith is a Set as it is applied, with members and one more, if that is not
// empty.
func setWith(field string, n int, member func(i int) string, last string) *adminv1.Resource {
	list := &structpb.ListValue{}
	for i := range n {
		list.Values = append(list.Values, structpb.NewStringValue(member(i)))
	}
	if last != "" {
		list.Values = append(list.Values, structpb.NewStringValue(last))
	}
	return &adminv1.Resource{
		ApiVersion: resource.APIVersion, Kind: string(resource.KindSet),
		Metadata: &adminv1.Metadata{Namespace: "shop", Name: "many"},
		Spec:     &structpb.Struct{Fields: map[string]*structpb.Value{field: structpb.NewListValue(list)}},
	}
}

// A Set takes what its rules say that it takes, comes back as it was applied,
// and nothing is taken beyond.
func TestLargeSets(t *testing.T) {
	for name, c := range map[string]struct {
		set   *adminv1.Resource
		wrong string // within the first problem; empty when there is none
	}{
		"IPv4 networks":          {setWith("cidrs", many, network4, ""), ""},
		"IPv6 networks":          {setWith("cidrs", many, network6, ""), ""},
		"IDs of 80 bytes":        {setWith("ids", many, idOf(80), ""), ""},
		"a network too many":     {setWith("cidrs", many, network4, "10.0.0.0/8"), "100000"},
		"IDs that are too long":  {setWith("ids", many, idOf(84), ""), "more than 8388608"},
		"a network that is none": {setWith("cidrs", many-1, network4, "10.0.0.1/8"), "10.0.0.0/8"},
		"nothing that is one":    {setWith("cidrs", many, func(int) string { return "10.0.0.1/8" }, ""), "10.0.0.0/8"},
	} {
		p, problems := resource.Decode(c.set)
		if c.wrong != "" {
			if problems.Total == 0 || !strings.Contains(problems.Kept[0].Message, c.wrong) {
				t.Errorf("%s: %v", name, problems.Kept)
			}
			continue
		}
		document := encode(t, c.set)
		read, err := resource.ParseDocument(document)
		if err != nil || !proto.Equal(read.Spec, p.Spec) {
			t.Errorf("%s: read as another: %v", name, err)
		}
		if again := encode(t, present(t, document)); !slices.Equal(again, document) {
			t.Errorf("%s: presented and applied it is another document", name)
		}
	}
}

// BenchmarkLargeSet reads a Set of 100,000 members: as an operator applies it,
// from its file, and as every replica and proxy does, from its document.
func BenchmarkLargeSet(b *testing.B) {
	for name, text := range map[string]string{
		"cidrs4": setOf("cidrs", members(many, network4)),
		"cidrs6": setOf("cidrs", members(many, network6)),
		"ids":    setOf("ids", members(many, idOf(36))),
	} {
		located := parse(b, text)
		document := encode(b, located[0].Resource)
		fmt.Printf("figure set_100k_%s_document %d bytes\n", name, len(document))
		for step, do := range map[string]func(){
			"file":   func() { resource.ParseYAML([]byte(text)) },
			"decode": func() { encode(b, located[0].Resource) },
			"parse": func() {
				if _, err := resource.ParseDocument(document); err != nil {
					b.Fatal(err)
				}
			},
		} {
			b.Run(name+"/"+step, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					do()
				}
				fmt.Printf("figure set_100k_%s_%s %.1f ms\n", name, step, float64(b.Elapsed().Microseconds())/1000/float64(b.N))
			})
		}
	}
	set := &resourcev1.Set{}
	for i := range many {
		set.Cidrs = append(set.Cidrs, network4(i))
	}
	b.Run("networks", func(b *testing.B) {
		for b.Loop() {
			resource.Networks(set)
		}
	})
}
