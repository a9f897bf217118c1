//go:build conformance

package conformance_test

import (
	"net"
	"strconv"
	"testing"
)

// times is how often each case is tried: what a proxy loses now and then passes most
// single tries.
const times = 40

// soakCalls are made over one connection, and over one each.
const soakCalls = 500

// Every case of gRPC's interoperability tests but those that need a cloud's accounts,
// and pick_first_unary, for which grpc-go's server has no answer.
var interop = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service", "orca_per_rpc", "orca_oob",
}

// The clients and the server of grpc-go understand each other through a proxy, each
// time.
func TestInterop(t *testing.T) {
	s := begin(t)
	port := freePort(t)
	s.keep(t, nil, "server", "-port", port, "-use_tls",
		"-tls_cert_file", s.fleet.Path("proxy-tls.pem"), "-tls_key_file", s.fleet.Path("proxy-tls-key.pem"))
	aws := s.fleet.Members[0]
	s.apply(t, upstream{"grpc", net.JoinHostPort(host, port), s.secure(), aws, []string{
		"/grpc.testing.TestService/**", "/grpc.testing.UnimplementedService/**", "/xds.service.orca.v3.OpenRcaService/**",
	}})
	client := []string{
		"-server_host", host, "-server_port", s.port(t, aws), "-use_tls", "-use_test_ca", "-ca_file", s.fleet.Described.CAFile,
		"-service_config_json", `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`, // for orca
	}
	tries := 0
	for _, name := range interop {
		t.Run(name, func(t *testing.T) {
			for try := range times {
				if out, err := s.run(t, nil, "client", append(client, "-test_case", name)...); err != nil {
					t.Fatalf("try %d: %v\n%s", try, err, out)
				}
				tries++
			}
		})
	}
	figure("interop_tries", tries, "tries")
	client = append(client, "-soak_iterations", strconv.Itoa(soakCalls), "-soak_overall_timeout_seconds", "120",
		"-soak_per_iteration_max_acceptable_latency_ms", "10000")
	for _, name := range []string{"rpc_soak", "channel_soak"} {
		t.Run(name, func(t *testing.T) {
			if out, err := s.run(t, nil, "client", append(client, "-test_case", name)...); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// freePort returns a port that nobody listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	must(t, err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must(t, err)
	return port
}
