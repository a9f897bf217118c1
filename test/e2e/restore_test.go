package e2e_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// yesterday is a fleet with a backup of its database.
type yesterday struct {
	*fleet.Fleet
	t        *testing.T
	binaries string // of Postgres
	backup   string
}

// backUp makes a backup of the database of a fleet.
func backUp(t *testing.T, f *fleet.Fleet) *yesterday {
	t.Helper()
	y := &yesterday{Fleet: f, t: t, backup: filepath.Join(t.TempDir(), "backup")}
	conn, err := pgx.Connect(t.Context(), f.Postgres.DSN(fleet.Database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if err := conn.QueryRow(t.Context(), `select setting from pg_config where name = 'BINDIR'`).Scan(&y.binaries); err != nil {
		t.Fatal(err)
	}
	y.program("pg_dump", "--format=custom", "--file="+y.backup, "--dbname="+f.Postgres.DSN(fleet.Database))
	return y
}

func (y *yesterday) program(name string, args ...string) {
	y.t.Helper()
	if out, err := exec.CommandContext(y.t.Context(), filepath.Join(y.binaries, name), args...).CombinedOutput(); err != nil {
		y.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// restore puts the backup in the place of the database, whoever uses it.
func (y *yesterday) restore() {
	y.t.Helper()
	if err := y.Postgres.DropDatabase(y.t.Context(), fleet.Database); err != nil {
		y.t.Fatal(err)
	}
	if err := y.Postgres.CreateDatabase(y.t.Context(), fleet.Database, ""); err != nil {
		y.t.Fatal(err)
	}
	y.program("pg_restore", "--exit-on-error", "--single-transaction", "--dbname="+y.Postgres.DSN(fleet.Database), y.backup)
}

// recover runs the command on the machine of the control plane.
func (y *yesterday) recover(args ...string) (string, error) {
	y.t.Helper()
	return y.command(append([]string{"recover", "--settings", y.Path("controlplane.yaml")}, args...)...)
}

// keys runs a command that is about the signing keys.
func (y *yesterday) keys(name string, args ...string) (string, error) {
	y.t.Helper()
	return y.command(append([]string{"keys", name, "--settings", y.Path("controlplane.yaml")}, args...)...)
}

func (y *yesterday) command(args ...string) (string, error) {
	y.t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(y.t.Context(), filepath.Join(bin, "sallyport-controlplane"), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// refused waits for an answer to an Apply, which has to be that it is refused.
func (y *yesterday) refused(witness string) {
	y.t.Helper()
	eventually(y.t, 30*time.Second, func(ctx context.Context) (bool, string) {
		_, err := y.Admin.Apply(ctx, policyNamed("refused"), "refused")
		if connect.CodeOf(err) == connect.CodeUnavailable {
			return false, err.Error()
		}
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), witness) || !strings.Contains(err.Error(), " has seen ") {
			y.t.Fatalf("an Apply was answered with %v", err)
		}
		return true, ""
	})
}

// ready returns what /readyz answers.
func (y *yesterday) ready(ctx context.Context) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, y.Described.Status+"/readyz", nil)
	if err != nil {
		return 0, err.Error()
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, fmt.Sprint(string(b), err)
}

// go on until every proxy enforces a change of the new epoch.
func (y *yesterday) goesOn() {
	y.t.Helper()
	var revision int64
	eventually(y.t, 30*time.Second, func(ctx context.Context) (ok bool, answer string) {
		var err error
		if revision, err = y.Admin.Apply(ctx, policyNamed("afterwards"), "afterwards"); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	if err := y.Admin.Enforced(within(y.t, 30*time.Second), revision, y.Environments()...); err != nil {
		y.t.Fatal(err)
	}
	for _, m := range y.Members {
		p := becomes(y.t, y.Fleet, m, adminv1.Enforcement_ENFORCEMENT_ENFORCED, revision)
		if p.GetEpoch() != 2 {
			y.t.Errorf("%s is at epoch %d, want 2", m.Name, p.GetEpoch())
		}
		checkOrder(y.t, m)
	}
}

// asked checks how both proxies answer alice, who was revoked after the backup.
func (y *yesterday) asked(when, want string) {
	y.t.Helper()
	for _, m := range y.Members {
		if got := asks(y.t, y.Fleet, m, "alice"); got != want {
			y.t.Errorf("%s, alice asks %s: %s, want %s", when, m.Name, got, want)
		}
	}
}

// change makes the changes that the backup does not have.
func (y *yesterday) change() {
	y.t.Helper()
	revision, err := y.Admin.Apply(y.t.Context(), policyNamed("of-today"), "of today")
	if err != nil {
		y.t.Fatal(err)
	}
	sequence, err := y.Admin.Revoke(y.t.Context(), revocationOf(y.Fleet, "alice-left", "alice"), "alice has left")
	if err != nil {
		y.t.Fatal(err)
	}
	if err := y.Admin.Enforced(y.t.Context(), revision, y.Environments()...); err != nil {
		y.t.Fatal(err)
	}
	if err := y.Admin.Revoked(y.t.Context(), sequence, y.Environments()...); err != nil {
		y.t.Fatal(err)
	}
}

// The database is restored to yesterday below a fleet that runs, as it would be
// by a standby that was behind: nothing is changed any more, also after a
// restart, and no proxy goes back. A new epoch goes on with all that was
// published.
func TestDatabaseRestoredToYesterday(t *testing.T) {
	y := backUp(t, start(t))
	y.change()
	y.restore()
	y.refused("replica demo")
	if err := y.ControlPlane.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := y.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := y.ControlPlaneReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.refused("") // whoever has seen the most
	y.asked("refused", "401 revoked")

	out, err := y.recover()
	for _, want := range []string{
		"etcd has seen environment aws-demo at epoch 1", "+ Policy/shop/of-today", "+ Revocation/alice-left", "Nothing was changed.",
	} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("recover: %v: %s\ndoes not say %q", err, out, want)
		}
	}
	if out, err := y.recover("--new-epoch", "--keep-published", "--message", "the disk is gone"); err != nil {
		t.Fatalf("recover: %v: %s", err, out)
	}
	y.goesOn()
	y.asked("recovered", "401 revoked")
	policies := storedOf(t, y.Fleet, "Policy")
	if _, there := policies["of-today"]; !there {
		t.Errorf("what was published was not brought back: %v", policies)
	}
	if status, answer := y.ready(within(t, 10*time.Second)); status != http.StatusOK || strings.Contains(answer, "refused") {
		t.Errorf("ready: %d %s", status, answer)
	}
}

// With etcd emptied as well, and a control plane that has just started, proxies
// alone know better. What they have cannot be brought back from etcd, and
// forgetting revocations has to be asked for.
func TestDatabaseRestoredAndEtcdWiped(t *testing.T) {
	y := backUp(t, start(t))
	y.change()
	if err := y.ControlPlane.Kill(); err != nil {
		t.Fatal(err)
	}
	y.restore()
	if _, err := etcdOf(t, y.Fleet).Delete(t.Context(), prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := y.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func(ctx context.Context) (bool, string) {
		status, answer := y.ready(ctx)
		return status == http.StatusOK && strings.Contains(answer, "changes are refused"), answer
	})
	y.refused("proxy spiffe://demo.example/proxy/")
	y.asked("refused", "401 revoked")
	for _, args := range [][]string{{"--new-epoch"}, {"--new-epoch", "--keep-published", "--forget-revocations"}} {
		if out, err := y.recover(args...); err == nil {
			t.Errorf("recover %s: %s", args, out)
		}
	}
	if out, err := y.recover("--new-epoch", "--forget-revocations"); err != nil {
		t.Fatalf("recover: %v: %s", err, out)
	}
	y.goesOn()
	y.asked("recovered", "200")
}

// addKey has a second key sign for the fleet. It returns the IDs of both.
func (y *yesterday) addKey() (ids []string) {
	y.t.Helper()
	first, err := y.RootPublicKey()
	if err != nil {
		y.t.Fatal(err)
	}
	second, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		y.t.Fatal(err)
	}
	var der []byte
	for _, key := range []ed25519.PublicKey{first, second} {
		if der, err = x509.MarshalPKIXPublicKey(key); err != nil {
			y.t.Fatal(err)
		}
		id := sha256.Sum256(der)
		ids = append(ids, hex.EncodeToString(id[:]))
	}
	file := filepath.Join(y.t.TempDir(), "second.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		y.t.Fatal(err)
	}
	if out, err := y.keys("add", file); err != nil {
		y.t.Fatalf("keys add: %v: %s", err, out)
	}
	return ids
}

// The database is restored to before a rotation: a new epoch has to wait until the
// operator has named the keys that sign, since whoever has an old one could have put
// others into etcd.
func TestDatabaseRestoredToBeforeARotation(t *testing.T) {
	y := backUp(t, start(t))
	ids := y.addKey()
	y.change()
	eventually(t, 30*time.Second, func(ctx context.Context) (bool, string) {
		r, err := etcdOf(t, y.Fleet).Get(ctx, prefix+"env/@keys/", clientv3.WithPrefix())
		return err == nil && len(r.Kvs) == 1, fmt.Sprint("key sets in etcd: ", r, err)
	})
	if err := y.ControlPlane.Kill(); err != nil {
		t.Fatal(err)
	}
	y.restore()
	if err := y.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	y.refused("etcd")
	if err := y.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}

	adopt := "`sallyport-controlplane keys adopt --settings " + y.Path("controlplane.yaml") + " ID...`"
	for _, args := range [][]string{{"--new-epoch"}, {"--new-epoch", "--force", "--keep-published", "--forget-revocations"}} {
		if out, err := y.recover(args...); err == nil || !strings.Contains(out, ids[1]) || !strings.Contains(out, "name the keys that are to sign first, by "+adopt) {
			t.Errorf("recover %s: %v: %s", args, err, out)
		}
	}
	if out, err := y.keys("adopt", ids[0]); err == nil || !strings.Contains(out, ids[1]+" (Ed25519) would sign as well") {
		t.Errorf("one of two keys is named: %v: %s", err, out)
	}
	if out, err := y.keys("adopt", ids...); err != nil {
		t.Fatalf("keys adopt: %v: %s", err, out)
	}
	if out, err := y.recover("--new-epoch", "--keep-published"); err != nil {
		t.Fatalf("recover: %v: %s", err, out)
	}
	y.goesOn()
	y.asked("recovered", "401 revoked")
}
