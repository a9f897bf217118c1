package main_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	main "github.com/sallyport/sallyport/cmd/sallyport-controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// ending runs the tests and then stops the servers that they shared.
type ending struct{ m *testing.M }

func (e ending) Run() int { return storagetest.Main(e.m) }

func TestMain(m *testing.M) {
	testscript.Main(ending{m}, map[string]func(){"sallyport-controlplane": main.Main})
}

func TestScripts(t *testing.T) { scripts(t, "testdata") }

func TestKeysScripts(t *testing.T) { scripts(t, "testdata/keys") }

func TestRecoverScripts(t *testing.T) { scripts(t, "testdata/recover") }

// scripts runs those of a folder. They have the settings of a replica whose database
// is empty.
func scripts(t *testing.T, dir string) {
	t.Helper()
	p := controlplanetest.Prepare(t)
	p.Settings.Database.URLFile = filepath.Join(p.Dir, "database-url")
	if err := os.WriteFile(p.Settings.Database.URLFile, []byte(storagetest.Postgres(t, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	health := freeAddress(t)
	p.Settings.Health.Address = health
	p.Save()
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			settings, err := os.ReadFile(p.SettingsFile)
			if err != nil {
				return err
			}
			e.Setenv("SETTINGS", p.SettingsFile)
			e.Setenv("MODULE", "/usr/lib/softhsm/libsofthsm2.so")
			return os.WriteFile(filepath.Join(e.WorkDir, "good.yaml"), settings, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": func(ts *testscript.TestScript, _ bool, _ []string) { ready(ts, health) },
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// freeAddress is one that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// ready waits until the replica is.
func ready(ts *testscript.TestScript, address string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
		ts.Check(err)
		res, err := client.Do(req)
		if err == nil {
			ts.Check(res.Body.Close())
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("the replica is not ready: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
