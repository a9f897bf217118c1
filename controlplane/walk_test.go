package controlplane_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	_ "connectrpc.com/grpchealth"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1/replicav1connect"
)

// edgesOnly is of services that are not for proxies.
const edgesOnly = "/" + replicav1connect.ReplicaServiceName + "/"

// servedAt says where each service is served, and how much of a call is read at most.
// A new service fails the test until it has a row.
var servedAt = map[string]struct {
	listener string
	limit    int64
}{
	"sallyport.admin.v1.ConfigService":    {controlplane.ListenerAdmin, 16 << 20},
	"sallyport.admin.v1.FleetService":     {controlplane.ListenerAdmin, 16 << 20},
	"sallyport.admin.v1.DecisionService":  {controlplane.ListenerAdmin, 16 << 20},
	"sallyport.admin.v1.PolicyService":    {controlplane.ListenerAdmin, 16 << 20},
	"sallyport.admin.v1.BundleService":    {controlplane.ListenerAdmin, 16 << 20},
	"sallyport.proxy.v1.ProxyService":     {controlplane.ListenerProxies, 4 << 20},
	"sallyport.proxy.v1.RecordService":    {controlplane.ListenerProxies, 4 << 20},
	"sallyport.replica.v1.ReplicaService": {controlplane.ListenerProxies, 8 << 20},
}

// anonymous are those that are answered whoever calls, and why.
var anonymous = map[string]string{
	"/grpc.health.v1.Health/Check": "it says whether this replica serves, and nothing else",
	"/grpc.health.v1.Health/Watch": "the same",
}

// slack is what may be read beyond a limit, to see that there is more, or in blocks.
const slack = 1 << 20

// procedure is one of any service.
type procedure struct {
	path, listener string
	limit          int64
	streams        bool
}

// walk calls f with all procedures that are served anywhere.
func walk(t *testing.T, f func(procedure)) {
	t.Helper()
	seen := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(d protoreflect.FileDescriptor) bool {
		for i := range d.Services().Len() {
			service := d.Services().Get(i)
			name := string(service.FullName())
			if !strings.HasPrefix(name, "sallyport.") {
				continue // of others, and not served
			}
			at, known := servedAt[name]
			if !known {
				t.Errorf("%s has no row", name)
			}
			seen[name] = true
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				f(procedure{"/" + name + "/" + string(m.Name()), at.listener, at.limit, m.IsStreamingClient() || m.IsStreamingServer()})
			}
		}
		return true
	})
	for name := range servedAt {
		if !seen[name] {
			t.Errorf("%s has a row, and is no service", name)
		}
	}
	for path := range anonymous {
		f(procedure{path, controlplane.ListenerAdmin, 4 << 10, strings.HasSuffix(path, "Watch")})
	}
}

// wire is the server's end of one: it knows how long it may take, and how much
// was read of a body that never ends.
type wire struct {
	*httptest.ResponseRecorder
	read, write time.Time // deadlines; the earliest that was set
	taken       int64     // bytes of the body
	early       bool      // something was read while there was no deadline
	head        []byte
}

func (c *wire) SetReadDeadline(at time.Time) error  { c.read = earliest(c.read, at); return nil }
func (c *wire) SetWriteDeadline(at time.Time) error { c.write = earliest(c.write, at); return nil }

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) && !b.IsZero() {
		return b
	}
	return a
}

// Read gives the head, and then spaces for longer than anybody should listen.
func (c *wire) Read(b []byte) (int, error) {
	if c.taken > 64<<20 {
		return 0, io.ErrUnexpectedEOF
	}
	c.early = c.early || c.read.IsZero()
	n := copy(b, c.head)
	c.head = c.head[n:]
	for i := n; i < len(b); i++ {
		b[i] = ' '
	}
	c.taken += int64(len(b))
	return len(b), nil
}

func (c *wire) Close() error { return nil }

