package link_test

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// exported is a bundle of both lanes as they were confirmed at a time.
func exported(t testing.TB, policy, security *snapshot.Snapshot, confirmed time.Time) []byte {
	t.Helper()
	b := &bundle.Bundle{Policy: policy, Security: security}
	if policy != nil {
		b.Freshness = freshness(t, policy.Head(), confirmed)
	}
	if security != nil {
		b.SecurityFreshness = freshness(t, security.Head(), confirmed)
	}
	var out bytes.Buffer
	if err := bundle.Write(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// bundled has a proxy begin with a bundle in a file.
func bundled(t testing.TB, b []byte) func(*link.Config) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bundle")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *link.Config) { c.Bundle = link.Bundle{Environment: env, File: file} }
}

// A new proxy that reaches nobody begins with a bundle, at the age that this has, and
// keeps it; what the control plane says later goes on from there.
func TestBeginsWithABundle(t *testing.T) {
	l, h, policy, security := newLab(t), newHands(), newTable(), newTable()
	one, first := at(t, 10, map[string]string{"a": "1"}), sequence(t, 3, map[string]string{"stolen": "1"})
	begin := bundled(t, exported(t, one, first, h.now().Add(-time.Hour)))
	clock := func(c *link.Config) { c.Now = h.now }
	k, stop := l.start(t, policy, secured(security), alone, clock, begin)
	eventually(t, "both lanes in force", func() bool { return k.Enforcing() && k.Secured() })
	policy.wantEnforced(t, one)
	security.wantEnforced(t, first)
	for name, age := range map[string]func() (time.Duration, bool){"configuration": k.Age, "security": k.SecurityAge} {
		if d, known := age(); !known || d != time.Hour {
			t.Errorf("%s age is %s, %t; want that of the bundle", name, d, known)
		}
	}
	eventually(t, "both on the disk", func() bool {
		return l.metric(t, "sallyport_snapshot_persisted_revision") == 10 && l.metric(t, "sallyport_security_persisted_sequence") == 3
	})
	stop()

	// From then on the proxy is one like any other.
	l.start(t, newTable(), clock)
	v := l.stream(t)
	hello := v.hello(t)
	wantProof(t, hello.GetCurrent(), one)
	wantProof(t, hello.GetSecurity(), first)
	two := at(t, 11, map[string]string{"a": "2"})
	wantProof(t, v.push(t, one, two), two)
}

// A bundle is not believed more than the network is, and never replaces what is there.
func TestBundlesThatAreNotTaken(t *testing.T) {
	now := time.Now()
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"})
	first, second := sequence(t, 3, nil), sequence(t, 4, map[string]string{"stolen": "1"})
	foreign := place{env, 1, 12, 2}.sign(t, docs(t, map[string]string{"a": "evil"}))
	elsewhere := place{"gcp-prod", 1, 12, 1}.sign(t, docs(t, map[string]string{"a": "evil"}))
	flipped := exported(t, two, second, now)
	flipped[len(flipped)/2] ^= 1
	remove := func(l *lab, names ...string) {
		for _, name := range names {
			_ = os.Remove(l.file(name))
		}
	}
	generations := []string{"last-good", "last-good.previous"}
	for _, c := range []struct {
		name             string
		bundle           []byte
		before           func(l *lab) // of a proxy that had revision 11 and sequence 4
		policy, security *snapshot.Snapshot
		result           string
	}{
		{"there is something newer", exported(t, one, first, now), func(*lab) {}, two, second, ""},
		{"there is something older", exported(t, at(t, 12, nil), sequence(t, 5, nil), now), func(*lab) {}, two, second, ""},
		{"older than the mark", exported(t, one, second, now), func(l *lab) { remove(l, generations...) }, nil, second, "refused"},
		{"the same as the mark", exported(t, two, second, now), func(l *lab) { remove(l, generations...) }, two, second, "taken"},
		{"another one at the mark", exported(t, at(t, 11, map[string]string{"a": "evil"}), second, now), func(l *lab) { remove(l, generations...) }, nil, second, "refused"},
		{"fewer revocations than there were", exported(t, two, first, now), func(l *lab) { remove(l, "security-last-good") }, two, nil, "refused"},
		{"the revocations that there were", exported(t, one, second, now), func(l *lab) { remove(l, "security-last-good") }, two, second, "taken"},
		{"of another fleet", exported(t, foreign, second, now), func(l *lab) { _ = os.RemoveAll(l.dir) }, nil, nil, "refused"},
		{"of another environment", exported(t, elsewhere, second, now), func(l *lab) { _ = os.RemoveAll(l.dir) }, nil, nil, "refused"},
		{"without revocations", exported(t, two, nil, now), func(l *lab) { _ = os.RemoveAll(l.dir) }, two, nil, "refused"},
		{"a bit flipped", flipped, func(l *lab) { _ = os.RemoveAll(l.dir) }, nil, nil, "refused"},
		{"cut off", exported(t, two, second, now)[:300], func(l *lab) { _ = os.RemoveAll(l.dir) }, nil, nil, "refused"},
		{"good, and the disk is empty", exported(t, two, second, now), func(l *lab) { _ = os.RemoveAll(l.dir) }, two, second, "taken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			_, stop := l.start(t, newTable())
			v := l.stream(t)
			v.secure(t, nil, second)
			v.securityAck(t, second, 4)
			v.push(t, nil, two)
			v.persisted(t, 11)
			stop()
			c.before(l)
			policy, security := newTable(), newTable()
			l.start(t, policy, secured(security), alone, bundled(t, c.bundle))
			l.settled(t)
			if c.result != "" {
				eventually(t, "an attempt", func() bool { return l.labelled(t, "sallyport_bundle_attempts_total", c.result) > 0 })
			}
			policy.wantEnforced(t, c.policy)
			security.wantEnforced(t, c.security)
			if c.result == "" && l.metric(t, "sallyport_bundle_attempts_total") > 0 {
				t.Error("the bundle was asked for")
			}
		})
	}
}

