package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// spy is an upstream that is no HTTP server: it keeps every byte that arrives on
// each of its connections until that is closed, and answers what looks like a whole
// request to those who read no more into it than is there.
type spy struct {
	ln     net.Listener
	answer func(line string) (text string, closes bool) // to a request line

	mu      sync.Mutex
	changed *sync.Cond
	open    int
	seen    []*string // what came over each connection, in the order of their beginnings
}

func newSpy(t testing.TB) *spy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &spy{ln: ln, answer: named}
	s.changed = sync.NewCond(&s.mu)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open++
			came := new(string)
			s.seen = append(s.seen, came)
			s.mu.Unlock()
			serving.Go(func() { s.serve(conn, came) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	return s
}

// named answers with what was asked for.
func named(line string) (text string, closes bool) {
	body := strings.TrimSuffix(line, " HTTP/1.1")
	text = "HTTP/1.1 200 OK\r\nContent-Length: " + itoa(len(body)) + "\r\nConnection: close\r\n\r\n"
	if !strings.HasPrefix(line, "HEAD ") {
		text += body
	}
	return text, false
}

func (s *spy) serve(conn net.Conn, came *string) {
	var got strings.Builder
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		*came = got.String()
		s.changed.Broadcast()
	}()
	in := bufio.NewReader(io.TeeReader(conn, &got))
	for {
		line, err := spyRequest(in)
		if err != nil {
			return
		}
		text, closes := s.answer(line)
		if _, err := io.WriteString(conn, text); err != nil || closes {
			return
		}
	}
}

var errNotOurs = errors.New("no proxy of ours would send this")

// spyRequest reads one request and returns its request line.
func spyRequest(in *bufio.Reader) (line string, err error) {
	var length int
	var chunked bool
	for first := true; ; first = false {
		text, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(text, "\r\n"), ": ")
		switch {
		case first:
			line = strings.TrimSuffix(text, "\r\n")
		case text == "\r\n" && chunked:
			return line, spyChunks(in)
		case text == "\r\n":
			_, err = io.CopyN(io.Discard, in, int64(length))
			return line, err
		case name == "Content-Length":
			if length, err = strconv.Atoi(value); err != nil {
				return "", err
			}
		case name == "Transfer-Encoding":
			chunked = true
		}
	}
}

func spyChunks(in *bufio.Reader) error {
	for size := int64(1); size > 0; {
		text, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if size, err = strconv.ParseInt(strings.TrimSuffix(text, "\r\n"), 16, 32); err != nil {
			return errNotOurs
		}
		if size == 0 {
			break
		}
		if _, err := io.CopyN(io.Discard, in, size+2); err != nil {
			return err
		}
	}
	for {
		if text, err := in.ReadString('\n'); err != nil || text == "\r\n" {
			return err
		}
	}
}

// saw waits until there were at least n connections and none is open, forgets them,
// and returns what came over each: fields in order, the ID of its decision as "ID".
func (s *spy) saw(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.open > 0 || len(s.seen) < n {
		s.changed.Wait()
	}
	saw := make([]string, len(s.seen))
	for i, text := range s.seen {
		saw[i] = inOrder(*text)
	}
	s.seen = nil
	return saw
}

var decisionOf = regexp.MustCompile(`(?m)^Sallyport-Decision-Id: (\S+)\r$`)

// inOrder is a message with the fields of its head in the order of their names,
// which differs from one time to the next, and "ID" for its decision.
func inOrder(message string) string {
	head, body, ok := strings.Cut(message, "\r\n\r\n")
	switch {
	case !ok:
		return message
	case strings.HasPrefix(head, "HTTP/1.1 1"): // and there is a final one behind it
		return head + "\r\n\r\n" + inOrder(body)
	}
	if m := decisionOf.FindStringSubmatch(head + "\r\n"); m != nil {
		head, body = strings.ReplaceAll(head, m[1], "ID"), strings.ReplaceAll(body, m[1], "ID")
	}
	lines := strings.Split(head, "\r\n")
	byName := func(a, b string) int {
		a, _, _ = strings.Cut(a, ":")
		b, _, _ = strings.Cut(b, ":")
		return strings.Compare(a, b)
	}
	slices.SortStableFunc(lines[1:], byName)
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// onward is the head of a request as the upstream has to see it.
func onward(line string, fields ...string) string {
	fields = append(fields, "Sallyport-Decision-Id: ID", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: "+host, "X-Forwarded-Proto: https")
	named := func(name string) bool {
		return slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, name) })
	}
	if !named("X-Request-Id: ") {
		fields = append(fields, "X-Request-Id: ID")
	}
	if !named("Host: ") {
		fields = append(fields, "Host: "+host)
	}
	return inOrder(line + " HTTP/1.1\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n")
}

// everybody is a Route to an upstream for everybody, on edge/public.
func (w *world) everybody(upstream string) string {
	return w.listener() + fmt.Sprintf(`
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: orders}, spec: {%s}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: orders},
 spec: {hosts: [%s], paths: ["/v1/**"], upstream: orders, authentication: {anonymous: true}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: files},
 spec: {hosts: [%s], paths: ["/files/{name}/raw", "/files/a/raw"], upstream: orders, authentication: {anonymous: true}, encodedSlashes: KEEP}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: everybody},
 spec: {routes: {names: [orders, files]}, effect: ALLOW, principals: [{anonymous: true}]}}
`, upstream, host, host)
}

// inStep is a request that follows on what may have confused somebody.
const inStep = "GET /v1/in-step HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"

// say sends bytes over a connection of their own, and inStep behind the first
// answer to them. It returns all answers but that to inStep, and whether that came.
func (w *world) say(sends string) (answers []string, stepped bool) {
	w.t.Helper()
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, sends)
	method, _, _ := strings.Cut(sends, " ")
	in := bufio.NewReader(conn)
	for followed := false; ; {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return answers, false
		}
		answer := w.answered(res)
		if answer == "200 GET /v1/in-step" {
			if _, err := in.ReadByte(); err == nil {
				answer = "bytes behind the last answer"
			} else {
				return answers, true
			}
		}
		answers = append(answers, answer)
		if followed || res.StatusCode < 200 {
			continue
		}
		followed, method = true, http.MethodGet
		_, _ = io.WriteString(conn, inStep) // it may be closed
		if res.Close {
			_ = conn.CloseWrite() // and is not waited for
		}
	}
}

// answered is a status with what an upstream said, or the reason of a refusal.
func (w *world) answered(res *http.Response) string {
	w.t.Helper()
	body, err := io.ReadAll(res.Body)
	text := string(body)
	if res.Header.Get("Content-Type") == "application/problem+json" {
		text = w.problem(text).Reason
	}
	text = strings.TrimSpace(itoa(res.StatusCode) + " " + text)
	if err != nil {
		text += ", cut off"
	}
	return text
}
