package assertion_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/assertion"
	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var alice = &policy.Principal{Kind: policy.User, ID: "alice", Issuer: "https://idp.example", Groups: []string{"shop", "staff"}}

func about(p *policy.Principal) *assertion.About {
	return &assertion.About{Environment: "aws", Route: "shop/orders", Audience: "shop/orders", Principal: p}
}

// process is one process of a proxy, as far as its keys go.
type process struct {
	t      testing.TB
	keys   *assertion.Keys
	signer *assertion.Signer
	logs   *bytes.Buffer
	stop   func()
}

// sealing is the vault of all processes.
func sealing(t testing.TB) *vault.Vault {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(make([]byte, vault.KeySize))), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func start(t testing.TB, file string) *process {
	t.Helper()
	p := &process{t: t, logs: &bytes.Buffer{}}
	var err error
	p.keys, err = assertion.New(assertion.Config{File: file, Vault: sealing(t), Log: slog.New(slog.NewTextHandler(p.logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.keys.Load(); err != nil {
		t.Fatal(err)
	}
	p.signer = assertion.NewSigner(p.keys)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.keys.Run(ctx) }()
	p.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	return p
}

// report is what a heartbeat does.
func (p *process) report() { p.keys.Reported(p.keys.Points()) }

// published are the kids of the keys that others know.
func (p *process) published() []string {
	var kids []string
	for _, k := range p.keys.Public() {
		kids = append(kids, k.ID())
	}
	return kids
}

// raw is an assertion about alice; empty without one.
func (p *process) raw() string {
	if h := p.signer.Header(about(alice), time.Now()); len(h) == 1 {
		return h[0]
	}
	return ""
}

// kid is the key that signs now; empty for none. What it signs has to verify
// with what is published.
func (p *process) kid() string {
	p.t.Helper()
	raw := p.raw()
	if raw == "" {
		return ""
	}
	if _, err := p.verify(raw); err != nil {
		p.t.Errorf("an assertion does not verify with the published keys: %v", err)
	}
	parsed, err := token.Parse(raw)
	if err != nil {
		p.t.Fatal(err)
	}
	return parsed.KeyID
}

func (p *process) verify(raw string) (*token.Claims, error) {
	p.t.Helper()
	document, err := token.EncodeKeySet(p.keys.Public())
	if err != nil {
		p.t.Fatal(err)
	}
	set, err := token.ParseKeySet(document)
	if err != nil {
		p.t.Fatal(err)
	}
	return token.Verify(raw, token.Rules{Issuer: "urn:sallyport:environment:aws", Audiences: []string{"shop/orders"}}, set, time.Now())
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // of testing/synctest
	synctest.Wait()
}

// A key is used only after the control plane was told of it; a later one an hour
// after that, when the one before has been in use for a day; and that one stays
// published for as long as what it signed may be shown.
func TestKeysArePublishedBeforeTheyAreUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion-keys")
	synctest.Test(t, func(t *testing.T) {
		p := start(t, file)
		defer p.stop()
		if first := p.published(); len(first) != 1 || p.raw() != "" {
			t.Fatalf("at first %q are published, and %q is signed", first, p.raw())
		}
		pass(time.Hour)
		if p.raw() != "" {
			t.Error("a key is in use that nobody was told of")
		}
		p.keys.Reported([][]byte{{4}, nil}) // of others
		if p.raw() != "" {
			t.Error("a key is in use although another was reported")
		}
		p.report()
		first := p.kid()
		if first == "" || first != p.published()[0] {
			t.Errorf("%q signs, %q are published", first, p.published())
		}

		pass(23*time.Hour + time.Minute)
		if kids := p.published(); len(kids) != 2 || p.kid() != first {
			t.Fatalf("an hour before its time %q are published, %q signs", kids, p.kid())
		}
		pass(3 * time.Hour)
		if p.kid() != first {
			t.Error("the next key is in use although nobody was told of it")
		}
		second := p.published()[1]
		p.report()
		pass(58 * time.Minute)
		if p.kid() != first {
			t.Error("the next key is in use before an hour is over")
		}
		last := p.raw()
		pass(3 * time.Minute)
		if kids := p.published(); p.kid() != second || len(kids) != 2 {
			t.Errorf("an hour later %q signs, %q are published; want %q", p.kid(), kids, second)
		}
		if _, err := p.verify(last); err != nil && !strings.Contains(err.Error(), "expired") {
			t.Errorf("what the key before has signed: %v", err)
		}
		pass(6 * time.Minute)
		if kids := p.published(); len(kids) != 1 || kids[0] != second {
			t.Errorf("after minutes %q are published, want only %q", kids, second)
		}
	})
}

// A restart goes on with the keys that are published, without the control plane.
func TestKeysOutliveTheProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion-keys")
	p := start(t, file)
	p.report()
	kid := p.kid()
	p.stop()
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file is %v, %v", info, err)
	}

	again := start(t, file)
	if got := again.kid(); got != kid || kid == "" {
		t.Errorf("after a restart %q signs, before it was %q", got, kid)
	}
	again.stop()
	if again.logs.Len() > 0 {
		t.Errorf("said was %s", again.logs)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	// Keys that others may have read, or that are none, are not used.
	for name, damage := range map[string]func() error{
		"readable by others": func() error { return os.Chmod(file, 0o640) },
		"cut":                func() error { return os.WriteFile(file, content[:len(content)/2], 0o600) },
		"endless":            func() error { return os.WriteFile(file, bytes.Repeat([]byte(" "), 20<<10), 0o600) },
		"no key": func() error {
			return os.WriteFile(file, sealing(t).Seal("assertion keys", []byte(`{"current":{"private":"AAAA"}}`)), 0o600)
		},
		"not sealed": func() error { return os.WriteFile(file, []byte(`{}`), 0o600) },
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		p := start(t, file)
		if p.raw() != "" || len(p.published()) != 1 || p.published()[0] == kid {
			t.Errorf("%s: %q is published", name, p.published())
		}
		if !strings.Contains(p.logs.String(), "assertion keys cannot be used") || strings.Contains(p.logs.String(), "AAAA") {
			t.Errorf("%s: said was %s", name, p.logs)
		}
		p.stop()
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Without a vault no key is kept, nor is one that was kept before there was any.
func TestKeysAreNotKeptInTheClear(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion-keys")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := assertion.New(assertion.Config{File: file, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Load(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := keys.Run(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("keys are kept in the clear")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []assertion.Config{{}, {File: "x"}, {Log: slog.New(slog.DiscardHandler)}} {
		if _, err := assertion.New(c); err == nil {
			t.Errorf("%+v: accepted", c)
		}
	}
}
