package cors_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/cors"
	"github.com/sallyport/sallyport/internal/request"
)

func TestAllows(t *testing.T) {
	for _, c := range []struct {
		named  string
		origin string
		want   bool
	}{
		{"https://a.example", "https://a.example", true},
		{"https://a.example", "https://a.example:8443", false},
		{"https://a.example", "http://a.example", false},
		{"https://a.example", "https://a.example.evil", false},
		{"https://a.example", "https://x.a.example", false},
		{"https://a.example", "", false},
		{"https://a.example", "null", false},
		{"https://*.a.example", "https://x.a.example", true},
		{"https://*.a.example", "https://x.y.a.example", false},
		{"https://*.a.example", "https://a.example", false},
		{"https://*.a.example", "https://.a.example", false},
		{"https://*.a.example", "http://x.a.example", false},
		{"https://*.a.example", "https://evil@x.a.example", false},
		{"https://*.a.example", "https://evil/x.a.example", false},
		{"https://*.a.example", "https://evil:1.a.example", false},
		{"https://*.a.example", "https://x.a.example:8443", false},
		{"https://*.a.example:8443", "https://x.a.example:8443", true},
		{"*", "https://anybody", true},
		{"*", "null", true},
		{"*", "", false},
		{"", "https://a.example", false},
	} {
		r := cors.New(cors.Config{Origins: strings.Fields(c.named)})
		if got := r.Allows(c.origin); got != c.want {
			t.Errorf("%q allows %q: %v", c.named, c.origin, got)
		}
	}
	var none *cors.Rule
	h := http.Header{"Access-Control-Allow-Origin": {"*"}}
	if none.Answer(h, &request.Canonical{}); none.Allows("https://a.example") || len(h) != 1 {
		t.Error("without a rule something is said")
	}
}

func TestCheckOrigin(t *testing.T) {
	for origin, ok := range map[string]bool{
		"*": true, "https://a.example": true, "https://*.a.example": true, "https://a.example:8443": true, "https://10.0.0.1": true,
		"https://[::1]:8443": true, "http://localhost:3000": true, "http://127.0.0.1": true,
		"http://a.example": false, "https://A.example": false, "https://a.example/": false, "https://a.example:443": false,
		"http://localhost:80": false, "https://a.example:": false, "https://a.example:0": false, "https://a.example:08443": false,
		"a.example": false, "null": false, "": false, "https://": false, "https://*": false, "https://*.*.a": false, "https://*.10.0.0.1": false,
		"ftp://a.example": false, "https://a.example\r\nX: y": false, "https://me@a.example": false,
	} {
		if err := cors.CheckOrigin(origin); (err == nil) != ok {
			t.Errorf("%q: %v", origin, err)
		}
	}
}

func TestAnswer(t *testing.T) {
	named := cors.Config{
		Origins: []string{"https://a.example"}, Headers: []string{"X-A", "X-B"}, Exposed: []string{"X-C"}, Credentials: true, MaxAge: time.Minute,
	}
	for _, c := range []struct {
		name   string
		config cors.Config
		method string
		header http.Header
		want   string
	}{
		{"a request", named, "GET", http.Header{"Origin": {"https://a.example"}},
			"map[Access-Control-Allow-Credentials:[true] Access-Control-Allow-Origin:[https://a.example] Access-Control-Expose-Headers:[X-C] Vary:[Accept Origin]]"},
		{"of another", named, "GET", http.Header{"Origin": {"https://b.example"}}, "map[Vary:[Accept Origin]]"},
		{"of nobody", named, "GET", nil, "map[Vary:[Accept Origin]]"},
		{"of everybody", cors.Config{Origins: []string{"*"}}, "GET", http.Header{"Origin": {"https://b.example"}},
			"map[Access-Control-Allow-Origin:[*] Vary:[Accept]]"},
		{"a preflight", named, "OPTIONS", http.Header{"Origin": {"https://a.example"}, "Access-Control-Request-Method": {"PUT"}},
			"map[Access-Control-Allow-Credentials:[true] Access-Control-Allow-Headers:[X-A, X-B] Access-Control-Allow-Methods:[PUT] Access-Control-Allow-Origin:[https://a.example] Access-Control-Max-Age:[60] Vary:[Accept Origin]]"},
		{"a preflight of another", named, "OPTIONS", http.Header{"Origin": {"https://b.example"}, "Access-Control-Request-Method": {"PUT"}},
			"map[Vary:[Accept Origin]]"},
	} {
		h := http.Header{"Vary": {"Accept"}, "Access-Control-Allow-Origin": {"https://evil"}, "Access-Control-Allow-Private-Network": {"true"}}
		cors.New(c.config).Answer(h, &request.Canonical{Method: c.method, Header: c.header})
		if got := fmt.Sprint(h); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestPreflight(t *testing.T) {
	r := cors.New(cors.Config{Origins: []string{"https://a.example"}, Methods: []string{"PUT"}, Headers: []string{"X-A", "x-b"}})
	for _, c := range []struct {
		origin, method string
		headers        []string
		ok             bool
	}{
		{"https://a.example", "PUT", nil, true},
		{"https://a.example", "PUT", []string{"x-a, X-B,"}, true},
		{"https://a.example", "PUT", []string{"x-a", "x-b"}, true},
		{"https://a.example", "PUT", []string{"x-a", "x-c"}, false},
		{"https://a.example", "PUT", []string{"*"}, false},
		{"https://a.example", "GET", nil, false},
		{"https://b.example", "PUT", nil, false},
	} {
		h := http.Header{"Origin": {c.origin}, "Access-Control-Request-Method": {c.method}, "Access-Control-Request-Headers": c.headers}
		if got := r.Preflight(&request.Canonical{Method: "OPTIONS", Header: h}); (got == "") != c.ok {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
