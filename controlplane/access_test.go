package controlplane_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity"
	_ "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

// who is a caller as the network shows it.
type who struct {
	svid  identity.ID
	token func(p *controlplanetest.Plane) string // all of the Authorization header; none when nil
}

func bearer(subject, audience string, validFor time.Duration) func(*controlplanetest.Plane) string {
	return func(p *controlplanetest.Plane) string { return "Bearer " + p.Token(subject, audience, validFor) }
}

func header(text string) func(*controlplanetest.Plane) string {
	return func(*controlplanetest.Plane) string { return text }
}

// mays are the callers, with what each may do at most.
var mays = map[string]struct {
	who
	role string // "": not known, "none", "viewer", "admin"
}{
	"nobody":             {who{}, ""},
	"a proxy":            {who{svid: controlplanetest.Proxy}, "none"},
	"the control plane":  {who{svid: controlplanetest.ID}, "none"},
	"a viewer by SVID":   {who{svid: controlplanetest.Viewer}, "viewer"},
	"a viewer by token":  {who{token: bearer(controlplanetest.ViewerSubject, controlplanetest.Audience, time.Hour)}, "viewer"},
	"an admin by SVID":   {who{svid: controlplanetest.Admin}, "admin"},
	"an admin by token":  {who{token: bearer(controlplanetest.AdminSubject, controlplanetest.Audience, time.Hour)}, "admin"},
	"a stranger's token": {who{token: bearer("mallory", controlplanetest.Audience, time.Hour)}, "none"},

	// A token that is brought counts, and no certificate makes a bad one good.
	"an admin with a viewer's token":      {who{controlplanetest.Admin, bearer(controlplanetest.ViewerSubject, controlplanetest.Audience, time.Hour)}, "viewer"},
	"a proxy with an admin's token":       {who{controlplanetest.Proxy, bearer(controlplanetest.AdminSubject, controlplanetest.Audience, time.Hour)}, "admin"},
	"an admin with an expired token":      {who{controlplanetest.Admin, bearer(controlplanetest.AdminSubject, controlplanetest.Audience, -10*time.Minute)}, ""},
	"an admin with a token for another":   {who{controlplanetest.Admin, bearer(controlplanetest.AdminSubject, "orders", time.Hour)}, ""},
	"an admin with no token at all":       {who{controlplanetest.Admin, header("Bearer ")}, ""},
	"an admin with rubbish":               {who{controlplanetest.Admin, header("Bearer a.b.c")}, ""},
	"an admin with another scheme":        {who{controlplanetest.Admin, header("Basic YWxpY2U6YWxpY2U=")}, ""},
	"an admin's subject without a signer": {who{token: header("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.")}, ""},
}

// needs says what each procedure of the admin API asks for. A new one fails the
// test until it has a row.
var needs = map[string]string{
	"/sallyport.admin.v1.ConfigService/Apply":            "admin",
	"/sallyport.admin.v1.ConfigService/Delete":           "admin",
	"/sallyport.admin.v1.ConfigService/AnnotateRevision": "admin",
	"/sallyport.admin.v1.ConfigService/Get":              "viewer",
	"/sallyport.admin.v1.ConfigService/List":             "viewer",
	"/sallyport.admin.v1.ConfigService/ListRevisions":    "viewer",
	"/sallyport.admin.v1.ConfigService/ListVersions":     "viewer",
	"/sallyport.admin.v1.ConfigService/Diff":             "viewer",
	"/sallyport.admin.v1.ConfigService/Rollback":         "admin",
	"/sallyport.admin.v1.FleetService/ListProxies":       "viewer",
	"/sallyport.admin.v1.FleetService/GetProxy":          "viewer",
	"/sallyport.admin.v1.FleetService/Approve":           "admin",
	"/sallyport.admin.v1.FleetService/Refuse":            "admin",
	"/sallyport.admin.v1.FleetService/Quarantine":        "admin",
	"/sallyport.admin.v1.FleetService/Release":           "admin",
	"/sallyport.admin.v1.FleetService/Drain":             "admin",
	"/sallyport.admin.v1.FleetService/Undrain":           "admin",
	"/sallyport.admin.v1.FleetService/SetLabels":         "admin",
	"/sallyport.admin.v1.FleetService/Forget":            "admin",
	"/sallyport.admin.v1.FleetService/WaitEnforced":      "viewer",
	"/sallyport.admin.v1.FleetService/Verify":            "viewer",
	"/sallyport.admin.v1.FleetService/Status":            "viewer",
	"/sallyport.admin.v1.FleetService/ExportStatement":   "viewer",
	"/sallyport.admin.v1.DecisionService/Query":          "viewer",
	"/sallyport.admin.v1.DecisionService/Tail":           "viewer",
	"/sallyport.admin.v1.PolicyService/Explain":          "viewer",
	"/sallyport.admin.v1.PolicyService/Evaluate":         "viewer",
	"/sallyport.admin.v1.PolicyService/WhoCan":           "viewer",
	"/sallyport.admin.v1.PolicyService/RunTests":         "viewer",
	"/sallyport.admin.v1.BundleService/Export":           "viewer",
}

