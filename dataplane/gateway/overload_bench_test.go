package gateway_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/dataplane/overload"
)

// offer is a load that comes whether or not the answers do: so many requests in a
// second, or as fast as answers come when zero.
type offer struct {
	Address     string
	CA          []byte
	Tokens      []string // one for each request
	Connections int
	PerSecond   int
}

// offered is what became of it.
type offered struct {
	Took      time.Duration
	Served    int             // within a second from when they were due
	Refused   int             // with 503
	Failed    int             // with anything else
	Latencies []time.Duration // of all that were answered with 200
}

// beOffering makes the loads that it reads, and writes what became of each.
func beOffering() {
	out := json.NewEncoder(os.Stdout)
	for in := json.NewDecoder(os.Stdin); ; {
		var o offer
		if err := in.Decode(&o); err != nil {
			return
		}
		check(out.Encode(o.run()))
	}
}

func (o *offer) run() (sum offered) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(o.CA)
	type task struct {
		token string
		due   time.Time
	}
	tasks := make(chan task, len(o.Tokens))
	var asking sync.WaitGroup
	var mu sync.Mutex
	for range o.Connections {
		conn, err := tls.Dial("tcp", o.Address, &tls.Config{RootCAs: roots, ServerName: host, NextProtos: []string{"http/1.1"}})
		check(err)
		asking.Go(func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			for t := range tasks {
				_, err := io.WriteString(conn, "GET /v1/orders/7 HTTP/1.1\r\nHost: "+host+"\r\nAuthorization: Bearer "+t.token+"\r\n\r\n")
				check(err)
				res, err := http.ReadResponse(in, nil)
				check(err)
				_, err = io.Copy(io.Discard, res.Body)
				check(err)
				took := time.Since(t.due)
				mu.Lock()
				switch res.StatusCode {
				case http.StatusOK:
					sum.Latencies = append(sum.Latencies, took)
					if took < time.Second {
						sum.Served++
					}
				case http.StatusServiceUnavailable:
					sum.Refused++
				default:
					sum.Failed++
				}
				mu.Unlock()
			}
		})
	}
	began := time.Now()
	for n, token := range o.Tokens {
		due := time.Now()
		if o.PerSecond > 0 {
			due = began.Add(time.Duration(n) * time.Second / time.Duration(o.PerSecond))
			<-time.After(time.Until(due))
		}
		tasks <- task{token, due}
	}
	close(tasks)
	asking.Wait()
	sum.Took = time.Since(began)
	return sum
}

// heavy are policies on which a decision takes long.
func heavy() (yaml string) {
	numbers := strings.Repeat("1, ", 49) + "1"
	for i := range 20 {
		yaml += fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: heavy-%d}
spec: {routes: {names: [orders]}, effect: DENY, when: '[%s].exists(x, x + size(request.path) > 100)'}
`, i, numbers)
	}
	return yaml
}

// BenchmarkOverload offers three times as much as a proxy on one processor can do, with
// tokens that it has to verify each and conditions that take long, with and without what
// guards it against overload.
func BenchmarkOverload(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const seconds = 10
	_, out := child(b, "upstream")
	up, err := out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	for _, guarded := range []bool{true} {
		var o options
		o.writer = file(b)
		if guarded {
			o.overload, err = overload.New(overload.Config{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
		}
		w := newWorld(b, o)
		if guarded {
			w.run(o.overload.Run)
		}
		w.apply(w.usual(plaintext(strings.TrimSpace(up))) + heavy())
		in, done := child(b, "offering")
		run := func(n, perSecond, connections int) (sum offered) {
			tokens := make([]string, n)
			for i := range tokens {
				tokens[i] = w.tokens.sign(jwt.MapClaims{"n": fmt.Sprint(perSecond, i)})
			}
			w.must(json.NewEncoder(in).Encode(offer{w.address("edge/public"), w.issuer.ServerCAPEM(), tokens, connections, perSecond}))
			w.must(json.NewDecoder(done).Decode(&sum))
			slices.Sort(sum.Latencies)
			return sum
		}
		run(500, 0, 16)
		most := run(2_000, 0, 16)
		capacity := float64(len(most.Latencies)) / most.Took.Seconds()
		got := run(int(3*capacity)*seconds, int(3*capacity), 5_000) // more than wait at a time
		name, goodput := map[bool]string{false: "unguarded", true: "guarded"}[guarded], float64(got.Served)/seconds/capacity
		p99 := got.Latencies[len(got.Latencies)*99/100]
		fmt.Printf("figure overload_capacity_%s %.0f requests/s\n", name, capacity)
		fmt.Printf("figure overload_offered_for_%s %.1f s\n", name, got.Took.Seconds())
		fmt.Printf("figure overload_refused_%s %.2f of offered\n", name, float64(got.Refused)/float64(int(3*capacity)*seconds))
		fmt.Printf("figure overload_failed_%s %d requests\n", name, got.Failed)
		fmt.Printf("figure overload_goodput_%s %.2f of capacity\n", name, goodput)
		fmt.Printf("figure overload_p99_%s %.0f ms\n", name, float64(p99.Milliseconds()))
		b.ReportMetric(goodput, name+"-goodput")
		w.stop()
	}
}
