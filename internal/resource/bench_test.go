package resource_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
)

func BenchmarkParseDocument(b *testing.B) {
	for name, text := range map[string]string{
		"route":  of("Route", `{hosts: [a.example], paths: ["/v1/orders/{id}", /v1/orders], methods: [GET], upstream: u, authentication: {identityProviders: [p]}}`),
		"policy": of("Policy", `{routes: {labels: {app: orders}}, effect: ALLOW, principals: [{group: shop}], methods: [GET], paths: ["/v1/orders/{id}"]}`),
	} {
		r := parse(b, text)[0].Resource
		document := encode(b, r)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := resource.ParseDocument(document); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, problems := resource.Decode(r); problems.Total > 0 {
					b.Fatal(problems)
				}
			}
		})
	}
}