// send has a handler serve a call that says more and more, of somebody.
func send(h http.Handler, p procedure, peer *tls.ConnectionState) *wire {
	c := &wire{ResponseRecorder: httptest.NewRecorder()}
	content := "application/json"
	switch {
	case p.streams && p.listener == controlplane.ListenerProxies: // in binary alone
		content, c.head = "application/connect+proto", binary.BigEndian.AppendUint32([]byte{0}, uint32(p.limit)+1)
	case p.streams:
		content, c.head = "application/connect+json", binary.BigEndian.AppendUint32([]byte{0}, uint32(p.limit)+1)
	}
	r := httptest.NewRequest(http.MethodPost, "https://replica.example"+p.path, io.NopCloser(c))
	r.ProtoMajor, r.ProtoMinor, r.ContentLength, r.TLS = 2, 0, -1, peer
	r.Header.Set("Content-Type", content)
	h.ServeHTTP(c, r)
	return c
}

// peerOf is what a handshake with the SVID of somebody says; without one when empty.
func peerOf(t *testing.T, is *issuer.Issuer, id identity.ID) *tls.ConnectionState {
	t.Helper()
	state := &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	if id == "" {
		return state
	}
	svid, err := is.Issue(id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(svid.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	state.PeerCertificates, state.VerifiedChains = []*x509.Certificate{leaf}, [][]*x509.Certificate{{leaf}}
	return state
}

// Whatever is served, on whichever listener: it has a deadline before anything of it is
// read, nobody can have it take more than it should, and of who may not call nothing is
// read at all.
func TestEveryProcedureIsBounded(t *testing.T) {
	t.Parallel()
	p := controlplanetest.New(t)
	p.Settings.Edges = []controlplane.Edge{{SPIFFEID: string(edgeID)}}
	p.Start((&logs{}).logger())
	handlers := p.Server.TestOnlyHandlers()
	callers := map[string]*tls.ConnectionState{
		controlplane.ListenerAdmin: peerOf(t, p.Issuer, controlplanetest.Admin), controlplane.ListenerProxies: peerOf(t, p.Issuer, controlplanetest.Proxy),
	}
	others := map[string]string{
		controlplane.ListenerAdmin: controlplane.ListenerProxies, controlplane.ListenerProxies: controlplane.ListenerAdmin,
	}
	edge := peerOf(t, p.Issuer, edgeID)
	seen := 0
	walk(t, func(m procedure) {
		seen++
		began := time.Now()
		caller := callers[m.listener]
		if strings.HasPrefix(m.path, edgesOnly) {
			caller = edge
		}
		c := send(handlers[m.listener], m, caller)
		ended := time.Now() // its deadlines were set by then
		if !strings.Contains(c.Body.String(), "resource_exhausted") {
			t.Errorf("%s of too many bytes: %d %.200s", m.path, c.Code, c.Body)
		}
		if c.taken > m.limit+slack {
			t.Errorf("%s: %d bytes were read, the limit is %d", m.path, c.taken, m.limit)
		}
		if c.early || c.read.IsZero() || c.read.After(ended.Add(time.Minute)) || c.write.IsZero() || c.write.After(ended.Add(2*time.Minute)) {
			t.Errorf("%s: may be read until %s, and answered until %s; read before that is known: %t", m.path, c.read.Sub(began), c.write.Sub(began), c.early)
		}
		if anonymous[m.path] == "" {
			if c := send(handlers[m.listener], m, peerOf(t, p.Issuer, "")); c.Code != http.StatusUnauthorized && !strings.Contains(c.Body.String(), "unauthenticated") || c.taken > 0 {
				t.Errorf("%s of nobody: %d %.200s, %d bytes were read", m.path, c.Code, c.Body, c.taken)
			}
		}
		// What is served to the others is not served here, and has its deadlines as well.
		if c := send(handlers[others[m.listener]], m, callers[others[m.listener]]); c.Code != http.StatusNotFound && !strings.Contains(c.Body.String(), "permission_denied") || c.taken > 0 || c.read.IsZero() || c.write.IsZero() {
			t.Errorf("%s on the listener for %s: %d %.200s", m.path, others[m.listener], c.Code, c.Body)
		}
	})
	if seen < 35 {
		t.Errorf("%d procedures are served", seen)
	}
}

// admits says what a proxy may do whom no Enrollment admits: to ask for that.
var admits = map[string]bool{proxyv1connect.ProxyServiceRegisterProcedure: true}

// A certificate of the trust domain alone opens nothing: every procedure for proxies
// looks whether an Enrollment admits who calls.
func TestProxiesAreAuthorized(t *testing.T) {
	t.Parallel()
	p := controlplanetest.New(t)
	p.Settings.Edges = []controlplane.Edge{{SPIFFEID: string(edgeID)}}
	p.Start((&logs{}).logger())
	c := client(t, p, controlplanetest.Proxy)
	c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	url := "https://" + p.Server.Addr(controlplane.ListenerProxies).String()
	service, replica := proxyv1connect.NewProxyServiceClient(c, url), replicav1connect.NewReplicaServiceClient(c, url)
	calls := map[string]func() error{
		proxyv1connect.ProxyServiceRegisterProcedure: func() error {
			res, err := service.Register(t.Context(), connect.NewRequest(&proxyv1.RegisterRequest{Instance: "i", ProtocolVersion: 2}))
			if err == nil && res.Msg.GetAdmission() != proxyv1.Admission_ADMISSION_PENDING {
				t.Errorf("it is %s", res.Msg.GetAdmission())
			}
			return err
		},
		proxyv1connect.ProxyServiceLogoutProcedure: func() error {
			_, err := service.Logout(t.Context(), connect.NewRequest(&proxyv1.LogoutRequest{Proof: &proxyv1.LogoutRequest_LogoutToken{LogoutToken: "a"}}))
			return err
		},
		proxyv1connect.ProxyServiceStreamProcedure: func() error {
			s := service.Stream(t.Context())
			defer func() { _ = s.CloseResponse() }()
			if err := s.Send(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: &proxyv1.Hello{Instance: "i"}}}); err != nil {
				return err
			}
			_, err := s.Receive()
			return err
		},
		replicav1connect.ReplicaServiceReportProcedure: func() error {
			_, err := replica.Report(t.Context(), connect.NewRequest(&replicav1.ReportRequest{}))
			return err
		},
		replicav1connect.ReplicaServicePushProcedure: func() error {
			_, err := replica.Push(t.Context(), connect.NewRequest(&replicav1.PushRequest{}))
			return err
		},
		replicav1connect.ReplicaServiceLogoutProcedure: func() error {
			_, err := replica.Logout(t.Context(), connect.NewRequest(&replicav1.LogoutRequest{}))
			return err
		},
		replicav1connect.ReplicaServicePollProcedure: func() error {
			_, err := replica.Poll(t.Context(), connect.NewRequest(&replicav1.PollRequest{}))
			return err
		},
		replicav1connect.ReplicaServiceAnswerProcedure: func() error {
			_, err := replica.Answer(t.Context(), connect.NewRequest(&replicav1.AnswerRequest{}))
			return err
		},
		proxyv1connect.RecordServicePushProcedure: func() error {
			_, err := proxyv1connect.NewRecordServiceClient(c, url).Push(t.Context(), connect.NewRequest(&proxyv1.PushRequest{
				Instance: "i", Boot: make([]byte, 16), FirstSequence: 1, Decisions: [][]byte{{}},
			}))
			return err
		},
	}
	walk(t, func(m procedure) {
		if m.listener != controlplane.ListenerProxies {
			return
		}
		call := calls[m.path]
		if call == nil {
			t.Errorf("%s has no row", m.path)
			return
		}
		switch err := call(); {
		case admits[m.path] && err != nil:
			t.Errorf("%s: %v", m.path, err)
		case !admits[m.path] && connect.CodeOf(err) != connect.CodePermissionDenied:
			t.Errorf("%s of one that is not admitted: %v", m.path, err)
		}
	})
}
