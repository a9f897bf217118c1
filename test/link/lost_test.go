package link_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// logoutWorld is a provider in front of a whole proxy, which knows two replicas.
type logoutWorld struct {
	*fleet
	server   *local.Postgres
	dsn      string
	replicas []*replica
	provider *http.Client
	signs    ed25519.PrivateKey
}

func newLogoutWorld(t *testing.T) *logoutWorld {
	t.Helper()
	w := &logoutWorld{fleet: newFleet(t), server: storagetest.NewPostgres(t), signs: key(7)}
	w.must(w.server.CreateDatabase(t.Context(), "own", ""))
	w.dsn = w.server.DSN("own")
	w.must(postgres.Migrate(t.Context(), w.dsn))
	w.open(w.dsn)
	w.replicas = []*replica{w.replica("one"), w.replica("two")}
	w.commit(clouds)
	w.commit(people(w.signs))
	listener := free(t)
	last := w.commit(fmt.Sprintf(edge, listener, "127.0.0.1:1"))
	w.whole(w.settings("aws/1", free(t), w.replicas[0].url, w.replicas[1].url))
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one"}
	eventually(t, "the proxy is current", func() bool {
		known := cmp.Or(w.replicas[0].proxy(p), w.replicas[1].proxy(p))
		return known.GetRevision() == int64(last) && len(known.GetListeners()) == 1 && known.GetListeners()[0].GetError() == ""
	})
	w.provider = &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, listener)
		},
		TLSClientConfig: identity.ClientConfig(w.identify("spiffe://prod.example/login"), identity.Only(p.id)),
	}}
	return w
}

func (w *logoutWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// says has the provider send a logout token, and returns what it is told.
func (w *logoutWorld) says(token string) (status int, reason string) {
	w.Helper()
	res, err := w.provider.PostForm("https://app.example/.sallyport/backchannel-logout", url.Values{"logout_token": {token}})
	if err != nil {
		w.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		w.Errorf("an answer with %d may be kept: %q", res.StatusCode, got)
	}
	var problem struct{ Reason string }
	_ = json.NewDecoder(res.Body).Decode(&problem) // there is none with 200
	return res.StatusCode, problem.Reason
}

// lost is a logout that must not be, because something is away: the provider is told
// so, and is told that all is done only when it is committed.
func (w *logoutWorld) lost(what string, away, back func()) {
	w.Helper()
	before := w.sequence()
	token := signLogout(w.T, w.signs, "logout+jwt", "", rand.Text())
	away()
	if status, reason := w.says(token); status != http.StatusServiceUnavailable || reason != "logout_unconfirmed" {
		w.Errorf("%s: %d %s", what, status, reason)
	}
	back()
	if status, _ := w.says(token); status != http.StatusOK {
		w.Errorf("%s, tried again: %d", what, status)
	}
	w.committed(before + 1)
	if status, reason := w.says(token); status != http.StatusBadRequest || reason != "logout_invalid" {
		w.Errorf("%s, tried when it was done: %d %s", what, status, reason)
	}
	w.committed(before + 1)
}

func (w *logoutWorld) committed(want snapshot.Revision) {
	w.Helper()
	if got := w.sequence(); got != want {
		w.Errorf("the security lane is at %d, want %d", got, want)
	}
}

// A provider is not told that a session has ended before that is committed, and so
// tries again.
func TestLogoutIsNotLost(t *testing.T) {
	w := newLogoutWorld(t)
	w.lost("the control plane away", func() {
		for _, r := range w.replicas {
			r.stop()
		}
	}, func() {
		for i, name := range []string{"three", "four"} {
			w.replicas[i] = w.replica(name, w.replicas[i].url)
		}
	})
	w.lost("Postgres away", func() { w.must(w.server.Stop()) }, func() { w.must(w.server.Start(t.Context())) })
}

// A replica that is killed while it is about to commit loses nothing either: another
// does it, for the same call.
func TestLogoutOutlivesAReplica(t *testing.T) {
	w := newLogoutWorld(t)
	before := w.sequence()
	conn, err := pgx.Connect(t.Context(), w.dsn)
	w.must(err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	tx, err := conn.Begin(t.Context())
	w.must(err)
	_, err = tx.Exec(t.Context(), "select from security_lane for update")
	w.must(err)
	told := make(chan int, 1)
	token := signLogout(t, w.signs, "logout+jwt", "", rand.Text())
	go func() {
		status, _ := w.says(token)
		told <- status
	}()
	eventually(t, "a replica waits", func() bool {
		var n int
		err := w.query(`select count(*) from pg_stat_activity where wait_event_type = 'Lock'`, &n)
		return err == nil && n > 0
	})
	w.holder().stop()
	w.must(tx.Rollback(t.Context()))
	if status := <-told; status != http.StatusOK {
		t.Errorf("got %d", status)
	}
	w.committed(before + 1)
}

// holder is the replica that the proxy is connected to.
func (w *logoutWorld) holder() *replica {
	for _, r := range w.replicas {
		if r.registry.Streams()["aws"] > 0 {
			return r
		}
	}
	w.Fatal("the proxy is connected to none")
	return nil
}

func (w *logoutWorld) query(sql string, into any) error {
	conn, err := pgx.Connect(w.Context(), w.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(w.Context())
	return conn.QueryRow(w.Context(), sql).Scan(into)
}
