package collector_test

import (
	"testing"

	"github.com/sallyport/sallyport/dataplane/collector"
)

func TestEndpoints(t *testing.T) {
	for endpoint, good := range map[string]bool{
		"https://collector.example:4318/v1/logs": true,
		"http://127.0.0.1:4318/v1/logs":          true,
		"http://[::1]:4318/v1/logs":              true,
		"http://localhost:4318/v1/logs":          false,
		"http://collector.example/v1/logs":       false,
		"http://10.0.0.1:4318/v1/logs":           false,
		"https://a:b@collector.example/v1/logs":  false,
		"https://collector.example/v1/logs?x=y":  false,
		"grpc://collector.example:4317":          false,
		"collector.example:4317":                 false,
		"":                                       false,
	} {
		if err := collector.CheckEndpoint(endpoint); (err == nil) != good {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
