package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// many is how many members a Set may have.
const many = 100_000

// largeSets are two Sets that are full, and a DENY that looks up the address, and
// one that looks up who asks, in one file. The last members are given.
func largeSets(network, id string) string {
	var networks, ids strings.Builder
	for i := range many - 1 {
		fmt.Fprintf(&networks, "    - 2001:db8:1234:5678:9abc:def0:%x:%x/128\n", 0x1000+i>>16, i&0xffff)
		fmt.Fprintf(&ids, "    - 6f9619ff-8b86-d011-b42d-00c04fc%05d\n", i)
	}
	const text = `apiVersion: sallyport/v1
kind: Set
metadata: {namespace: shop, name: blocked}
spec:
  cidrs:
%s    - %s
---
apiVersion: sallyport/v1
kind: Set
metadata: {namespace: shop, name: contractors}
spec:
  ids:
%s    - %s
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: not-from-there}
spec: {routes: {names: [orders]}, effect: DENY, when: signals.ip.inSet("blocked")}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: not-contractors}
spec: {routes: {names: [inventory]}, effect: DENY, when: principal.id.inSet("contractors")}
`
	return fmt.Sprintf(text, networks.String(), network, ids.String(), id)
}

// Sets as large as they may be are applied from one file, and enforced by every
// proxy, which proves it: also one that starts while nobody is there to ask.
func TestLargeSetsAreEnforced(t *testing.T) {
	f := start(t)
	wants := func(step string, m *fleet.Member, want int) {
		t.Helper()
		for _, path := range []string{"/v1/orders/7", "/v1/inventory/7"} {
			if status, body := ask(t, f, m, http.MethodGet, path); status != want {
				t.Errorf("%s: %s answers %s with %d %s", step, m.Name, path, status, body)
			}
		}
	}
	began := time.Now()
	applyFile(t, f, largeSets("127.0.0.1", "alice"))
	fmt.Printf("figure e2e_two_sets_of_100k_enforced %.0f ms\n", float64(time.Since(began).Milliseconds()))
	for _, m := range f.Members {
		wants("members", m, http.StatusForbidden)
	}
	if err := f.ControlPlane.Stop(); err != nil {
		t.Fatal(err)
	}
	aws := f.Members[0]
	if err := aws.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := aws.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), aws); err != nil {
		t.Fatal(err)
	}
	wants("after a start alone", aws, http.StatusForbidden)
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.ControlPlaneReady(t.Context()), f.Connected(t.Context())); err != nil {
		t.Fatal(err)
	}
	applyFile(t, f, largeSets("192.0.2.1", "mallory"))
	for _, m := range f.Members {
		wants("no members any more", m, http.StatusOK)
	}
}

// applyFile applies a file as operators do, and waits for the proof.
func applyFile(t *testing.T, f *fleet.Fleet, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resources.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, time.Minute), filepath.Join(bin, "sallyport"), "apply", "-f", file, "--wait", "50s")
	cmd.Env = operator(f)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
}
