package link_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/dataplane"
	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// gate is a whole proxy in front of an upstream, whose requests are all recorded by
// a control plane in a database.
type gate struct {
	*fleet
	dsn      string
	replica  *replica
	settings dataplane.Settings
	listener string // address
	tls      *tls.Config
}

const recorded = `
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders}
spec: {hosts: [api.example], upstream: orders, authentication: {client_certificates: true}, record: {mode: %s}}
`

// newGate starts all of it, with other settings if need be, and waits until requests
// are let through.
func newGate(t *testing.T, mode string, others ...func(*dataplane.Settings)) *gate {
	t.Helper()
	g := &gate{fleet: newFleet(t), listener: free(t)}
	g.dsn = storagetest.Postgres(t, postgres.Migrate)
	g.open(g.dsn)
	g.replica = g.fleet.replica("one")
	g.commit(clouds)
	g.commit(fmt.Sprintf(edge, g.listener, lean(t)))
	g.commit(fmt.Sprintf(recorded, mode))
	last := g.commit(policy("reads", "/v1/**"))
	g.settings = g.fleet.settings("aws/1", free(t), g.replica.url)
	g.settings.Records = "none"
	for _, change := range others {
		change(&g.settings)
	}
	g.whole(g.settings)
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one"}
	g.replica.enforced(p, last, enforced)
	g.replica.await(p, "a listener", func(k *adminv1.Proxy) bool {
		return len(k.GetListeners()) == 1 && k.GetListeners()[0].GetError() == ""
	})
	g.tls = identity.ClientConfig(g.identify("spiffe://prod.example/shop/web"), identity.Only(p.id))
	g.tls.ServerName = "api.example"
	return g
}

// lean serves one answer to all requests, and costs little.
func lean(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			_ = c.Close()
		}
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			serving.Go(func() { answerAll(conn) })
		}
	})
	return ln.Addr().String()
}

func answerAll(conn net.Conn) {
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadSlice('\n')
		if err == nil && len(line) == len("\r\n") {
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nan order")
		}
		if err != nil {
			return
		}
	}
}

// caller sends requests over one connection, in turn.
type caller struct {
	conn *tls.Conn
	r    *bufio.Reader
}

func (g *gate) caller() (*caller, error) {
	conn, err := tls.Dial("tcp", g.listener, g.tls)
	if err != nil {
		return nil, err
	}
	return &caller{conn, bufio.NewReader(conn)}, nil
}

// ask sends a request, and returns the status of the answer and the decision's ID.
func (c *caller) ask() (status int, id storage.DecisionID, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, id, err
	}
	if _, err := io.WriteString(c.conn, "GET /v1/orders/7 HTTP/1.1\r\nHost: api.example\r\nUser-Agent: load\r\n\r\n"); err != nil {
		return 0, id, err
	}
	length := 0
	for n := 0; ; n++ {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, id, err
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		switch {
		case n == 0 && len(line) > len("HTTP/1.1 200"):
			status, err = strconv.Atoi(string(line[9:12]))
		case len(name) == 0:
			_, err = c.r.Discard(length)
			return status, id, err
		case string(name) == "Content-Length":
			length, err = strconv.Atoi(string(value))
		case string(name) == "Sallyport-Decision-Id":
			id, err = storage.ParseDecisionID(string(value))
		}
		if err != nil {
			return 0, id, err
		}
	}
}

// load is requests that are due at their times, over several connections.
type load struct {
	*gate
	perSecond int
	began     time.Time
	next      atomic.Int64 // is due
	answered  atomic.Int64
	ended     atomic.Bool

	mu      sync.Mutex
	allowed []storage.DecisionID
	denied  int
	took    []time.Duration
}

// send sends requests until ended is set, over so many connections.
func (l *load) send(connections int) {
	l.Helper()
	l.began = time.Now()
	var sending sync.WaitGroup
	for range connections {
		sending.Go(func() {
			if err := l.over(); err != nil {
				l.Error(err)
			}
		})
	}
	sending.Wait()
}

func (l *load) over() error {
	c, err := l.caller()
	if err != nil {
		return err
	}
	defer c.conn.Close()
	var allowed []storage.DecisionID
	var took []time.Duration
	denied := 0
	for !l.ended.Load() {
		due := l.began.Add(time.Duration(l.next.Add(1)) * time.Second / time.Duration(l.perSecond))
		if wait := time.Until(due); wait > time.Millisecond {
			<-time.After(wait)
		}
		start := time.Now()
		status, id, err := c.ask()
		if err != nil {
			return err
		}
		took = append(took, time.Since(start))
		l.answered.Add(1)
		switch status {
		case http.StatusOK:
			allowed = append(allowed, id)
		default:
			denied++
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed, l.took, l.denied = append(l.allowed, allowed...), append(l.took, took...), l.denied+denied
	return nil
}

// ids are those of all decisions that the database has on allowed requests.
func (g *gate) ids() (all []storage.DecisionID) {
	g.Helper()
	conn, err := pgx.Connect(g.Context(), g.dsn)
	if err != nil {
		g.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(g.Context()))
	rows, err := conn.Query(g.Context(), `select id from decision where allow order by id`)
	if err != nil {
		g.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		g.Fatal(err)
	}
	for _, id := range found {
		all = append(all, id)
	}
	return all
}

// kept waits until the database has the decisions, and fails unless it has each
// once, and no other.
func (g *gate) kept(want []storage.DecisionID) {
	g.Helper()
	slices.SortFunc(want, func(a, b storage.DecisionID) int { return bytes.Compare(a[:], b[:]) })
	var got []storage.DecisionID
	eventually(g.T, fmt.Sprintf("%d decisions are kept", len(want)), func() bool {
		got = g.ids()
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		g.Errorf("%d decisions are kept on %d requests, %d of them once", len(got), len(want), len(slices.Compact(slices.Clone(got))))
	}
}

// metric is a series of the proxy's; 0 where there is none.
func (g *gate) metric(name string) (value float64) {
	g.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Get("http://" + g.settings.Admin.Address + "/metrics")
	if err != nil {
		g.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok && err == nil {
			value, err = strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	if err != nil {
		g.Fatal(err)
	}
	return value
}

// hold has pushes wait in the database until release.
func (g *gate) hold() (release func()) {
	g.Helper()
	conn, err := pgx.Connect(g.Context(), g.dsn)
	if err != nil {
		g.Fatal(err)
	}
	tx, err := conn.Begin(g.Context())
	if err == nil {
		_, err = tx.Exec(g.Context(), `lock table decision_journal in exclusive mode`)
	}
	if err != nil {
		g.Fatal(err)
	}
	return func() {
		ctx := context.WithoutCancel(g.Context())
		if err := errors.Join(tx.Rollback(ctx), conn.Close(ctx)); err != nil {
			g.Error(err)
		}
	}
}
