// Package openid starts an OpenID provider that was written by others, so that
// tests sign in where people do.
package openid

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long the provider may take to answer.
const patience = 20 * time.Second

// Start starts the example provider of zitadel/oidc as a process of its own, so that
// what it requires stays out of our go.mod, and returns its issuer, which ends in a
// slash. It ends with the test, and says what it logged if that has failed. Its
// clients are web and api, whose secret is "secret", and native, which has none; they
// may have people sent back to the redirects.
func Start(t testing.TB, redirects ...string) (issuer string) {
	t.Helper()
	port, log := freePort(t), &strings.Builder{}
	server := exec.CommandContext(t.Context(), binary(t)) // which ends it: it has no other way
	server.Env = append(os.Environ(), "PORT="+port, "REDIRECT_URI="+strings.Join(redirects, ","))
	server.Stderr = log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Wait()
		if t.Failed() {
			t.Logf("the provider says\n%s", log)
		}
	})
	issuer = "http://localhost:" + port + "/"
	await(t, issuer+".well-known/openid-configuration")
	return issuer
}

// binary builds the provider, unless it is built.
func binary(t testing.TB) string {
	t.Helper()
	module := command(t, "env", "GOMOD")
	return command(t, "tool", "-modfile="+filepath.Join(filepath.Dir(module), "tools", "openid", "go.mod"), "-n", "server")
}

func command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		t.Fatalf("go %s: %v", args[0], err)
	}
	return strings.TrimSpace(string(out))
}

func await(t testing.TB, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(patience); ; {
		res, err := client.Do(req)
		if err == nil {
			_ = res.Body.Close()
			return
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// freePort returns a port that nobody listens on at the moment.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
