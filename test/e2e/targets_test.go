package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/storage/local"
)

// clouds is a fleet in two clouds, each with an etcd, with a replica that follows that
// one, and with a proxy that this replica serves.
type clouds struct {
	*fleet.Fleet
	gcp *local.Etcd
}

// startClouds starts a fleet with one etcd, and adds the other as an operator would.
func startClouds(t *testing.T) *clouds {
	t.Helper()
	f, err := fleet.Start(t.Context(), fleet.Config{Dir: folder(t), Bin: bin, Log: slog.New(slog.DiscardHandler), Replicas: 2})
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &clouds{Fleet: f, gcp: secondEtcd(t)}
	for i, name := range []string{"controlplane", "controlplane-2"} {
		c.rewrite(t, name, map[string]any{
			"targets": []map[string]any{{"name": "gcp", "etcd": map[string]any{"endpoints": c.gcp.Endpoints()}}},
			"follows": []string{"etcd", "gcp"}[i],
		})
		c.restart(t, f.Replicas[i].Process, func(ctx context.Context) error { return f.ReplicaReady(ctx, f.Replicas[i]) })
	}
	for i, m := range f.Members {
		c.rewrite(t, m.Name, map[string]any{"control_planes": []string{f.Replicas[i].Registration}})
		c.restart(t, m.Process, func(ctx context.Context) error { return f.MemberReady(ctx, m) })
	}
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func secondEtcd(t *testing.T) *local.Etcd {
	t.Helper()
	e, err := local.NewEtcd(local.EtcdConfig{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// rewrite changes keys of a settings file of the fleet.
func (c *clouds) rewrite(t *testing.T, name string, keys map[string]any) {
	t.Helper()
	path, content := c.Path(name+".yaml"), map[string]any{}
	b, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(b, &content)
	}
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(content, keys)
	if b, err = yaml.Marshal(content); err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (*clouds) restart(t *testing.T, p *fleet.Process, ready func(context.Context) error) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// change applies a policy and waits until these environments enforce it.
func (c *clouds) change(t *testing.T, name string, environments ...string) (revision int64) {
	t.Helper()
	revision, err := c.Admin.Apply(within(t, 10*time.Second), policyNamed(name), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Admin.Enforced(within(t, 10*time.Second), revision, environments...); err != nil {
		t.Fatal(err)
	}
	return revision
}

// wantLag waits until every replica shows that a target is behind, or is not.
func (c *clouds) wantLag(t *testing.T, target string, behind bool) {
	t.Helper()
	for _, r := range c.Replicas {
		eventually(t, 15*time.Second, func(context.Context) (bool, string) {
			m := metrics(t, r.Status)
			revisions, ok := m[fmt.Sprintf("sallyport_target_lag_revisions{target=%q}", target)]
			seconds := m[fmt.Sprintf("sallyport_target_lag_seconds{target=%q}", target)]
			return ok && revisions > 0 == behind && seconds > 0 == behind,
				fmt.Sprintf("%s says that %s lacks %v revisions for %v seconds", r.Name, target, revisions, seconds)
		})
	}
}

// The same is published to both etcds. Without one of them, the proxies behind the
// other get every change, and everybody sees who is behind; once it is back those who
// are behind it catch up without anybody's doing.
func TestAnEtcdInEachCloud(t *testing.T) {
	c := startClouds(t)
	aws, gcp := c.Members[0], c.Members[1]
	c.change(t, "for-both", aws.Environment, gcp.Environment)
	for _, target := range []string{"etcd", "gcp"} {
		c.wantLag(t, target, false)
	}

	if err := c.gcp.Stop(); err != nil {
		t.Fatal(err)
	}
	var last int64
	for _, name := range []string{"while-gcp-is-away", "and-one-more"} {
		began := time.Now()
		last = c.change(t, name, aws.Environment)
		if took := time.Since(began); took > 5*busy*time.Second {
			t.Errorf("the proxy in aws enforced it after %s", took)
		}
	}
	c.wantLag(t, "gcp", true)
	c.wantLag(t, "etcd", false)

	began := time.Now()
	if err := c.gcp.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Admin.Enforced(within(t, 30*time.Second), last, gcp.Environment); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("figure target_caught_up %d ms\n", time.Since(began).Milliseconds())
	c.wantLag(t, "gcp", false)
	for _, m := range c.Members {
		checkOrder(t, m)
	}
}
