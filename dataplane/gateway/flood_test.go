package gateway_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pacedLoad is requests that are due at their times, however late the answers
// to those before are.
type pacedLoad struct {
	Address     string
	CA          []byte
	HTTP2       bool
	Connections int // over HTTP/2 pools of them, each as large as need be
	Requests    int
	PerSecond   int
	// Token goes with each request, unless it is empty; with Forge, it goes
	// under the name of another made-up key each time.
	Token string
	Forge bool
	Want  int // the status of every answer
}

// bePaced makes the loads that it reads, over the connections of the first, and
// writes after each what the answers took, from when their requests were due.
func bePaced() {
	out := json.NewEncoder(os.Stdout)
	var over []*http.Transport
	for in := json.NewDecoder(os.Stdin); ; {
		var l pacedLoad
		if err := in.Decode(&l); err != nil {
			return
		}
		if over == nil {
			over = l.transports()
		}
		check(out.Encode(l.run(over)))
	}
}

func (l *pacedLoad) transports() []*http.Transport {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.CA)
	all := make([]*http.Transport, l.Connections)
	for i := range all {
		all[i] = &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, ForceAttemptHTTP2: l.HTTP2, DisableCompression: true,
		}
	}
	return all
}

func (l *pacedLoad) run(over []*http.Transport) []time.Duration {
	took := make([]time.Duration, l.Requests)
	began := time.Now()
	var asking sync.WaitGroup
	for n := range took {
		due := began.Add(time.Duration(n) * time.Second / time.Duration(l.PerSecond))
		<-time.After(time.Until(due))
		asking.Go(func() {
			check(l.ask(over[n%len(over)]))
			took[n] = time.Since(due)
		})
	}
	asking.Wait()
	return took
}

func (l *pacedLoad) ask(tr *http.Transport) error {
	r, err := http.NewRequest(http.MethodGet, "https://"+l.Address+"/v1/orders/7", nil)
	if err != nil {
		return err
	}
	r.Host = host
	if l.Token != "" {
		r.Header.Set("Authorization", "Bearer "+l.bearer())
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	if res.StatusCode != l.Want {
		err = errors.New(res.Status)
	}
	_, read := io.Copy(io.Discard, res.Body)
	return errors.Join(err, read, res.Body.Close())
}

func (l *pacedLoad) bearer() string {
	if !l.Forge {
		return l.Token
	}
	header := fmt.Appendf(nil, `{"alg":"ES256","kid":"%x"}`, rand.Uint64())
	return b64(header) + l.Token[strings.IndexByte(l.Token, '.'):]
}

// pacedClient is a process that makes paced loads.
type pacedClient struct {
	b   testing.TB
	in  io.Writer
	out *bufio.Reader
}

func newPacedClient(b testing.TB, cmd ...string) *pacedClient {
	b.Helper()
	cmd = append(cmd, os.Args[0])
	in, out := start(b, "paced", exec.Command(cmd[0], cmd[1:]...))
	return &pacedClient{b, in, out}
}

func (c *pacedClient) begin(l *pacedLoad) {
	c.b.Helper()
	if err := json.NewEncoder(c.in).Encode(l); err != nil {
		c.b.Fatal(err)
	}
}

func (c *pacedClient) end() (took []time.Duration) {
	c.b.Helper()
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &took)
	}
	if err != nil {
		c.b.Fatal(err)
	}
	return took
}

// BenchmarkRandomKids measures what requests of others take while somebody sends
// 100,000 tokens, 2,000 in a second, each under the name of another made-up key,
// to a gateway whose issuer takes 300 ms to say what its keys are.
//
// Gateway, upstream and clients share this machine. So the flood is compared in
// turns with one that is as large and is refused for the cheapest reason there
// is, that it bears no token: what others wait longer than that is for the kids.
// What sends the flood would be elsewhere, so it leaves the processors to the rest
// of us (nice 19).
// The ratio to turns without any flood is told, too; it has in it what sending
// and answering 2,000 requests of any kind costs where few processors do it all.
//
// Turns are short, so that what else the machine does meets all kinds alike. A
// ratio is of ten turns of each, 15 s, in which there is a fetch because a
// cool-down is 10 s. The median of ten ratios is the figure.
func BenchmarkRandomKids(b *testing.B) {
	const ratios, turns, kids = 10, 10, 100_000
	f := newFlood(b)
	alone, tokenless, random := make([]float64, ratios), make([]float64, ratios), make([]float64, ratios)
	beside, besideNone := make([]float64, ratios), make([]float64, ratios)
	for i := range ratios {
		took := map[string][]time.Duration{}
		for turn := range 3 * turns {
			what := []string{"alone", "tokenless", "random kids"}[(turn+turn/3)%3]
			took[what] = append(took[what], f.turn(what, kids/ratios/turns)...)
		}
		alone[i], tokenless[i], random[i] = p99(took["alone"]), p99(took["tokenless"]), p99(took["random kids"])
		beside[i], besideNone[i] = random[i]/tokenless[i], random[i]/alone[i]
	}
	fmt.Printf("\n%d requests with random kids, %d fetches: p99 of others %.2f ms, beside as many without token %.2f ms, alone %.2f ms\n",
		kids, f.fetches.Load(), median(random), median(tokenless), median(alone))
	fmt.Printf("figure random_kids_p99 %.2f ms\n", median(random))
	fmt.Printf("figure random_kids_p99_ratio %.2f ratio\n", median(beside))
	fmt.Printf("figure random_kids_p99_ratio_to_no_flood %.2f ratio\n", median(besideNone))
}

// p99 is in milliseconds. It sorts.
func p99(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)*99/100].Microseconds()) / 1000
}

// median sorts.
func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// flood is a gateway with a steady client, and another that has no credentials.
type flood struct {
	*world
	fetches         atomic.Int64
	steady, hostile *pacedClient
	valid           string
}

func newFlood(b *testing.B) *flood {
	b.Helper()
	w := newWorld(b, options{writer: file(b)})
	f := &flood{world: w, steady: newPacedClient(b), hostile: newPacedClient(b, "nice", "-n", "19")}
	f.valid = w.tokens.sign(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
	far := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		f.fetches.Add(1)
		<-time.After(300 * time.Millisecond)
		_, _ = io.WriteString(rw, w.tokens.set) // the gateway may be gone
	}))
	b.Cleanup(far.Close)
	_, out := child(b, "upstream")
	upstream, err := out.ReadString('\n')
	w.must(err)
	w.apply(strings.ReplaceAll(w.usual(plaintext(strings.TrimSpace(upstream))), w.tokens.server.URL, far.URL))
	for _, what := range []string{"alone", "tokenless"} { // connections are made
		f.turn(what, 100)
	}
	return f
}

// turn returns what the steady client's requests took while n others were sent,
// if there is a flood, or as long as that would be.
func (f *flood) turn(what string, n int) []time.Duration {
	f.t.Helper()
	const others, steady = 2000, 400
	all := pacedLoad{Address: f.address("edge/public"), CA: f.issuer.ServerCAPEM()}
	valid, hostile := all, all
	valid.Connections, valid.Requests, valid.PerSecond = 16, n*steady/others, steady
	valid.Token, valid.Want = f.valid, http.StatusOK
	hostile.HTTP2, hostile.Connections, hostile.Requests, hostile.PerSecond = true, 8, n, others
	hostile.Want = http.StatusUnauthorized
	if what == "random kids" {
		hostile.Token, hostile.Forge = f.valid, true
	}
	if what != "alone" {
		f.hostile.begin(&hostile)
		defer f.hostile.end()
	}
	f.steady.begin(&valid)
	return f.steady.end()
}
