package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const orderDocument = `
openapi: 3.1.0
paths:
  /v1/orders:
    get:
      parameters: [{name: limit, in: query, schema: {type: integer, maximum: 100}}]
    post:
      requestBody:
        required: true
        content:
          application/json:
            schema: {type: object, required: [sku], properties: {sku: {type: string, maxLength: 8}}, additionalProperties: false}
          text/plain: {}
`

// validated is the usual, with a validation of its route.
func (w *world) validated(up *echo, validation, document string) string {
	indented := "    " + strings.ReplaceAll(strings.TrimSpace(document), "\n", "\n    ")
	return strings.Replace(w.usual(plaintext(up.address())), "upstream: orders, ", "upstream: orders, timeout: 2s, validation: {schema: orders"+validation+"}, ", 1) + `
---
apiVersion: sallyport/v1
kind: Schema
metadata: {namespace: shop, name: orders}
spec:
  openapi: |
` + indented + "\n"
}

func jsonBody(text string) string {
	return fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
}

// inChunks is a body of chunks of a byte each.
func inChunks(text string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, "1\r\n%s\r\n", text[i:i+1])
	}
	return "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + b.String() + "0\r\n\r\n"
}

// What differs from the schema is answered, recorded and counted, and the upstream
// sees none of it; what does not differ goes through as it came.
func TestValidation(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.validated(up, ", maxBodyBytes: 100", orderDocument))
	large := `{"sku":"` + strings.Repeat("a", 100) + `"}`
	for _, c := range []struct {
		sends  string
		status int
		reason string // empty for what is let through
		errors string
	}{
		{strings.Replace(get, "/7", "?limit=7", 1) + "\r\n", 200, "", ""},
		{strings.Replace(get, "/7", "?limit=700", 1) + "\r\n", 400, "parameters_invalid", "/query/limit is more than 100"},
		{strings.Replace(get, "/7", "?limit=7&x=1", 1) + "\r\n", 400, "parameters_invalid", "/query/x is no parameter of the operation"},
		{get + "\r\n", 404, "operation_unknown", ""},
		{post + jsonBody(`{ "sku" : "a" }`), 200, "", ""},
		{post + inChunks(`{ "sku" : "a" }`), 200, "", ""},
		{post + jsonBody(`{"sku":1,"x":2}`), 400, "body_invalid", "/body/sku is number, not string, /body/x is no member that is known here"},
		{post + inChunks(`{"sku":1}`), 400, "body_invalid", "/body/sku is number, not string"},
		{post + jsonBody(`{"sku":"a","sku":"b"}`), 400, "body_invalid", `/body is not JSON that is taken: at byte 11: the member "sku" is there twice`},
		{post + jsonBody(strings.Repeat("[", 100)), 400, "body_invalid", "/body is not JSON that is taken: at byte 65: values are nested deeper than 64"},
		{post + "\r\n", 400, "body_invalid", "/body is missing"},
		{post + jsonBody(large), 413, "body_too_large", "/body has more bytes than are taken here"},
		{post + inChunks(large), 413, "body_too_large", "/body has more bytes than are taken here"},
		{post + "Content-Type: text/plain\r\nContent-Length: 200\r\n\r\n" + strings.Repeat("x", 200), 200, "", ""},
		{post + "Content-Type: text/csv\r\nContent-Length: 1\r\n\r\nx", 415, "media_type_unsupported", "/header/Content-Type is none of the media types that are taken"},
		{post + "Content-Encoding: gzip\r\n" + jsonBody("{}"), 415, "content_encoding_unsupported", "/header/Content-Encoding is not identity: what is in the body cannot be seen"},
		{post + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", 400, "chunk_invalid", ""},
		{strings.Replace(post, "TOKEN", "x", 1) + jsonBody(`{"sku":1}`), 401, "token_malformed", ""}, // nobody learns what is taken
	} {
		before := up.requests.Load()
		res, body := w.raw(c.sends)
		seen := up.requests.Load() - before
		d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
		if c.reason == "" {
			_, sent, _ := strings.Cut(c.sends, "\r\n\r\n")
			if res.StatusCode != 200 || seen != 1 || !d.Allow || !strings.Contains(sent, "0\r\n\r\n") && !strings.HasSuffix(body, "\n\n"+sent) {
				t.Errorf("%.300q: %d %s, seen %d, recorded %+v", c.sends, res.StatusCode, body, seen, d)
			}
			continue
		}
		if res.StatusCode != c.status || w.problem(body).Reason != c.reason || seen != 0 || d.Allow || d.Reason != c.reason || w.errors(body) != c.errors {
			t.Errorf("%.300q: %d %s, seen %d, recorded %+v, want %d %s %s", c.sends, res.StatusCode, body, seen, d, c.status, c.reason, c.errors)
		}
		if first, _, _ := strings.Cut(c.errors, ", /"); d.Detail != first && c.errors != "" {
			t.Errorf("%.300q: recorded is %q", c.sends, d.Detail)
		}
	}
	if got := w.metric(`sallyport_validation_differences_total{mode="enforce",reason="body_too_large",route="shop/orders"}`); got != "2" {
		t.Errorf("%s bodies that were too large are counted", got)
	}
}

