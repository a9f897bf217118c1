package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// attackerVariable makes this binary an attacker.
const attackerVariable = "SALLYPORT_E2E_ATTACKER"

const (
	// attackersAddress is another than that of others: listeners bound what comes of one.
	attackersAddress = "127.0.0.2"
	// newPerSecond is how many connections an attacker begins in a second, at most.
	newPerSecond = 100
)

// order is what an attacker is told to do: to make so many connections, or to go on for
// some time.
type order struct {
	Attack      string
	Address     string
	CA          []byte
	Connections int
	// Patience is how long it waits for the proxy to end each of them.
	Patience time.Duration
	// For is when all of it ends, unless it is zero.
	For time.Duration
}

func sayMuch(rw http.ResponseWriter, _ *http.Request) {
	_, _ = io.Copy(rw, (&pace{size: 8 * mib}).source()) // nobody wants it
}

// report is what became of it.
type report struct {
	Begun   int            // connections
	Refused int            // within the handshake, or before
	Ended   int            // by the proxy
	Answers map[string]int // of HTTP/1.1, by status
}

// beAttacker carries out the orders that it reads. It is the upstream as well that has
// much to say to who does not listen: that would be elsewhere, too.
func beAttacker() {
	out := json.NewEncoder(os.Stdout)
	up := httptest.NewServer(http.HandlerFunc(sayMuch))
	defer up.Close()
	if err := out.Encode(up.Listener.Addr().String()); err != nil {
		return // the parent is gone
	}
	for in := json.NewDecoder(os.Stdin); ; {
		var o order
		if err := in.Decode(&o); err != nil {
			return // the parent is gone
		}
		if err := out.Encode(o.run()); err != nil {
			return
		}
	}
}

// raid is an order that is carried out.
type raid struct {
	*order
	attack *attack
	tls    *tls.Config
	end    time.Time // for all of it; zero for none

	mu  sync.Mutex
	sum report
}

func (o *order) run() *report {
	r := &raid{order: o, attack: attackOf(o.Attack), sum: report{Answers: map[string]int{}}}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(o.CA)
	r.tls = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}}
	if r.attack.http2 {
		r.tls.NextProtos = []string{http2.NextProtoTLS}
	}
	r.attack.begins() // what takes long to make is made
	if o.For > 0 {
		r.end = time.Now().Add(o.For)
	}
	tick := time.NewTicker(time.Second / newPerSecond)
	defer tick.Stop()
	turns := make(chan struct{}, r.attack.atOnce)
	var all sync.WaitGroup
	for n := 0; r.goesOn(n); n++ {
		<-tick.C
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			r.connect()
		})
	}
	all.Wait()
	return &r.sum
}

// goesOn reports whether more connections follow on n.
func (r *raid) goesOn(n int) bool {
	if r.end.IsZero() {
		return n < r.Connections
	}
	return time.Now().Before(r.end)
}

func attackOf(name string) *attack {
	for i := range attacks {
		if attacks[i].name == name {
			return &attacks[i]
		}
	}
	panic("there is no attack " + name)
}

// connect attacks over one connection.
func (r *raid) connect() {
	until := r.end
	if until.IsZero() {
		until = time.Now().Add(r.Patience)
	}
	d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(attackersAddress)}}, Config: r.tls}
	if r.attack.deaf {
		d.NetDialer.Control = smallWindow
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", r.Address)
	if err != nil {
		r.count(func(sum *report) { sum.Refused++ })
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(until) // a read or a write will tell
	ended, status := make(chan struct{}), ""
	go func() {
		defer close(ended)
		status = r.hear(ctx, conn)
	}()
	r.speak(conn, ended)
	<-ended
	r.count(func(sum *report) {
		sum.Begun++
		if time.Now().Before(until) {
			sum.Ended++
		}
		if status != "" {
			sum.Answers[status]++
		}
	})
}

// smallWindow has little be sent to who does not read.
func smallWindow(_, _ string, conn syscall.RawConn) error {
	const size = 4096
	var set error
	err := conn.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size)
	})
	return errors.Join(err, set)
}

func (r *raid) count(change func(*report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.sum)
}

// speak says what there is to say, until the proxy will not have it.
func (r *raid) speak(conn net.Conn, ended <-chan struct{}) {
	out := bufio.NewWriter(conn)
	_, err := out.WriteString(r.attack.begins())
	for n := 0; n < r.attack.times && err == nil; n++ {
		if r.attack.every > 0 {
			err = out.Flush()
			select {
			case <-ended:
				return
			case <-time.After(r.attack.every):
			}
		}
		if err == nil {
			_, err = out.WriteString(r.attack.floods(n))
		}
	}
	_ = out.Flush() // who hears will notice
}

// hear returns the status of the first answer of HTTP/1.1 when the connection has ended.
func (r *raid) hear(ctx context.Context, conn net.Conn) (status string) {
	if r.attack.deaf {
		<-ctx.Done()
		return ""
	}
	in := bufio.NewReader(conn)
	if first, _ := in.Peek(12); !r.attack.http2 && len(first) == 12 {
		status = string(first[9:])
	}
	_, _ = io.Copy(io.Discard, in) // however it ends
	return status
}

// attacker is a process that attacks when it is told to. It leaves the processors to
// others, as it would be elsewhere.
type attacker struct {
	in       *json.Encoder
	out      *json.Decoder
	upstream string
}

func startAttacker(t testing.TB) *attacker {
	t.Helper()
	cmd := exec.Command("nice", "-n", "19", os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), attackerVariable+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // it has been heard
	})
	a := &attacker{in: json.NewEncoder(in), out: json.NewDecoder(out)}
	if err := a.out.Decode(&a.upstream); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *attacker) begin(t testing.TB, o *order) {
	t.Helper()
	if err := a.in.Encode(o); err != nil {
		t.Fatal(err)
	}
}

func (a *attacker) end(t testing.TB) (r report) {
	t.Helper()
	if err := a.out.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}
