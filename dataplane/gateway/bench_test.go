package gateway_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The benchmark measures what one process, this one, needs for being the proxy:
// the upstream and the client are children, run by TestMain.
const childVariable = "SALLYPORT_BENCH_CHILD"

// beChild ends with the parent, and as a panic when something is wrong.
func beChild(role string) {
	switch role {
	case "upstream":
		beUpstream()
	case "client":
		beClient()
	case "offering":
		beOffering()
	case "paced":
		bePaced()
	case "accepting":
		beAccepting()
	case "opening":
		beOpening()
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func beUpstream() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(ln.Addr())
	answer := make([]byte, 1024)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/octet-stream"}
		_, _ = w.Write(answer)
	})}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	_ = server.Serve(ln)
}

// load is a run of requests.
type load struct {
	Address, Token string
	CA             []byte
	HTTP2          bool
	Requests       int
	Connections    int
}

// beClient makes the loads that it reads, and says after each that it is done.
func beClient() {
	for in := json.NewDecoder(os.Stdin); ; {
		var l load
		if err := in.Decode(&l); err != nil {
			return
		}
		l.run()
		fmt.Println("done")
	}
}

func (l *load) run() {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.CA)
	var wg sync.WaitGroup
	for range l.Connections {
		wg.Go(func() {
			tr := &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, ForceAttemptHTTP2: l.HTTP2, DisableCompression: true,
			}
			defer tr.CloseIdleConnections()
			for range l.Requests / l.Connections {
				r, err := http.NewRequest(http.MethodGet, "https://"+l.Address+"/v1/orders/0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e", nil)
				check(err)
				r.Host = host
				r.Header.Set("Authorization", "Bearer "+l.Token)
				res, err := tr.RoundTrip(r)
				check(err)
				if n, err := io.Copy(io.Discard, res.Body); n != 1024 || err != nil || res.StatusCode != 200 {
					panic(fmt.Sprint(res.Status, n, err))
				}
				_ = res.Body.Close()
			}
		})
	}
	wg.Wait()
}

// child starts this program as something else.
func child(b testing.TB, role string) (io.Writer, *bufio.Reader) {
	b.Helper()
	return start(b, role, exec.Command(os.Args[0]))
}

func start(b testing.TB, role string, cmd *exec.Cmd) (io.Writer, *bufio.Reader) {
	b.Helper()
	cmd.Env = append(os.Environ(), childVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return in, bufio.NewReader(out)
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCPU compares the CPU time of one proxied request (TLS 1.3,
// keep-alive, 1 KiB) with all security on, with that of net/http's own reverse
// proxy with none, in turns.
func BenchmarkCPU(b *testing.B) {
	w := newWorld(b, options{writer: file(b)})
	_, out := child(b, "upstream")
	upstream, err := out.ReadString('\n')
	w.must(err)
	upstream = strings.TrimSpace(upstream)
	w.apply(w.usual(plaintext(upstream)) + morePolicies())
	in, done := child(b, "client")
	proxies := map[string]string{
		"sallyport":          w.address("edge/public"),
		"reverseproxy":       reverseProxy(w, upstream, http.DefaultTransport.(*http.Transport).Clone()), //nolint:forbidigo // what everybody starts with
		"reverseproxy-tuned": reverseProxy(w, upstream, &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}),
	}
	names := []string{"sallyport", "reverseproxy", "reverseproxy-tuned"}
	ca := w.issuer.ServerCAPEM()
	run := func(name string, http2 bool, n int) float64 {
		before := cpu(b)
		w.must(json.NewEncoder(in).Encode(load{proxies[name], w.tokens.sign(nil), ca, http2, n, 16}))
		if _, err := done.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		return float64((cpu(b) - before).Microseconds()) / float64(n)
	}
	for protocol, http2 := range map[string]bool{"http1": false, "http2": true} {
		figures := map[string][]float64{}
		for range 5 {
			for _, name := range names {
				run(name, http2, 1_000)
				figures[name] = append(figures[name], run(name, http2, 8_000))
			}
		}
		for _, name := range names {
			slices.Sort(figures[name])
			b.ReportMetric(figures[name][2], name+"-"+protocol+"-us/op")
			fmt.Printf("figure cpu_per_request_%s_%s %.1f us\n", strings.ReplaceAll(name, "-", "_"), protocol, figures[name][2])
		}
	}
}

// morePolicies are nineteen that have no say on requests of group shop.
func morePolicies() (spec string) {
	for i := range 19 {
		spec += fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: more-%d}
spec:
  routes: {names: [orders]}
  effect: %s
  principals: [{group: "group-%d"}, {spiffe: "spiffe://prod.example/ns/%d/*"}]
  methods: [GET, POST]
  paths: ["/v1/orders/{id}", "/v1/carts/**"]
`, i, []string{"ALLOW", "DENY"}[i%2], i, i)
	}
	return spec
}

func file(b *testing.B) io.Writer {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "decisions.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return f
}

// reverseProxy serves without any security but TLS.
func reverseProxy(w *world, upstream string, tr *http.Transport) (address string) {
	w.t.Helper()
	cert, err := w.issuer.IssueServerCertificate([]string{host}, time.Hour)
	w.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: &httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: upstream})
			r.SetXForwarded()
		}},
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(ln, "", "") })
	w.t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
		tr.CloseIdleConnections()
	})
	return ln.Addr().String()
}
