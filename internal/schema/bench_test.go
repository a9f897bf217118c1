package schema_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/schema"
)

// Bodies of a kilobyte are judged in far less time than their way takes.
func BenchmarkValidate1KiB(b *testing.B) {
	s, err := schema.Compile(schema.Source{JSONSchema: orderSchema})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(orderBody(10))
	_, rule := s.Head(&schema.Request{Method: "POST", Path: "/", HasBody: true, Header: map[string][]string{"Content-Type": {"application/json"}}}, schema.Options{})
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	before := processorTime(b)
	for b.Loop() {
		if f := rule.Judge(body); !f.Valid() {
			b.Fatal(f)
		}
	}
	took := float64(processorTime(b)-before) / float64(b.N) / float64(time.Microsecond)
	b.ReportMetric(took, "cpu-us/op")
	fmt.Printf("figure validate_1kib_us %.2f us\n", took)
}

// processorTime is what the process has spent: others on the machine do not count.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const orderSchema = `
type: object
required: [id, customer, items]
additionalProperties: false
properties:
  id: {type: string, format: uuid}
  customer: {type: object, required: [name, email], properties: {name: {type: string, maxLength: 100}, email: {type: string, format: email}}}
  placed: {type: string, format: date-time}
  currency: {enum: [EUR, USD, GBP]}
  note: {type: [string, "null"], maxLength: 500}
  items:
    type: array
    minItems: 1
    maxItems: 100
    items:
      type: object
      required: [sku, count, price]
      additionalProperties: false
      properties:
        sku: {type: string, pattern: "^[A-Z]{2}-[0-9]{4}$"}
        count: {type: integer, minimum: 1, maximum: 1000}
        price: {type: number, exclusiveMinimum: 0}
        gift: {type: boolean}
        tags: {type: array, items: {type: string}, uniqueItems: true}
`

// orderBody is an order of some items; with ten of them it has about 1 KiB.
func orderBody(items int) string {
	var all []string
	for i := range items {
		all = append(all, fmt.Sprintf(`{"sku":"AB-%04d","count":%d,"price":%d.95,"gift":false,"tags":["new","sale-%d","blue"]}`, i, i+1, i*7, i))
	}
	return `{"id":"6f1c3bb0-9a2b-4c60-9c1f-7f3a7d2b8f10","customer":{"name":"A customer","email":"customer@shop.example"},` +
		`"placed":"2026-11-26T09:00:00Z","currency":"EUR","note":null,"items":[` + strings.Join(all, ",") + `]}`
}
