package main_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// patience is how long a script waits for what has to come.
const patience = 20 * time.Second

// another has a control plane publish to a second etcd as well, for the script alone.
func another(t *testing.T, p *controlplanetest.Plane, name string) *local.Etcd {
	t.Helper()
	e := storagetest.NewEtcd(t)
	p.Settings.Targets = []controlplane.Target{{Name: name, Etcd: controlplane.Etcd{Endpoints: e.Endpoints()}}}
	return e
}

// etcd stops or starts the second etcd.
func etcd(t *testing.T, ts *testscript.TestScript, e *local.Etcd, args []string) {
	if args[0] == "stop" {
		ts.Check(e.Stop())
		return
	}
	ts.Check(e.Start(t.Context()))
}

// shows runs a command until its output matches: shows PATTERN COMMAND ARGS...
func shows(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); ; <-tick.C {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(until) {
			ts.Fatalf("it does not come to %s (%v)", pattern, err)
		}
	}
}
