package gateway_test

import (
	"net/http"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/dataplane/gateway"
	"github.com/sallyport/sallyport/dataplane/upstream"
	names "github.com/sallyport/sallyport/dataplane/upstream/dns"
	"github.com/sallyport/sallyport/dataplane/upstream/health"
	"github.com/sallyport/sallyport/internal/compile"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Requests stay away from an endpoint that answers them well, and checks badly.
func TestHealthChecks(t *testing.T) {
	w := newWorld(t, options{})
	ill, well := newEcho(t), newEcho(t)
	ill.answerWith(func(answer http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && r.Host == "orders.example" {
			answer.WriteHeader(http.StatusTooManyRequests)
		}
	})
	w.apply(w.usual(plaintext(ill.address(), well.address()) +
		`, healthCheck: {http: {path: /healthz, host: orders.example, statuses: [{from: 200, to: 404}]}, interval: 1s}`))
	c := w.client(true, w.tls(host))
	for end := time.Now().Add(20 * time.Second); ; {
		at := map[string]bool{}
		for range 4 {
			res, _ := w.ask(c, "GET", "/v1/orders", nil)
			at[w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")).Endpoint] = true
		}
		if len(at) == 1 && at[well.address()] {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("requests go to %v", at)
		}
	}
}

// What a document leaves out is as it says.
func TestEndpointsOfADocument(t *testing.T) {
	for _, c := range []struct {
		from *resourcev1.Upstream
		want upstream.Spec
	}{
		{&resourcev1.Upstream{}, upstream.Spec{}},
		{
			&resourcev1.Upstream{
				Resolution:  &resourcev1.Resolution{Interval: durationpb.New(time.Minute), Addresses: resourcev1.AddressFamily_ADDRESS_FAMILY_IPV6},
				HealthCheck: &resourcev1.HealthCheck{Check: &resourcev1.HealthCheck_Tcp{}},
				Locality:    &resourcev1.Locality{Zones: map[string]string{"a.example:443": "eu/a"}, Threshold: 50},
			},
			upstream.Spec{
				Resolution: upstream.Resolution{Every: time.Minute, Family: names.IPv6},
				Check:      &health.Check{Kind: health.TCP, Interval: 10 * time.Second, Timeout: 2 * time.Second, Healthy: 2, Fail: 3},
				Zones:      map[string]string{"a.example:443": "eu/a"}, Near: 50,
			},
		},
		{
			&resourcev1.Upstream{
				Resolution: &resourcev1.Resolution{Addresses: resourcev1.AddressFamily_ADDRESS_FAMILY_IPV4},
				HealthCheck: &resourcev1.HealthCheck{
					Check:    &resourcev1.HealthCheck_Grpc{Grpc: &resourcev1.GRPCCheck{Service: "shop.Orders"}},
					Interval: durationpb.New(time.Second), Timeout: durationpb.New(time.Minute), HealthyThreshold: 7, UnhealthyThreshold: 1,
				},
			},
			upstream.Spec{
				Resolution: upstream.Resolution{Family: names.IPv4},
				Check:      &health.Check{Kind: health.GRPC, Service: "shop.Orders", Interval: time.Second, Timeout: time.Minute, Healthy: 7, Fail: 1},
			},
		},
		{
			&resourcev1.Upstream{HealthCheck: &resourcev1.HealthCheck{}},
			upstream.Spec{Check: &health.Check{Interval: 10 * time.Second, Timeout: 2 * time.Second, Healthy: 2, Fail: 3}},
		},
	} {
		got := gateway.Upstreams([]*compile.Upstream{{Spec: c.from}})[0]
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v is %+v, want %+v", c.from, got, c.want)
		}
	}
}
