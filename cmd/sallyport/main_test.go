package main_test

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	main "github.com/sallyport/sallyport/cmd/sallyport"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

var update = flag.Bool("update", false, "write what the commands said into the scripts")

// ending runs the tests and then stops the servers that they shared.
type ending struct{ m *testing.M }

func (e ending) Run() int { return storagetest.Main(e.m) }

func TestMain(m *testing.M) {
	testscript.Main(ending{m}, map[string]func(){"sallyport": main.Main})
}

// Each script of testdata runs against a control plane of its own: a real one,
// on a database and a key space of its own.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			p := controlplanetest.New(t)
			if strings.HasPrefix(filepath.Base(script), "svid") {
				p.Settings.Admin.CertificateFile, p.Settings.Admin.PrivateKeyFile = "", ""
			}
			var second *local.Etcd
			if strings.HasPrefix(filepath.Base(script), "targets") {
				second = another(t, p, "gcp")
			}
			p.Start(slog.New(slog.DiscardHandler))
			testscript.Run(t, testscript.Params{
				Files:         []string{script},
				UpdateScripts: *update,
				Setup:         func(e *testscript.Env) error { return setup(t, p, e) },
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"told":     told,
					"proxy":    func(ts *testscript.TestScript, _ bool, args []string) { proxy(t, ts, p, args) },
					"decided":  func(ts *testscript.TestScript, _ bool, args []string) { decided(t, ts, p, args) },
					"ended":    func(ts *testscript.TestScript, _ bool, args []string) { ended(t, ts, p, args) },
					"etcd":     func(ts *testscript.TestScript, _ bool, args []string) { etcd(t, ts, second, args) },
					"shows":    shows,
					"verified": func(ts *testscript.TestScript, _ bool, args []string) { verified(t, ts, p, args) },
					"stop":     func(*testscript.TestScript, bool, []string) { p.Stop() },
				},
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
			})
		})
	}
}

// setup gives a script the variables of an operator, and the files that they
// name.
func setup(t *testing.T, p *controlplanetest.Plane, e *testscript.Env) error {
	for name, token := range map[string]string{
		"admin.jwt":   p.Token(controlplanetest.AdminSubject, controlplanetest.Audience, time.Hour),
		"viewer.jwt":  p.Token(controlplanetest.ViewerSubject, controlplanetest.Audience, time.Hour),
		"expired.jwt": p.Token(controlplanetest.AdminSubject, controlplanetest.Audience, -time.Hour),
		"empty.jwt":   "",
		"two.jwt":     "a b",
	} {
		if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(token+"\n"), 0o600); err != nil {
			return err
		}
	}
	e.Setenv("SALLYPORT_SERVER", p.URL())
	e.Setenv("SALLYPORT_CA_FILE", p.CAFile)
	e.Setenv("ADMIN", p.Socket(controlplanetest.Admin))
	e.Setenv("VIEWER", p.Socket(controlplanetest.Viewer))
	e.Setenv("STRANGER", p.Socket(controlplanetest.Proxy))
	e.Setenv("SALLYPORT_WORKLOAD_SOCKET", e.Getenv("ADMIN"))
	e.Setenv("SERVER_ID", string(controlplanetest.ID))
	e.Setenv("CA_FILE", p.CAFile)
	e.Setenv("MESSAGE", "\x1b[31mred\n\x1b[0mand more")
	return nil
}

// varying is what differs from run to run.
var varying = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`"sequence": "\d{19}"`), `"sequence": "NUMBER"`},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "DECISION"},
	{regexp.MustCompile(`( SEEN| ago) {2,}`), "${1}   "}, // the width of that column
	// A script may take minutes on a machine that is busy.
	{regexp.MustCompile(`\b1h\d+m\d+s ago`), "1h0mAGO"},
	{regexp.MustCompile(`\b\d+m\d+s ago|\d+(\.\d+)?(ms|s) ago`), "AGO"},
	{regexp.MustCompile(`\bin 5\dm\b`), "in 59m"},
	{regexp.MustCompile(`(?m)^ +(\d+(\.\d+)?(ms|µs|s)|0s)  `), " TOOK  "},
	{regexp.MustCompile(`"elapsed": "[0-9.]+s"`), `"elapsed": "TOOK"`},
	{regexp.MustCompile(`https://127\.0\.0\.1:\d+`), "https://SERVER"},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), "http://ISSUER"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`/[^ ]*/sp\d+/`), "DIR/"},
	{regexp.MustCompile(`(nightly-export   )[0-9A-Za-z]{12} `), "${1}ID           "},
}

