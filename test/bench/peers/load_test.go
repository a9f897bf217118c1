//go:build peers

package peers_test

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// load is what the client does, over so many connections at once.
type load struct {
	Address     string
	CA          []byte
	Path, Token string
	Connections int
	HTTP2       bool
	Streams     int  // of a connection, over HTTP/2
	Fresh       bool // a connection for each request
	For         time.Duration

	Idle    bool // make the connections, ask over each once, and keep them
	Release bool // give up those that are kept
}

// answer is what became of a load.
type answer struct {
	Requests       int
	Took, P50, P99 time.Duration
	Failed         string // empty if nothing did
}

// beLoad does the loads that it reads, and writes what became of each.
func beLoad() {
	out := json.NewEncoder(os.Stdout)
	var kept []io.Closer
	for in := json.NewDecoder(os.Stdin); ; {
		var l load
		if err := in.Decode(&l); err != nil {
			return
		}
		var a answer
		switch {
		case l.Release:
			for _, c := range kept {
				_ = c.Close()
			}
			kept = nil
		case l.Idle:
			var err error
			if kept, err = l.keep(); err != nil {
				a.Failed = err.Error()
			}
			a.Requests = len(kept)
		default:
			a = l.run()
		}
		if err := out.Encode(a); err != nil {
			return
		}
	}
}

// asker sends one request and reads its answer.
type asker func() error

func (l *load) run() answer {
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var done sync.WaitGroup
	began := time.Now()
	for _, ask := range l.askers() {
		done.Go(func() {
			mine, err := repeat(ask, began.Add(l.For))
			mu.Lock()
			defer mu.Unlock()
			took, failed = append(took, mine...), cmp.Or(failed, err)
		})
	}
	done.Wait()
	a := answer{Requests: len(took), Took: time.Since(began)}
	if failed != nil {
		a.Failed = failed.Error()
	}
	if slices.Sort(took); len(took) > 0 {
		a.P50, a.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return a
}

func repeat(ask asker, until time.Time) (took []time.Duration, err error) {
	for now := time.Now(); now.Before(until); {
		if err := ask(); err != nil {
			return took, err
		}
		then := time.Now()
		took = append(took, then.Sub(now))
		now = then
	}
	return took, nil
}

func (l *load) askers() (all []asker) {
	for range l.Connections {
		switch {
		case l.HTTP2:
			over := &http.Transport{TLSClientConfig: l.tls("h2"), ForceAttemptHTTP2: true, DisableCompression: true}
			for range l.Streams {
				all = append(all, l.transport(over))
			}
		case l.Fresh:
			all = append(all, func() error {
				c, err := l.dial()
				if err != nil {
					return err
				}
				return errors.Join(c.ask(l.request()), c.Close())
			})
		default:
			all = append(all, l.connection())
		}
	}
	return all
}

func (l *load) connection() asker {
	var c *conn
	return func() (err error) {
		if c == nil {
			if c, err = l.dial(); err != nil {
				return err
			}
		}
		return c.ask(l.request())
	}
}

func (l *load) transport(over *http.Transport) asker {
	return func() error {
		r, err := http.NewRequest(http.MethodGet, "https://"+l.Address+l.Path, nil)
		if err != nil {
			return err
		}
		if l.Token != "" {
			r.Header.Set("Authorization", "Bearer "+l.Token)
		}
		res, err := over.RoundTrip(r)
		if err != nil {
			return err
		}
		return read(res)
	}
}

// keep returns connections over which a request was answered each.
func (l *load) keep() (kept []io.Closer, err error) {
	for range l.Connections {
		c, err := l.dial()
		if err != nil {
			return kept, err
		}
		kept = append(kept, c)
		if err := c.ask(l.request()); err != nil {
			return kept, err
		}
		c.from = nil // its memory is of no use any more
	}
	return kept, nil
}

func (l *load) tls(protocol string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.CA)
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, ServerName: host}
}

func (l *load) request() string {
	field := ""
	if l.Token != "" {
		field = "Authorization: Bearer " + l.Token + "\r\n"
	}
	return "GET " + l.Path + " HTTP/1.1\r\nHost: " + l.Address + "\r\n" + field + "\r\n"
}

// conn is a connection with HTTP/1.1 over it.
type conn struct {
	*tls.Conn
	from *bufio.Reader
}

func (l *load) dial() (*conn, error) {
	c, err := tls.Dial("tcp", l.Address, l.tls("http/1.1"))
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, from: bufio.NewReader(c)}, nil
}

func (c *conn) ask(request string) error {
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.from, nil)
	if err != nil {
		return err
	}
	return read(res)
}

func read(res *http.Response) error {
	_, err := io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %s", res.Status)
	}
	return errors.Join(err, res.Body.Close())
}
