package fleet_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

var routes = flag.Int("routes", 1000, "how many routes the large environment has, and a policy for each ten of them")

const (
	// applied is how many resources are applied at once.
	applied = 5_000
	// first bounds how long a proxy may take to enforce a large snapshot when this
	// machine does other things too.
	first = 5 * time.Minute
)

// A proxy that has nothing gets, and enforces, an environment as large as one may be,
// and then each change of a policy of it.
func TestLargeEnvironment(t *testing.T) {
	s := begin(t)
	for _, m := range s.Members {
		must(t, m.Stop()) // what comes until all is there would be its work as well
	}
	revision := s.fill(t, *routes)
	m := s.Members[0]
	must(t, os.RemoveAll(s.Path(m.Name+"-state")))
	eventually(t, "the replica has all of it", func() bool {
		b, err := s.first.get(t, "/metrics")
		return err == nil && bytes.Contains(b, fmt.Appendf(nil, "sallyport_environment_distributed_revision{environment=%q} %d\n", m.Environment, revision))
	})
	began := time.Now()
	must(t, m.Start())
	s.prove(t, revision, m)
	figure(t, fmt.Sprint("first_snapshot_s_", *routes), time.Since(began).Seconds(), "s", 10)
	itself := &replica{Process: m.Process}
	spent := itself.cpu(t)
	figure(t, fmt.Sprint("first_snapshot_cpu_s_", *routes), spent.Seconds(), "s", 0)

	var took durations
	from := len(swaps(t, m))
	for i := range max(*changes, 5) {
		s.prove(t, apply(t, s.first, largePolicy(0, fmt.Sprint("version ", i))), m)
	}
	took = append(took, swaps(t, m)[from:]...)
	if len(took) == 0 {
		t.Fatal("the proxy has logged no swap")
	}
	figure(t, fmt.Sprint("change_cpu_ms_", *routes), float64((itself.cpu(t)-spent).Milliseconds())/float64(len(took)), "ms", 0)
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	figure(t, fmt.Sprint("swap_p50_", *routes), ms(took[len(took)/2]), "ms", 0)
	figure(t, fmt.Sprint("swap_max_", *routes), ms(took[len(took)-1]), "ms", 50)
	figure(t, fmt.Sprint("proxy_mib_", *routes), mib(t, m.PID(), "VmRSS"), "MiB", 1024)
	figure(t, fmt.Sprint("proxy_peak_mib_", *routes), mib(t, m.PID(), "VmHWM"), "MiB", 1024)
	figure(t, fmt.Sprint("replica_mib_", *routes), mib(t, s.first.PID(), "VmRSS"), "MiB", 1024)
	figure(t, fmt.Sprint("replica_peak_mib_", *routes), mib(t, s.first.PID(), "VmHWM"), "MiB", 1024)
}

// fill applies the routes and policies, and returns the last revision.
func (s *stage) fill(t *testing.T, n int) (revision int64) {
	t.Helper()
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(largeRoute, i, i/10))
	}
	for i := range n / 10 {
		all = append(all, largePolicy(i, "first"))
	}
	for some := range slices.Chunk(all, applied) {
		revision = apply(t, s.first, strings.Join(some, "---\n"))
	}
	return revision
}

const largeRoute = `apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: route-%[1]d, labels: {app: app-%[2]d}}
spec:
  environments: [aws-demo]
  hosts: [app-%[2]d.example]
  paths: [/v1/things-%[1]d/**]
  upstream: inventory
  authentication: {identityProviders: [demo-tokens]}
`

func largePolicy(i int, group string) string {
	return fmt.Sprintf(`apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: policy-%[1]d}
spec:
  environments: [aws-demo]
  routes: {labels: {app: app-%[1]d}}
  effect: ALLOW
  principals: [{group: "team-%[1]d"}, {group: %[2]q}]
  methods: [GET, POST]
  when: request.path.startsWith("/v1/") && signals.tls.version == "1.3"
`, i, group)
}

// prove waits for the control plane's proof that one proxy enforces a revision.
func (s *stage) prove(t *testing.T, revision int64, m *fleet.Member) {
	t.Helper()
	for late := time.Now().Add(first); ; {
		stream, err := s.first.admin.Fleet.WaitEnforced(t.Context(), connect.NewRequest(&adminv1.WaitEnforcedRequest{
			Revision: revision, Environments: []string{m.Environment}, Timeout: durationpb.New(within),
		}))
		must(t, err)
		last := &adminv1.WaitEnforcedResponse{}
		for stream.Receive() {
			last = stream.Msg()
		}
		_ = stream.Close() // its error is the stream's
		if last.GetDone() && last.GetEnvironments()[0].GetEnforced() == 1 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s does not enforce revision %d: %v, %v", m.Name, revision, last, stream.Err())
		}
	}
}

// swaps are how long the proxy took to compile each snapshot of its environment and
// put it in force, as it says in its log.
func swaps(t *testing.T, m *fleet.Member) (took durations) {
	t.Helper()
	b, err := os.ReadFile(m.Log)
	must(t, err)
	for line := range bytes.Lines(b) {
		var entry struct {
			Msg, Environment string
			Took             time.Duration
		}
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "snapshot applied" && entry.Environment == m.Environment {
			took = append(took, entry.Took)
		}
	}
	return took
}

// mib is what a process holds, or has held at most.
func mib(t *testing.T, pid int, what string) float64 { return float64(status(t, pid, what)) / 1024 }