// told writes what the last command said, on standard output and then on
// standard error, to the file "said", for cmp.
func told(ts *testscript.TestScript, _ bool, _ []string) {
	said := strings.ReplaceAll(ts.ReadFile("stdout")+ts.ReadFile("stderr"), ts.Getenv("WORK")+"/", "")
	for _, v := range varying {
		said = v.pattern.ReplaceAllString(said, v.name)
	}
	ts.Check(os.WriteFile(ts.MkAbs("said"), []byte(said), 0o600))
}

// proxy records a proxy process as another replica would: proxy ENVIRONMENT
// INSTANCE REVISION, with what is wrong with it, if anything. A revision such as
// 7/3 is one with a sequence of the security lane. What comes last may be the word
// lost: it was not heard of for an hour.
func proxy(t *testing.T, ts *testscript.TestScript, p *controlplanetest.Plane, args []string) {
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	ts.Check(err)
	store, err := postgres.New(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	defer store.Close()
	if len(args) < 3 {
		ts.Fatalf("usage: proxy ENVIRONMENT INSTANCE REVISION [REFUSAL]")
	}
	now, id := time.Now(), "spiffe://prod.example/proxy/"+args[0]
	status := &adminv1.Proxy{
		Id: id + "#" + args[1], SpiffeId: id, Instance: args[1], Environment: args[0], LastSeenAt: timestamppb.New(now),
		Connection: adminv1.Connection_CONNECTION_CONNECTED, Enforcement: adminv1.Enforcement_ENFORCEMENT_ENFORCED,
		ConfigurationAge: durationpb.New(2 * time.Second), Epoch: 1, Build: "v0.1.0", ProtocolVersion: 1, Lacks: []string{"key sets", "draining"},
		IdentityExpiresAt: timestamppb.New(now.Add(time.Hour)), RegisteredAt: timestamppb.New(now),
		Listeners: []*adminv1.ListenerStatus{{Namespace: "edge", Name: "https", Address: "10.0.0.1:443"}},
	}
	revision, sequence, secured := strings.Cut(args[2], "/")
	status.Revision, err = strconv.ParseInt(revision, 10, 64)
	ts.Check(err)
	status.PersistedRevision = status.GetRevision()
	if secured {
		status.Security = &adminv1.SecurityLane{
			Enforcement: adminv1.Enforcement_ENFORCEMENT_ENFORCED, Age: durationpb.New(3 * time.Second),
		}
		status.Security.Sequence, err = strconv.ParseInt(sequence, 10, 64)
		ts.Check(err)
		status.Security.PersistedSequence = status.GetSecurity().GetSequence()
	}
	seen, replica := now, "two"
	if args[len(args)-1] == "lost" {
		args = args[:len(args)-1]
		seen, replica = now.Add(-time.Hour), ""
		status.Connection, status.LastSeenAt = adminv1.Connection_CONNECTION_LOST, timestamppb.New(seen)
	}
	if len(args) > 3 {
		status.Refusal = args[3]
	}
	b, err := proto.Marshal(status)
	ts.Check(err)
	ts.Check(errors.Join(store.SaveProxies(t.Context(), "", []storage.Proxy{{
		ID: storage.ProxyID(status.GetId()), SPIFFEID: id, Instance: args[1], Environment: args[0], Replica: replica,
		Status: b, RegisteredAt: seen, LastSeen: seen,
	}})))
}