func TestWhoMayCallWhatOverTheNetwork(t *testing.T) {
	p := controlplanetest.New(t)
	p.Start((&logs{}).logger())
	methods := procedures(t)
	for name, caller := range mays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, p, caller.svid)
			for procedure, streams := range methods {
				got := code(t, c, p, caller.who, procedure, streams)
				want := "" // let through: what it is told then is about its request
				switch role := caller.role; {
				case role == "":
					want = "unauthenticated"
				case role == "none", role == "viewer" && needs[procedure] == "admin":
					want = "permission_denied"
				}
				denied := got == "unauthenticated" || got == "permission_denied"
				if want != "" && got != want || want == "" && denied {
					t.Errorf("%s: %q, want %q", procedure, got, want)
				}
			}
		})
	}
}

// procedures returns the procedures of the admin API, and which of them stream.
func procedures(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("sallyport.admin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				procedure := "/" + string(service.FullName()) + "/" + string(m.Name())
				all[procedure] = m.IsStreamingServer()
				if needs[procedure] == "" {
					t.Errorf("%s has no row", procedure)
				}
			}
		}
		return true
	})
	if len(all) != len(needs) {
		t.Errorf("%d procedures, %d rows", len(all), len(needs))
	}
	return all
}

// code calls a procedure with an empty request, and returns the code of the
// answer; empty for success.
func code(t *testing.T, c *http.Client, p *controlplanetest.Plane, by who, procedure string, streams bool) string {
	t.Helper()
	content, body := "application/json", []byte(`{}`)
	if streams {
		content, body = "application/connect+json", append(binary.BigEndian.AppendUint32([]byte{0}, 2), `{}`...)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL()+procedure, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", content)
	req.Header.Set("Connect-Timeout-Ms", "2000") // some streams go on for as long as their caller wants
	if by.token != nil {
		req.Header.Set("Authorization", by.token(p))
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Code  string
		Error struct{ Code string }
	}
	for streams && len(text) > 5 { // the last message has the code
		size := 5 + int(binary.BigEndian.Uint32(text[1:5]))
		if size >= len(text) {
			text = text[5:]
			break
		}
		text = text[size:]
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s answers %q: %v", procedure, text, err)
	}
	return answer.Code + answer.Error.Code
}

// What is for proxies is not on the admin listener, and the other way round.
func TestListenersServeOneKindOfCallerEach(t *testing.T) {
	p := controlplanetest.New(t)
	p.Start((&logs{}).logger())
	proxies := "https://" + p.Server.Addr(controlplane.ListenerProxies).String()
	post := func(c *http.Client, url string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	// The proxies' listener presents its SVID, which has no name to verify.
	spiffe := func(id identity.ID) *http.Client {
		c := client(t, p, id)
		c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
		return c
	}
	if got := post(spiffe(controlplanetest.Admin), proxies+"/sallyport.admin.v1.ConfigService/List"); got != http.StatusNotFound {
		t.Errorf("the admin API on the proxies' listener: %d", got)
	}
	if got := post(client(t, p, controlplanetest.Proxy), p.URL()+proxyv1connect.ProxyServiceRegisterProcedure); got != http.StatusForbidden {
		t.Errorf("the proxies' API on the admin listener: %d", got)
	}
	if got := post(spiffe(""), proxies+proxyv1connect.ProxyServiceRegisterProcedure); got != 0 {
		t.Errorf("without a certificate the proxies' listener answers %d", got)
	}
	// Resumption would skip the check of the peer.
	for name, address := range map[string]string{"admin": p.URL(), "proxies": proxies} {
		c := spiffe(controlplanetest.Proxy)
		config := c.Transport.(*http.Transport).TLSClientConfig
		config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		for range 2 {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(address, "https://"), config)
			if err != nil {
				t.Fatal(err)
			}
			if conn.ConnectionState().DidResume {
				t.Errorf("%s: a session was resumed", name)
			}
			// Tickets come after the handshake, with the first data.
			_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close() // the server has closed it
		}
	}
}
