package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// everything has an upstream say all fields that it got, those behind the body
// as well, and "end".
func (e *echo) everything() {
	e.answerWith(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Header.Write(w)
		_ = r.Trailer.Write(w)
		_, _ = io.WriteString(w, "api.shop.example HTTP/1.1 end")
	})
}

// spoofs are fields in which a client says who it is, each in words that some
// server behind a gateway believes.
var spoofs = []string{
	"Sallyport-Assertion", "Sallyport-Decision-Id", "Sallyport-Subject", "Sallyport-Groups", "X-Sallyport-User",
	"X-Pomerium-Jwt-Assertion", "Cf-Access-Jwt-Assertion", "X-Goog-Iap-Jwt-Assertion", "X-Amzn-Oidc-Data", "X-Ms-Client-Principal",
	"X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Client-Cert", "X-Auth-Request-User",
	"Remote-User", "X-Remote-User", "X-Webauth-User", "X-Authenticated-Userid", "X-Consumer-Username", "X-Userinfo",
	"X-User", "X-User-Id", "X-Groups", "X-Roles", "X-Spiffe-Id", "Client-Cert", "Ssl-Client-S-Dn", "X-Ssl-Client-Verify",
	"Tailscale-User-Login", "Teleport-Jwt-Assertion", "Impersonate-User", "Oidc-Claim-Sub", "Shib-Session-Id", "Iv-User", "Sm-User",
}

// spellings are the ways to write a name that some servers take for the same.
func spellings(name string) []string {
	return []string{
		name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"),
		strings.ToUpper(strings.ReplaceAll(name, "-", "_")), strings.Replace(name, "-", "_", 1), strings.ReplaceAll(name, "-", "."),
	}
}

// Of what a client says about itself in a gateway's words nothing arrives; its
// nearest neighbours do.
func TestIdentityOfClientsIsRemoved(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.everything()
	w.apply(w.usual(plaintext(up.address())))
	const head = "POST /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\nAuthorization: Bearer TOKEN\r\n"
	kept := "X-Usage: kept-1\r\nX-Auth-Token: kept-2\r\nUser: kept-3\r\n"
	ask := func(name, sends string) {
		t.Helper()
		res, body := w.raw(sends)
		d := res.Header.Get("Sallyport-Decision-Id")
		switch {
		case res.StatusCode != 200 || !strings.HasSuffix(body, "end"):
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		case strings.Contains(body, "spoofed"):
			t.Errorf("%s arrived:\n%s", name, body)
		case strings.Count(body, "kept-") != 3 || !strings.Contains(body, "\nSallyport-Decision-Id: "+d+"\r\n"):
			t.Errorf("%s took something with it:\n%s", name, body)
		}
	}
	for _, name := range spoofs {
		for _, spelt := range spellings(name) {
			ask(spelt, head+kept+spelt+": spoofed\r\nContent-Length: 0\r\n\r\n")
		}
		ask(name+" three times", head+name+": spoofed\r\n"+kept+name+": spoofed\r\n"+strings.ToLower(name)+": spoofed\r\nContent-Length: 0\r\n\r\n")
		ask(name+" named in Connection", head+kept+"Connection: close, "+name+"\r\n"+name+": spoofed\r\nContent-Length: 0\r\n\r\n")
		ask(name+" behind the body", head+kept+"Transfer-Encoding: chunked\r\nTrailer: "+name+"\r\n\r\n0\r\n"+name+": spoofed\r\n\r\n")
		ask(name+" behind the body unannounced", head+kept+"Transfer-Encoding: chunked\r\n\r\n0\r\n"+name+": spoofed\r\n\r\n")
	}
	ask("what we add, named in Connection", head+kept+"Connection: Sallyport-Decision-Id, Sallyport-Assertion, X-Forwarded-For\r\nContent-Length: 0\r\n\r\n")
	for _, name := range []string{"Authorization", "Dpop", "X-Api-Key", "Cookie"} {
		res, body := w.raw(head + kept + "Connection: " + name + "\r\nContent-Length: 0\r\n\r\n")
		if res.StatusCode != 400 || w.problem(body).Reason != "connection_invalid" {
			t.Errorf("%s named in Connection: %d %s", name, res.StatusCode, body)
		}
	}
}

// The same over HTTP/2, where names are in lower case and behind compression.
func TestIdentityOfClientsIsRemovedOverHTTP2(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	var got string
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		got = fmt.Sprint(r.Header)
		_, _ = io.WriteString(rw, "api.shop.example HTTP/1.1")
	})
	w.apply(w.usual(plaintext(up.address())))
	honest := []string{
		":method: GET", ":scheme: https", ":authority: api.shop.example", ":path: /v1/orders",
		"authorization: Bearer " + w.tokens.sign(nil), "x-usage: kept",
	}
	for _, name := range spoofs {
		fields := slices.Clone(honest)
		for _, spelt := range spellings(name) {
			fields = append(fields, strings.ToLower(spelt)+": spoofed")
		}
		conn := w.begin()
		w.send(conn, frame(frameHeaders, endHeaders|endStream, 1, block(fields...)))
		if answer := w.answer(conn); answer != "answered" || strings.Contains(got, "spoofed") || !strings.Contains(got, "kept") {
			t.Errorf("%s: %s, forwarded was %s", name, answer, got)
		}
		_ = conn.Close()
	}
}