// labelled returns the value of the counter's series that has a label's value.
func (l *lab) labelled(t testing.TB, name, value string) float64 {
	t.Helper()
	families, err := l.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == value {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// A bundle's server may be away, or wrong, at first. Nobody but the one that is named
// is asked.
func TestBundleFromAServer(t *testing.T) {
	b := exported(t, at(t, 10, map[string]string{"a": "1"}), sequence(t, 3, nil), time.Now())
	var asked atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/aws.bundle" {
			t.Errorf("asked for %s", r.URL)
		}
		switch asked.Add(1) {
		case 1:
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case 2:
			_, _ = w.Write(b[:100])
		default:
			_, _ = w.Write(b)
		}
	}))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	from := func(b link.Bundle) func(*link.Config) { return func(c *link.Config) { c.Bundle = b } }
	l, e := newLab(t), newTable()
	k, _ := l.start(t, e, alone, from(link.Bundle{Environment: env, URL: server.URL + "/aws.bundle", CAFile: ca}))
	eventually(t, "both lanes in force", func() bool { return k.Enforcing() && k.Secured() })
	if failed, refused := l.labelled(t, "sallyport_bundle_attempts_total", "failed"), l.labelled(t, "sallyport_bundle_attempts_total", "refused"); failed != 1 || refused != 1 {
		t.Errorf("%v attempts have failed, and %v bundles were refused", failed, refused)
	}

	// A server that nobody vouches for is told nothing.
	before := asked.Load()
	stranger := newLab(t)
	k, _ = stranger.start(t, newTable(), alone, from(link.Bundle{Environment: env, URL: server.URL + "/aws.bundle"}))
	eventually(t, "a failure", func() bool { return stranger.labelled(t, "sallyport_bundle_attempts_total", "failed") > 0 })
	if asked.Load() != before || k.Enforcing() {
		t.Error("a bundle came from a server that nobody vouches for")
	}
}

// The control plane does not wait for a bundle, nor is it overruled by one.
func TestControlPlaneGoesBeforeTheBundle(t *testing.T) {
	l, e := newLab(t), newTable()
	file := filepath.Join(t.TempDir(), "bundle")
	k, _ := l.start(t, e, func(c *link.Config) { c.Bundle = link.Bundle{Environment: env, File: file} })
	v := l.stream(t)
	two := at(t, 11, map[string]string{"a": "2"})
	v.push(t, nil, two)
	if err := os.WriteFile(file, exported(t, at(t, 12, nil), sequence(t, 3, nil), time.Now()), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "revocations of the bundle", k.Secured)
	e.wantEnforced(t, two)
}

func TestBundlesThatCannotBe(t *testing.T) {
	for name, b := range map[string]link.Bundle{
		"environment: ":                {File: "/b"},
		"environment: say":             {Environment: snapshot.SecurityLane, File: "/b"},
		"give file or url":             {Environment: env},
		"give file or url ":            {Environment: env, File: "/b", URL: "https://b.example/b"},
		"file: ":                       {Environment: env, File: "b"},
		"ca_file: is for a url":        {Environment: env, File: "/b", CAFile: "/ca"},
		"ca_file: ":                    {Environment: env, URL: "https://b.example/b", CAFile: "ca"},
		"url: want https://host/path":  {Environment: env, URL: "http://b.example/b"},
		"url: want https://host/path ": {Environment: env, URL: "https://u:p@b.example/b"},
	} {
		if err := b.Check(); err == nil || !strings.HasPrefix(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%+v: %v, want %q", b, err, name)
		}
	}
	if err := (link.Bundle{}).Check(); err != nil {
		t.Errorf("none: %v", err)
	}
}

// After a rotation of the fleet's keys a bundle leads to those that signed it, and the
// proxy keeps the way.
func TestBundleAfterARotation(t *testing.T) {
	first, second := signer(1), signer(2)
	set, err := first.SignKeySet(snapshot.KeySet{}, second.Public())
	if err != nil {
		t.Fatal(err)
	}
	one := place{env, 1, 10, 2}.sign(t, docs(t, map[string]string{"a": "1"}))
	b := &bundle.Bundle{
		KeySets: []*proxyv1.SignedKeySet{set.Signed()},
		Policy:  one, Security: place{snapshot.SecurityLane, 1, 3, 2}.sign(t, docs(t, nil)),
	}
	var file bytes.Buffer
	if err := bundle.Write(&file, b); err != nil {
		t.Fatal(err)
	}
	l, e := newLab(t), newTable()
	k, stop := l.start(t, e, alone, bundled(t, file.Bytes()))
	eventually(t, "both lanes in force", func() bool { return k.Enforcing() && k.Secured() })
	e.wantEnforced(t, one)
	if generation := l.metric(t, "sallyport_key_set_generation"); generation != 1 {
		t.Errorf("generation %v is shown", generation)
	}
	eventually(t, "it is on the disk", func() bool { return l.metric(t, "sallyport_snapshot_persisted_revision") == 10 })
	stop()
	if _, err := os.Stat(l.file("key-sets")); err != nil {
		t.Error(err)
	}
}
