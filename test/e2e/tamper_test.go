package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// askers send requests to a proxy until stopped, each of which has to be let through.
type askers struct {
	mu    sync.Mutex
	asked int
	wrong []string
	stop  func()
}

func askAlways(t *testing.T, f *fleet.Fleet, m *fleet.Member) *askers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &askers{}
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			token, err := f.Sign(fleet.TokenRequest{Subject: "alice", Groups: []string{"shop"}, Audience: "orders", ExpiresIn: time.Minute})
			var answer fleet.Answer
			if err == nil {
				answer, err = f.Send(ctx, m, fleet.Request{Method: http.MethodGet, Path: "/v1/inventory/7", Token: token})
			}
			if ctx.Err() != nil {
				return
			}
			a.note(answer, err)
		}
	})
	a.stop = func() { cancel(); asking.Wait() }
	t.Cleanup(a.stop)
	return a
}

func (a *askers) note(answer fleet.Answer, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asked++; (err != nil || answer.Status != http.StatusOK) && len(a.wrong) < 5 {
		a.wrong = append(a.wrong, fmt.Sprintf("%d %s %v", answer.Status, answer.Body, err))
	}
}

// check fails unless more was asked since, and all of it let through.
func (a *askers) check(t *testing.T, what string, before int) {
	t.Helper()
	eventually(t, 20*time.Second, func(context.Context) (bool, string) { return a.count() > before+3, "requests do not go on" })
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.wrong) > 0 {
		t.Errorf("%s: requests were answered with\n%s", what, strings.Join(a.wrong, "\n"))
		a.wrong = nil
	}
}