// errors are those of a problem, as "pointer detail".
func (w *world) errors(body string) string {
	w.t.Helper()
	var p struct {
		Errors []struct{ Pointer, Detail string }
	}
	w.must(json.Unmarshal([]byte(body), &p))
	var all []string
	for _, e := range p.Errors {
		all = append(all, e.Pointer+" "+e.Detail)
	}
	return strings.Join(all, ", ")
}

// What is only reported reaches the upstream as it came, whatever it is.
func TestValidationThatReports(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.validated(up, ", maxBodyBytes: 100, mode: REPORT", orderDocument))
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		for _, body := range []string{`{"sku":1}`, `{"sku":"` + strings.Repeat("a", 100_000) + `"}`} {
			r, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+host+"/v1/orders", strings.NewReader(body))
			w.must(err)
			r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
			r.Header.Set("Content-Type", "application/json")
			res, err := c.Do(r)
			w.must(err)
			if got := w.read(res); res.StatusCode != 200 || !strings.HasSuffix(got, "\n\n"+body) {
				t.Errorf("%.40s: %d, %.300s", body, res.StatusCode, got)
			}
			d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
			if !d.Allow || !strings.HasPrefix(d.Detail, "differs from its schema: body_") {
				t.Errorf("%.40s: recorded %+v", body, d)
			}
			o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
			if o.Received != len(body) || o.Reason != "" {
				t.Errorf("%.40s: ended %+v", body, o)
			}
		}
	}
	if got := w.metric(`sallyport_validation_differences_total{mode="report",reason="body_invalid",route="shop/orders"}`); got != "2" {
		t.Errorf("%s are counted", got)
	}
}

// A client that waits for leave to send its body gets it, and the upstream is not
// asked for one: the body is here by then.
func TestValidationOfWhatIsExpected(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.validated(up, "", orderDocument))
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, post+"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n")
	from := bufio.NewReader(conn)
	res, err := http.ReadResponse(from, nil)
	w.must(err)
	if res.StatusCode != 100 {
		t.Fatalf("%d", res.StatusCode)
	}
	w.send(conn, `{"sku":"a"}`)
	res, err = http.ReadResponse(from, nil)
	w.must(err)
	if body := w.read(res); res.StatusCode != 200 || strings.Contains(body, "Expect") || !strings.HasSuffix(body, `{"sku":"a"}`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	// A body that is not taken is not asked for.
	w.send(conn, post+"Expect: 100-continue\r\nContent-Type: text/csv\r\nContent-Length: 11\r\n\r\n")
	res, err = http.ReadResponse(from, nil)
	w.must(err)
	if res.StatusCode != 415 {
		t.Errorf("%d", res.StatusCode)
	}
}

// A body that does not come is not waited for beyond the route's time, nor when its
// sender is cut off.
func TestValidationOfBodiesThatDoNotCome(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.validated(up, "", orderDocument))
	begun := post + "Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{"
	res, body := w.raw(begun)
	if res.StatusCode != 408 || w.problem(body).Reason != "body_timeout" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	w.apply(strings.Replace(w.resources, "timeout: 2s", "timeout: 60s", 1))
	conn := w.dial("http/1.1")
	defer conn.Close()
	decisions := w.metric(`sallyport_stream_decisions_total`)
	w.send(conn, begun)
	until(t, "a stream that can be closed", func() bool { return w.metric(`sallyport_stream_decisions_total`) != decisions })
	w.revoke(`subject: {issuer: "https://login.example", id: alice}`)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	w.must(err)
	if got := w.problem(w.read(res)); res.StatusCode != 401 || got.Reason != "revoked" {
		t.Errorf("%d %+v", res.StatusCode, got)
	}
	if up.requests.Load() != 0 {
		t.Error("the upstream saw a request")
	}
}

// Other schemas are in force with the table that has them, and one that an older
// proxy cannot understand denies.
func TestValidationChanges(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.validated(up, "", orderDocument))
	status := func() int {
		res, _ := w.raw(post + jsonBody(`{"sku":"a","note":"b"}`))
		return res.StatusCode
	}
	if got := status(); got != 400 {
		t.Errorf("before: %d", got)
	}
	w.apply(w.validated(up, "", strings.Replace(orderDocument, "properties: {", "properties: {note: {}, ", 1)))
	if got := status(); got != 200 {
		t.Errorf("after: %d", got)
	}
	w.gateway.Apply(w.compile(w.validated(up, "", "openapi: 2.0.0")))
	if got := status(); got != 403 || len(w.table.Rejects()) == 0 {
		t.Errorf("a schema that is none: %d, rejected %v", got, w.table.Rejects())
	}
}

// Over HTTP/2 a body that ends early is no body.
func TestValidationOverHTTP2(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.validated(up, "", orderDocument))
	c := w.client(true, w.tls(host))
	for body, status := range map[string]int{`{"sku":"a"}`: 200, `{"sku":1}`: 400} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+host+"/v1/orders", io.LimitReader(strings.NewReader(body), 100))
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
		r.Header.Set("Content-Type", "application/json")
		res, err := c.Do(r)
		w.must(err)
		if got := w.read(res); res.StatusCode != status || res.ProtoMajor != 2 || status == 200 && !strings.HasSuffix(got, body) {
			t.Errorf("%s: %d %s", body, res.StatusCode, got)
		}
	}
}
