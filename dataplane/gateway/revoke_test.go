package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/apikey"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// asking asks as somebody, always with the same credential.
type asking struct {
	client *http.Client
	fields http.Header
}

func (w *world) token(http2 bool, claims map[string]any) asking {
	w.t.Helper()
	return asking{w.client(http2, w.tls(host)), http.Header{"Authorization": {"Bearer " + w.tokens.sign(claims)}}}
}

func (w *world) certified(http2 bool, id identity.ID) asking {
	w.t.Helper()
	return asking{client: w.client(http2, w.as(w.tls(host), id))}
}

func (w *world) gets(a asking) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), "GET", "https://"+host+"/v1/orders", nil)
	w.must(err)
	r.Header = a.fields.Clone()
	res, err := a.client.Do(r)
	w.must(err)
	return res, w.read(res)
}

// Who is revoked is denied with the next request, though the token was verified
// before and the connection is the same; whoever differs in what the revocation
// goes by passes.
func TestRevoked(t *testing.T) {
	w := newWorld(t, options{})
	now := time.Now()
	stolen, kept := apikey.New(), apikey.New()
	spec := taking(w.usual(plaintext(newEcho(t).address())), "identityProviders: [login], apiKeys: true, clientCertificates: true") +
		keyResource("shop", "export", map[apikey.Key]time.Time{stolen: now.Add(time.Hour), kept: now.Add(time.Hour)})
	w.apply(strings.Replace(spec, "{group: shop}", "{group: shop}, {key: export}", 1))
	at := func(d time.Duration) string { return now.Add(d).UTC().Format(time.RFC3339) }
	claims := func(more ...any) map[string]any {
		all := map[string]any{"jti": "t-1", "sid": "s-1", "iat": now.Add(-time.Hour).Unix()}
		for i := 0; i < len(more); i += 2 {
			all[more[i].(string)] = more[i+1]
		}
		return all
	}
	const web, batch identity.ID = "spiffe://prod.example/ns/shop/web", "spiffe://prod.example/ns/shop/batch"
	for _, http2 := range []bool{false, true} {
		user := func(more ...any) asking { return w.token(http2, claims(more...)) }
		key := func(k apikey.Key) asking {
			return asking{w.client(http2, w.tls(host)), http.Header{"X-Api-Key": {k.Text}}}
		}
		for _, c := range []struct {
			spec           string
			revoked, other asking
		}{
			{`token: {issuer: "https://login.example", id: t-1}`, user(), user("jti", "t-2")},
			{`session: {issuer: "https://login.example", id: s-1}`, user("jti", "t-3"), user("sid", "s-2")},
			{`subject: {issuer: "https://login.example", id: alice}`, user("jti", "t-4"), user("sub", "bob")},
			{`subject: {issuer: "https://login.example", id: alice}, issuedBefore: "` + at(-time.Minute) + `"`, user("jti", "t-5"), user("iat", now.Unix())},
			{`key: ` + stolen.ID, key(stolen), key(kept)},
			{`issuer: "https://login.example", issuedBefore: "` + at(-time.Minute) + `"`, user("jti", "t-6"), w.certified(http2, web)},
			{`spiffeId: "spiffe://prod.example/ns/shop/web"`, w.certified(http2, web), w.certified(http2, batch)},
			{`everyone: true, issuedBefore: "` + at(-time.Minute) + `"`, user("jti", "t-7"), user("iat", now.Unix())},
			{`everyone: true, issuedBefore: "` + at(time.Hour) + `"`, w.certified(http2, web), asking{}},
		} {
			w.revoke()
			if res, body := w.gets(c.revoked); res.StatusCode != 200 {
				t.Errorf("%s: before it was revoked: %d %s", c.spec, res.StatusCode, body)
			}
			w.revoke(c.spec)
			res, body := w.gets(c.revoked)
			d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
			if res.StatusCode != 401 || w.problem(body).Reason != "revoked" || d.Allow || d.Reason != "revoked" || d.Detail != "r-0" || d.Principal == nil {
				t.Errorf("%s: %d %s, recorded %+v", c.spec, res.StatusCode, body, d)
			}
			want := `Certificate realm="sallyport"`
			switch {
			case c.revoked.fields["Authorization"] != nil:
				want = `Bearer realm="sallyport", error="invalid_token"`
			case c.revoked.fields["X-Api-Key"] != nil:
				want = `ApiKey realm="sallyport"`
			}
			if got := res.Header.Get("Www-Authenticate"); !strings.HasPrefix(got, want) || strings.Contains(body, "r-0") {
				t.Errorf("%s: challenged with %q, answered %s", c.spec, got, body)
			}
			if c.other.client == nil {
				continue
			}
			if res, body := w.gets(c.other); res.StatusCode != 200 {
				t.Errorf("%s: the neighbour got %d %s", c.spec, res.StatusCode, body)
			}
		}
	}
	if got := w.metric(`sallyport_requests_total{decision="deny",reason="revoked",route="shop/orders"}`); got != "18" {
		t.Errorf("%q are counted", got)
	}
}