func (a *askers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// tampering is something that is written to etcd in place of what was there.
type tampering struct {
	name, key string
	value     func(now []byte) []byte
	refused   string // by which of the control plane's counters it shows
}

// heads changes the message of a published head.
func heads(t *testing.T, change func(*distributionv1.PublishedHead)) func([]byte) []byte {
	return func(now []byte) []byte {
		var h distributionv1.PublishedHead
		if err := proto.Unmarshal(now, &h); err != nil {
			t.Fatal(err)
		}
		change(&h)
		b, err := proto.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// confirmed changes the message of a freshness statement.
func confirmed(t *testing.T, change func(*proxyv1.SignedFreshness)) func([]byte) []byte {
	return func(now []byte) []byte {
		var f proxyv1.SignedFreshness
		if err := proto.Unmarshal(now, &f); err != nil {
			t.Fatal(err)
		}
		change(&f)
		b, err := proto.Marshal(&f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// Whoever can write to etcd can change nothing: it is refused each time, counted and
// said, requests go on by what was in force, and the publisher puts it right.
func TestTamperingWithEtcd(t *testing.T) {
	f := start(t)
	client, aws := etcdOf(t, f), f.Members[0]
	const head, confirmation, security = prefix + "env/aws-demo/head", prefix + "env/aws-demo/freshness", prefix + "env/@security/head"
	first, gcp := valueOf(t, client, head), valueOf(t, client, prefix+"env/gcp-demo/head")
	foreign := valueOf(t, client, prefix+"env/gcp-demo/freshness")
	revision, err := f.Admin.Apply(t.Context(), policyNamed("a-second-revision"), "a second revision")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	was := func(b []byte) func([]byte) []byte { return func([]byte) []byte { return b } }
	all := []tampering{
		{"an old head", head, was(first), "head"},
		{"the head of another environment", head, was(gcp), "head"},
		{"the head of another lane", head, was(valueOf(t, client, security)), "head"},
		{"revocations replaced by policy", security, was(first), "head"},
		{"a stripped signature", head, heads(t, func(h *distributionv1.PublishedHead) { h.Head.Signature = nil }), "head"},
		{"another signature", head, heads(t, func(h *distributionv1.PublishedHead) { h.Head.Signature[9] ^= 1 }), "head"},
		{"other counts", head, heads(t, func(h *distributionv1.PublishedHead) { h.Head.Counts[len(h.GetHead().GetCounts())-1] ^= 1 }), "head"},
		{"nothing at all", head, was(nil), "head"},
		{"rubbish", head, was([]byte{0xff, 0xff}), "unreadable"},
		{"freshness of another environment", confirmation, was(foreign), "freshness"},
		{"freshness without a signature", confirmation, confirmed(t, func(f *proxyv1.SignedFreshness) { f.Signature = nil }), "freshness"},
		{"freshness of later", confirmation, confirmed(t, func(f *proxyv1.SignedFreshness) { f.Statement[len(f.GetStatement())-1] ^= 1 }), "freshness"},
	}
	for part := range 6 {
		all = append(all, tampering{fmt.Sprintf("a bit of the signed head, %d/6", part), head, heads(t, func(h *distributionv1.PublishedHead) {
			h.Head.Head[part*len(h.GetHead().GetHead())/6] ^= 1 << part
		}), "head"})
	}
	genuine := map[string][]byte{}
	for _, key := range []string{head, confirmation, security} {
		genuine[key] = valueOf(t, client, key)
	}
	requests := askAlways(t, f, aws)
	for _, c := range all {
		before, asked := refusedBy(t, f, c.refused), requests.count()
		if _, err := client.Put(t.Context(), c.key, string(c.value(genuine[c.key]))); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, func(context.Context) (bool, string) {
			return refusedBy(t, f, c.refused) > before, c.name + " was not refused"
		})
		requests.check(t, c.name, asked)
		if p, err := proxyOf(t.Context(), f, aws); err != nil || p.GetRevision() != revision {
			t.Errorf("%s: the proxy is at revision %d, not at %d (%v)", c.name, p.GetRevision(), revision, err)
		}
	}
	eventually(t, 30*time.Second, func(context.Context) (bool, string) {
		return bytes.Equal(valueOf(t, client, head), genuine[head]) && bytes.Equal(valueOf(t, client, security), genuine[security]),
			"the heads were not put right"
	})
	tamperWithChunks(t, f, client, requests)
	goesOn(t, f)
	for _, m := range f.Members {
		checkOrder(t, m)
	}
}

// refusedBy is one of the control plane's counters of what it refused in etcd.
func refusedBy(t *testing.T, f *fleet.Fleet, what string) float64 {
	t.Helper()
	return metrics(t, f.Described.Status)[`sallyport_published_refusals_total{what="`+what+`"}`]
}

// tamperWithChunks flips a bit of all documents of an environment. A replica that begins
// then takes none of them.
func tamperWithChunks(t *testing.T, f *fleet.Fleet, client *clientv3.Client, requests *askers) {
	t.Helper()
	asked := requests.count()
	if err := f.ControlPlane.Kill(); err != nil {
		t.Fatal(err)
	}
	r, err := client.Get(t.Context(), prefix+"chunk/aws-demo/", clientv3.WithPrefix())
	if err != nil || len(r.Kvs) == 0 {
		t.Fatalf("%d chunks, %v", len(r.Kvs), err)
	}
	for _, kv := range r.Kvs {
		b := bytes.Clone(kv.Value)
		b[len(b)-1] ^= 1
		if _, err := client.Put(t.Context(), string(kv.Key), string(b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ControlPlane.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.ControlPlaneReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func(context.Context) (bool, string) {
		b, err := os.ReadFile(f.ControlPlane.Log)
		return err == nil && bytes.Contains(b, []byte(`"snapshot could not be loaded yet"`)), "tampered chunks were loaded"
	})
	requests.check(t, "tampered chunks", asked)
}

// goesOn fails unless a change still reaches every proxy.
func goesOn(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
	revision, err := f.Admin.Apply(t.Context(), policyNamed("after-all-that"), "after all that")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
}

// A proxy whose last-good files are torn or changed while it is down starts by the
// generation before, or by nothing; it counts that and says it, and goes on as soon as
// the control plane is there.
func TestTamperingWithLastGood(t *testing.T) {
	f := start(t)
	aws := f.Members[0]
	for _, name := range []string{"second", "third"} {
		revision, err := f.Admin.Apply(t.Context(), policyNamed(name), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
			t.Fatal(err)
		}
	}
	state := f.Path(aws.Name + "-state")
	damaged := `sallyport_last_good_damaged_total{lane="policy"}`
	for _, c := range []struct {
		name   string
		damage func(b []byte) []byte
		both   bool // generations
		serves bool
	}{
		{"a torn one", func(b []byte) []byte { return b[:len(b)/2] }, false, true},
		{"an empty one", func([]byte) []byte { return nil }, false, true},
		{"a bit flipped", func(b []byte) []byte { b[len(b)/3] ^= 4; return b }, false, true},
		{"both torn", func(b []byte) []byte { return b[:len(b)-40] }, true, false},
	} {
		eventually(t, 20*time.Second, func(context.Context) (bool, string) {
			info, err := os.Stat(filepath.Join(state, "last-good"))
			return err == nil && info.Size() > 0, "the last good snapshot was not written anew"
		})
		if err := aws.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := f.ControlPlane.Stop(); err != nil {
			t.Fatal(err)
		}
		files := []string{"last-good", "last-good.previous"}
		if !c.both {
			files = files[:1]
		}
		for _, name := range files {
			b, err := os.ReadFile(filepath.Join(state, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(state, name), c.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := aws.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, func(context.Context) (bool, string) {
			return alive(t, aws) && metrics(t, aws.Status)[damaged] == float64(len(files)), c.name + " was not counted"
		})
		if c.serves {
			if err := f.MemberReady(t.Context(), aws); err != nil {
				t.Fatal(err)
			}
			if status, body := ask(t, f, aws, http.MethodGet, "/v1/inventory/7"); status != http.StatusOK {
				t.Errorf("%s: requests are answered with %d %s", c.name, status, body)
			}
		} else if res, err := http.Get(aws.Status + "/readyz"); err != nil || res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: the proxy is ready", c.name)
		}
		if err := f.ControlPlane.Start(); err != nil {
			t.Fatal(err)
		}
		if err := f.ControlPlaneReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := f.MemberReady(t.Context(), aws); err != nil {
			t.Fatal(err)
		}
		if err := f.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	goesOn(t, f)
}

// alive reports whether a process answers already.
func alive(t *testing.T, m *fleet.Member) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.Status+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil
}
