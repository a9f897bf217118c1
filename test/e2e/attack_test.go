package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

const (
	// attackGrowth is what a proxy may grow by in an attack, in MiB.
	attackGrowth = 80
	// attackEnds is how long a proxy may take to end what an attacker has begun. A head
	// has ten seconds.
	attackEnds = 15 * time.Second
	// perSecond is how many requests others make meanwhile.
	perSecond = 200
)

// A proxy that is attacked keeps little, ends the attacker's connections, and answers
// others.
func TestAttacks(t *testing.T) {
	s := besiege(t)
	for i := range attacks {
		a := &attacks[i]
		t.Run(a.name, func(t *testing.T) {
			o := s.order(a)
			o.Connections, o.Patience = max(50, a.atOnce), attackEnds
			if a.outlast {
				o.Connections, o.Patience = a.atOnce, 4*time.Second
			}
			before := s.watch(t)
			s.attacker.begin(t, o)
			s.others.ask(t, perSecond)
			got := s.attacker.end(t)
			grown := s.heaviest(t) - before
			fmt.Printf("figure attack_%s_growth %.1f MiB\n", a.name, grown)
			if grown > attackGrowth && !raceEnabled { // the race detector remembers as well
				t.Errorf("the proxy has grown by %.1f MiB", grown)
			}
			a.check(t, &got, o.Connections)
		})
	}
}

// check compares what became of an attack over n connections with what should.
func (a *attack) check(t *testing.T, got *report, n int) {
	t.Helper()
	ended := n
	if a.outlast {
		ended = 0
	}
	if got.Begun != n || got.Ended != ended {
		t.Errorf("of %d connections %d were to be ended: %+v", n, ended, got)
	}
	for status, times := range got.Answers {
		if status != a.answers {
			t.Errorf("%d were answered %s", times, status)
		}
	}
	if a.answers != "" && got.Answers[a.answers] != n {
		t.Errorf("%d were answered %s, of %d", got.Answers[a.answers], a.answers, n)
	}
}

// siege is a proxy that is attacked, and has others to serve.
type siege struct {
	proxy    *fleet.Member
	ca       []byte
	attacker *attacker
	others   *others
}

func besiege(t testing.TB) *siege {
	t.Helper()
	f := start(t)
	s := &siege{proxy: f.Members[0], attacker: startAttacker(t)}
	up := httptest.NewServer(http.HandlerFunc(answerAttacks))
	t.Cleanup(up.Close)
	if err := prove(t.Context(), f, attackResources(f, s.proxy, up.Listener.Addr().String(), s.attacker.upstream)); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.ca, err = os.ReadFile(f.Described.CAFile); err != nil {
		t.Fatal(err)
	}
	s.others = newOthers(t, f, s.proxy)
	for range 3 { // what is made once is there
		s.others.ask(t, perSecond)
	}
	return s
}

func (s *siege) order(a *attack) *order {
	return &order{Attack: a.name, Address: strings.TrimPrefix(s.proxy.URL, "https://"), CA: s.ca}
}

// answerAttacks is an upstream.
func answerAttacks(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)   // it may be broken off
	_, _ = rw.Write(make([]byte, 1<<10)) // nobody may want it
}

// attackResources bound an address as they are bounded that are not this machine's own.
func attackResources(f *fleet.Fleet, m *fleet.Member, up, large string) string {
	return fmt.Sprintf(attackText, m.Environment, strings.TrimPrefix(m.URL, "https://"), f.Path("proxy-tls.pem"), f.Path("proxy-tls-key.pem"), up, large)
}

const attackText = `apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: platform, name: %[1]s}
spec:
  environments: [%[1]s]
  address: %[2]q
  tls:
    certificates: [{certificateFile: %[3]q, privateKeyFile: %[4]q}]
    clientCertificates: OPTIONAL
  clientIp: {direct: {}}
  connections: {perAddress: 2000, newPerSecond: 200}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: attacked}
spec: {endpoints: [%[5]q], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: large}
spec: {endpoints: [%[6]q], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: attacked, labels: {for: anybody}}
spec: {hosts: [127.0.0.1], paths: [/attack/small], upstream: attacked, authentication: {anonymous: true}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: large, labels: {for: anybody}}
spec: {hosts: [127.0.0.1], paths: [/attack/large], upstream: large, authentication: {anonymous: true}}
---
apiVersion: sallyport/v1
kind: Schema
metadata: {namespace: shop, name: checked}
spec: {jsonSchema: "type: object"}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: checked, labels: {for: anybody}}
spec:
  hosts: [127.0.0.1]
  paths: [/attack/checked]
  upstream: attacked
  authentication: {anonymous: true}
  validation: {schema: checked}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: anybody}
spec: {routes: {labels: {for: anybody}}, effect: ALLOW, principals: [{anonymous: true}]}
`

// watch returns what the proxy holds, in MiB, and begins to look for the most of it.
func (s *siege) watch(t *testing.T) float64 {
	t.Helper()
	const peak = "5" // has the kernel forget the peak so far
	if err := os.WriteFile(s.proc("clear_refs"), []byte(peak), 0); err != nil {
		t.Fatal(err)
	}
	return s.held(t, "VmRSS:")
}

// heaviest is the most that it held since.
func (s *siege) heaviest(t *testing.T) float64 {
	t.Helper()
	return s.held(t, "VmHWM:")
}

func (s *siege) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", s.proxy.PID(), file) }

func (s *siege) held(t *testing.T, what string) float64 {
	t.Helper()
	status, err := os.ReadFile(s.proc("status"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), what)
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return float64(kib) / 1024
}

// others are clients that mean no harm, over connections that they keep.
type others struct {
	url     string
	clients []*http.Client
}

func newOthers(t testing.TB, f *fleet.Fleet, m *fleet.Member) *others {
	t.Helper()
	o := &others{url: m.URL + "/attack/small", clients: make([]*http.Client, 16)}
	for i := range o.clients {
		c, err := f.Client(false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		o.clients[i] = c
	}
	return o
}

// ask makes n requests, each when it is due, however late the answers to those before
// are. It returns what the answers took from then.
func (o *others) ask(t testing.TB, n int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	began := time.Now()
	var asking sync.WaitGroup
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / perSecond)
		<-time.After(time.Until(due))
		asking.Go(func() {
			if err := o.one(t.Context(), o.clients[i%len(o.clients)]); err != nil {
				t.Error(err)
			}
			took[i] = time.Since(due)
		})
	}
	asking.Wait()
	return took
}

func (o *others) one(ctx context.Context, c *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url, http.NoBody)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("others were answered %s", res.Status)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
