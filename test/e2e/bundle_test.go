package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// resettle writes the settings of a proxy anew, with changes.
func resettle(t *testing.T, m *fleet.Member, changes map[string]any) {
	t.Helper()
	file := m.Args[len(m.Args)-1]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]any{}
	if err := yaml.Unmarshal(b, &settings); err != nil {
		t.Fatal(err)
	}
	maps.Copy(settings, changes)
	if b, err = yaml.Marshal(settings); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A new proxy with a bundle serves where there is no control plane, no Workload API
// and nothing on its disk; it cuts off who is revoked, and says how old what it knows is.
func TestBundleWithoutAControlPlane(t *testing.T) {
	f := start(t)
	aws := f.Members[0]
	sequence, err := f.Admin.Revoke(t.Context(), revocationOf(f, "mallory", "mallory"), "before the bundle")
	if err != nil {
		t.Fatal(err)
	}
	file := f.Path("aws.bundle")
	eventually(t, 30*time.Second, func(ctx context.Context) (bool, string) {
		export := exec.CommandContext(ctx, filepath.Join(bin, "sallyport"), "bundle", "export", "-e", aws.Environment, "--to", file)
		export.Env = operator(f)
		said, err := export.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		return strings.Contains(string(said), fmt.Sprintf("revocations at sequence %d, confirmed at", sequence)), string(said)
	})
	for _, p := range []*fleet.Process{aws.Process, f.ControlPlane} {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	resettle(t, aws, map[string]any{
		"state_directory": f.Path("another-state"),
		"workload":        map[string]any{"socket": f.Path("nobody"), "trust_domain": fleet.TrustDomain},
		"bundle":          map[string]any{"environment": aws.Environment, "file": file},
	})
	if err := aws.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), aws); err != nil {
		t.Fatal(err)
	}
	if status, body := ask(t, f, aws, http.MethodGet, "/v1/inventory/7"); status != http.StatusOK {
		t.Errorf("a request is answered with %d %s", status, body)
	}
	if answer := asks(t, f, aws, "mallory"); answer != "401 revoked" && answer != "403 revoked" {
		t.Errorf("who is revoked gets %s", answer)
	}
	// Only what needs an identity of its own fails for lack of one.
	if answer := asks(t, f, aws, "alice"); !strings.HasPrefix(answer, "503 identity_") {
		t.Errorf("a SPIFFE hop without an SVID answers %s", answer)
	}
	if age := metrics(t, aws.Status)["sallyport_security_age_seconds"]; age < 0 || age > 300 {
		t.Errorf("the security age is %v", age)
	}

	// One with another key pinned takes nothing of it.
	if err := aws.Stop(); err != nil {
		t.Fatal(err)
	}
	resettle(t, aws, map[string]any{
		"state_directory": f.Path("a-third-state"), "root_public_key_file": "", "root_public_key": strings.Repeat("A", 43) + "=",
	})
	if err := aws.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func(context.Context) (bool, string) {
		b, err := os.ReadFile(aws.Log)
		return err == nil && strings.Contains(string(b), `"bundle cannot be used"`), "nothing was refused"
	})
	if revision := metrics(t, aws.Status)["sallyport_snapshot_revision"]; revision != 0 {
		t.Errorf("revision %v of another fleet is in force", revision)
	}
}