// Whoever is anonymous has nothing to be revoked, and a revocation ends by
// itself, without a word from anybody.
func TestRevocationsEnd(t *testing.T) {
	w := newWorld(t, options{})
	spec := w.usual(plaintext(newEcho(t).address()))
	w.apply(spec)
	who := w.token(true, map[string]any{"exp": time.Now().Add(3 * time.Hour).Unix()})
	w.revoke(fmt.Sprintf(`subject: {issuer: "https://login.example", id: alice}, expiresAt: %q`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	if res, body := w.gets(who); res.StatusCode != 401 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	w.set(func() { w.ahead = 59 * time.Minute })
	if res, body := w.gets(who); res.StatusCode != 401 {
		t.Errorf("a minute before the end: %d %s", res.StatusCode, body)
	}
	w.set(func() { w.ahead = time.Hour + time.Second })
	if res, body := w.gets(who); res.StatusCode != 200 {
		t.Errorf("after the end: %d %s", res.StatusCode, body)
	}
	open := strings.NewReplacer("clientCertificates: true}", "anonymous: true}", "{group: shop}", "{anonymous: true}").Replace(spec)
	w.apply(open)
	w.revoke(`everyone: true, issuedBefore: "2100-01-01T00:00:00Z"`)
	if res, body := w.gets(asking{client: w.client(false, w.tls(host)), fields: http.Header{}}); res.StatusCode != 200 {
		t.Errorf("nobody: %d %s", res.StatusCode, body)
	}
}

// Before it is known who is revoked, nobody is let through.
func TestNoSecurityState(t *testing.T) {
	w := newWorld(t, options{unsecured: true})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	for _, who := range []asking{w.token(false, nil), w.certified(true, "spiffe://prod.example/ns/shop/web"), {client: w.client(true, w.tls(host))}} {
		if res, body := w.gets(who); res.StatusCode != 503 || w.problem(body).Reason != "no_security_state" {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
	if up.requests.Load() != 0 || w.gateway.Revocations() != nil {
		t.Error("something was let through")
	}
	w.revoke()
	if res, body := w.gets(w.token(false, nil)); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// A revocation that this build does not understand may mean anybody: nobody is
// let through, and nothing goes on that is open.
func TestRejectedRevocation(t *testing.T) {
	w := newWorld(t, options{})
	streams, up := newEndless(), newEcho(t)
	up.answerWith(streams.serve)
	w.apply(w.usual(plaintext(up.address())))
	begun := w.beginAs(w.client(true, w.tls(host)), "alice")
	w.gateway.Revoke(revocation.Compile(w.gateway.Revocations(), w.snapshot(snapshot.SecurityLane,
		`{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: stray}, spec: {endpoints: ["a:1"], tls: {}}}`)))
	if _, err := io.ReadAll(begun.Body); err == nil {
		t.Error("what was open has ended well")
	}
	if o := w.records.of(t, "outcome", begun.Header.Get("Sallyport-Decision-Id")); o.Reason != "control_unavailable" {
		t.Errorf("recorded was %+v", o)
	}
	res, body := w.gets(w.token(false, nil))
	d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
	if res.StatusCode != 403 || w.problem(body).Reason != "control_unavailable" || !strings.Contains(d.Detail, "Upstream/shop/stray") {
		t.Errorf("%d %s, recorded %+v", res.StatusCode, body, d)
	}
}

// What is open is closed when it is revoked, and its neighbours go on.
func TestRevokedWhileOpen(t *testing.T) {
	up := newEndless()
	eachWay(t, up.serve, func(t *testing.T, w *world, c *http.Client) {
		w.revoke()
		alice, mallory := w.beginAs(c, "alice"), w.beginAs(c, "mallory")
		goesOn := bufio.NewReader(alice.Body)
		w.revoke(`subject: {issuer: "https://login.example", id: mallory}`)
		<-up.gone
		if got, err := io.ReadAll(mallory.Body); err == nil {
			t.Errorf("%q arrived whole", got)
		}
		if o := w.records.of(t, "outcome", mallory.Header.Get("Sallyport-Decision-Id")); o.Reason != "revoked" {
			t.Errorf("recorded was %+v", o)
		}
		up.say("data: 1\n")
		if got, err := goesOn.ReadString('\n'); got != "data: 1\n" {
			t.Errorf("the neighbour got %q, %v", got, err)
		}
		w.revoke(`subject: {issuer: "https://login.example", id: alice}`)
		<-up.gone
	})
}

// Once Revoke has returned, nothing of whom it means is carried: each request
// was closed, or has seen the revocation before it was sent on.
func TestNoRequestSlipsPastARevocation(t *testing.T) {
	w := newWorld(t, options{})
	var open atomic.Int64
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Add(-1)
		flush(rw)
		<-r.Context().Done()
	})
	w.apply(w.usual(plaintext(up.address())))
	c := w.client(true, w.tls(host))
	for round := range 10 {
		w.revoke()
		var asking sync.WaitGroup
		for range 40 {
			asking.Go(func() {
				res, err := c.Do(w.request(t.Context(), "GET", nil))
				if err != nil {
					return // closed as its answer began
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			})
		}
		until(t, "some requests are carried", func() bool { return open.Load() > int64(round) })
		w.revoke(`subject: {issuer: "https://login.example", id: alice}`)
		asking.Wait() // for ever, if one is open that nobody will close
	}
	w.settle()
	until(t, "the upstream has nothing to do", func() bool { return open.Load() == 0 })
}

func TestSecurityStaleness(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	for _, step := range []struct {
		action string
		since  time.Duration
		known  bool
		status int
	}{
		{"DENY", 60 * time.Second, true, 200},
		{"DENY", 61 * time.Second, true, 503},
		{"DENY", 0, false, 503},
		{"SERVE", 61 * time.Second, true, 200},
		{"SERVE", 0, false, 200},
	} {
		w.apply(w.usual(plaintext(up.address())) + `
---
apiVersion: sallyport/v1
kind: Environment
metadata: {name: aws}
spec: {securityAge: {limit: 60s, action: ` + step.action + `}}
`)
		w.set(func() { w.since, w.known = step.since, step.known })
		res, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
		if res.StatusCode != step.status || step.status == 503 && w.problem(body).Reason != "security_stale" {
			t.Errorf("%+v: %d %s", step, res.StatusCode, body)
		}
	}
}
