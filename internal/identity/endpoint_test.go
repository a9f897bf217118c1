package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	partner identity.TrustDomain = "partner.example"
	server  identity.ID          = "spiffe://partner.example/spire/server"
	billing identity.ID          = "spiffe://partner.example/billing"
)

// published is a SPIFFE bundle of the authorities of issuers; a negative sequence is
// none.
func published(t *testing.T, sequence int, hint time.Duration, issuers ...*issuer.Issuer) string {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(string(partner))
	b := spiffebundle.New(td)
	for _, is := range issuers {
		block, _ := pem.Decode(is.BundlePEM())
		b.AddX509Authority(must(x509.ParseCertificate(block.Bytes)))
		for kid, key := range must(jwtbundle.Parse(td, is.JWTBundle())).JWTAuthorities() {
			if err := b.AddJWTAuthority(kid, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sequence >= 0 {
		b.SetSequenceNumber(uint64(sequence))
	}
	if hint != 0 {
		b.SetRefreshHint(hint)
	}
	return string(must(b.Marshal()))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// endpoint is a bundle endpoint.
type endpoint struct {
	*httptest.Server
	handler atomic.Pointer[http.HandlerFunc]
}

// newEndpoint serves with cert, and nothing but 404 before it is told what.
func newEndpoint(t *testing.T, cert tls.Certificate) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.serve(http.NotFound)
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*e.handler.Load())(w, r) }))
	e.Config.ErrorLog = nowhere()
	e.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) serve(h http.HandlerFunc) { e.handler.Store(&h) }

func (e *endpoint) says(kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write([]byte(text)) // the proxy is gone
	}
}

func (e *endpoint) publish(text string) { e.serve(e.says("application/json", text)) }

// federating is a Source of the trust domain prod.example that knows the authority
// of web's servers, with what it logs and counts.
type federating struct {
	*identity.Source
	t        *testing.T
	log      *lines
	registry *prometheus.Registry
}

func newFederating(t *testing.T, is, web *issuer.Issuer) *federating {
	t.Helper()
	path := socket(t)
	serve(t, is, control, path)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(web.ServerCAPEM())
	f := &federating{t: t, log: &lines{}, registry: prometheus.NewRegistry()}
	f.Source = source(t, path, identity.Config{
		TrustDomain: domain, JWTBundles: true, Log: f.log.logger(), Registerer: f.registry,
		Endpoints: func(private bool) *http.Transport {
			transport := authn.Transport(private)
			transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
			return transport
		},
	})
	ready(t, f.Source)
	return f
}

// metric returns the value of a metric, -1 when there is none.
func (f *federating) metric(name, result string) float64 {
	f.t.Helper()
	for _, family := range must(f.registry.Gather()) {
		for _, m := range family.GetMetric() {
			labels := fmt.Sprint(m.GetLabel())
			if family.GetName() == name && strings.Contains(labels, string(partner)) && strings.Contains(labels, result) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// knows reports whether workloads of is get in, by certificate and by token.
func (f *federating) knows(is *issuer.Issuer, id identity.ID) bool {
	f.t.Helper()
	out := connect(f.t, identity.ListenerConfig(f.Source, nil), as(must(is.Issue(id, time.Hour))))
	got, err := identity.PeerID(&out.server)
	certified := out.serverErr == nil && err == nil && got == id
	raw := must(token.Parse(must(is.IssueJWT(id, time.Minute, "orders"))))
	_, err = raw.VerifySVID([]string{"orders"}, f.JWTBundles().Keys(id.TrustDomain()), time.Now())
	if certified != (err == nil) {
		f.t.Errorf("%s: certificate %v, token %v", id, certified, err)
	}
	return certified
}

func (f *federating) want(what string, is *issuer.Issuer, want bool) {
	f.t.Helper()
	if got := f.knows(is, billing); got != want {
		f.t.Errorf("%s: let in %v, want %v", what, got, want)
	}
}

// Both profiles: whom the endpoint's bundle names gets in, nobody else, and not
// before it was fetched; what cannot be used changes nothing, and is named.
func TestBundleEndpoint(t *testing.T) {
	is, first := newIssuer(t, domain, nil), newIssuer(t, partner, nil)
	loopback := must(first.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour))
	for name, c := range map[string]struct {
		serves tls.Certificate
		as     identity.Endpoint
	}{
		"https_web":    {loopback, identity.Endpoint{Profile: identity.WebProfile}},
		"https_spiffe": {must(first.Issue(server, time.Hour)), identity.Endpoint{Profile: identity.SPIFFEProfile, ID: server, Bootstrap: string(first.BundlePEM())}},
	} {
		t.Run(name, func(t *testing.T) {
			e, f := newEndpoint(t, c.serves), newFederating(t, is, first)
			f.log.wait(t, "jwt bundles received")
			c.as.URL, c.as.Private = e.URL+"/bundle", true
			asked, proceed := make(chan struct{}), make(chan struct{})
			e.serve(func(w http.ResponseWriter, r *http.Request) {
				close(asked)
				<-proceed
				e.says("application/json", published(t, 7, 0, first))(w, r)
			})
			f.Federate([]identity.Federated{{TrustDomain: partner, Endpoint: c.as}})
			<-asked
			f.want("before it was fetched", first, false)
			close(proceed)
			until(t, f.Source, func() bool { return len(f.Bundles()[partner]) > 0 })
			f.want("fetched", first, true)
			f.want("another authority", newIssuer(t, partner, nil), false)
			if f.knows(newIssuer(t, "third.example", nil), "spiffe://third.example/billing") {
				t.Error("a trust domain that nobody has spoken for got in")
			}
			if f.metric("sallyport_trust_bundle_fetches_total", "ok") != 1 || f.metric("sallyport_trust_bundle_fetched_timestamp_seconds", "") < 1e9 {
				t.Error("the fetch is not in the metrics")
			}
			keeps(t, f, e, first)
			rotates(t, f, e, first)
			e.Close()
			if err := identity.Fetch(t.Context(), f.Source); err == nil {
				t.Fatal("a server that is down has answered")
			}
			f.want("the endpoint is down", first, true)
			f.log.wait(t, "result=unreachable")
			f.Federate(nil)
			f.want("not federated any more", first, false)
			if f.metric("sallyport_trust_bundle_fetches_total", "") != -1 {
				t.Error("metrics of what is not fetched any more")
			}
		})
	}
}

// keeps has the endpoint answer with what cannot be used.
func keeps(t *testing.T, f *federating, e *endpoint, first *issuer.Issuer) {
	t.Helper()
	third, other := newIssuer(t, "third.example", nil), newIssuer(t, partner, nil)
	elsewhere := newEndpoint(t, e.TLS.Certificates[0])
	elsewhere.publish(published(t, 8, 0, other))
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		result string
	}{
		"a page":                        {e.says("text/html; charset=utf-8", published(t, 8, 0, other)), "invalid"},
		"a page that says it is none":   {e.says("application/json", "<!doctype html>"), "invalid"},
		"nothing":                       {e.says("application/json", ""), "invalid"},
		"no authority":                  {e.says("application/json", `{"keys":[],"spiffe_sequence":8}`), "invalid"},
		"the bundle of another domain":  {e.says("application/json", published(t, 8, 0, third)), "invalid"},
		"somebody of another among its": {e.says("application/json", published(t, 8, 0, other, third)), "invalid"},
		"a lower sequence":              {e.says("application/json", published(t, 6, 0, other)), "older"},
		"an error":                      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "status"},
		"somebody else's address":       {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "status"},
		"half of it": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4096")
			_, _ = w.Write([]byte("{"))
		}, "unreachable"},
	} {
		e.serve(c.answer)
		before := f.metric("sallyport_trust_bundle_fetches_total", c.result)
		if err := identity.Fetch(t.Context(), f.Source); err == nil {
			t.Errorf("%s was taken", name)
		}
		if after := f.metric("sallyport_trust_bundle_fetches_total", c.result); after != max(before, 0)+1 {
			t.Errorf("%s: %v fetches with the result %s, before %v", name, after, c.result, before)
		}
		f.want("after "+name, first, true)
		f.want("after "+name+", another authority", other, false)
	}
	f.log.wait(t, "its sequence is 6, and 7 was here before")
	f.log.wait(t, `of the trust domain \"third.example\"`)
	gigabyte(t, f, e)
	f.want("after a gigabyte", first, true)
}

// gigabyte has the endpoint answer with that.
func gigabyte(t *testing.T, f *federating, e *endpoint) {
	t.Helper()
	const most = 1 << 30
	wrote := make(chan int, 1)
	e.serve(func(w http.ResponseWriter, _ *http.Request) {
		n, spaces := 0, []byte("{"+strings.Repeat(" ", 64<<10-1))
		defer func() { wrote <- n }()
		for n < most {
			if _, err := w.Write(spaces); err != nil {
				return
			}
			n += len(spaces)
		}
	})
	if err := identity.Fetch(t.Context(), f.Source); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a gigabyte: %v", err)
	}
	if n := <-wrote; n > 64<<20 {
		t.Errorf("%d bytes were let through", n)
	}
}

// rotates has the partner change its authority, with a time in which both count, and
// back.
func rotates(t *testing.T, f *federating, e *endpoint, first *issuer.Issuer) {
	t.Helper()
	second := newIssuer(t, partner, nil)
	for _, step := range []struct {
		text          string
		first, second bool
	}{
		{published(t, 8, 0, first, second), true, true},
		{published(t, -1, 0, first, second), true, true}, // as new as can be told
		{published(t, 9, 0, first), true, false},
	} {
		e.publish(step.text)
		if err := identity.Fetch(t.Context(), f.Source); err != nil {
			t.Fatal(err)
		}
		f.want("rotated", first, step.first)
		f.want("rotated to", second, step.second)
	}
	keys, certificates := f.JWTBundles(), f.Changed()
	e.publish(published(t, 10, time.Hour, first))
	if err := identity.Fetch(t.Context(), f.Source); err != nil || f.JWTBundles() != keys || f.Changed() != certificates {
		t.Errorf("the same once more was swapped in: %v", err)
	}
}

// Who answers for an endpoint is who it has to be.
func TestBundleEndpointIsWhoItIs(t *testing.T) {
	is, first, second, hub := newIssuer(t, domain, nil), newIssuer(t, partner, nil), newIssuer(t, partner, nil), newIssuer(t, "hub.example", nil)
	const hubID identity.ID = "spiffe://hub.example/bundles"
	spiffe := func(id identity.ID, by *issuer.Issuer) identity.Endpoint {
		return identity.Endpoint{Profile: identity.SPIFFEProfile, ID: id, Bootstrap: string(by.BundlePEM()), Private: true}
	}
	web := identity.Endpoint{Profile: identity.WebProfile, Private: true}
	public := identity.Endpoint{Profile: identity.WebProfile}
	svid := func(by *issuer.Issuer, id identity.ID) tls.Certificate { return must(by.Issue(id, time.Hour)) }
	host := func(by *issuer.Issuer, name string) tls.Certificate {
		return must(by.IssueServerCertificate([]string{name}, time.Hour))
	}
	for name, c := range map[string]struct {
		serves tls.Certificate
		as     identity.Endpoint
		want   string // the result
	}{
		"web":                                  {host(first, "127.0.0.1"), web, "ok"},
		"web, for another host":                {host(first, "bundles.example"), web, "unverified"},
		"web, of an authority that nobody has": {host(second, "127.0.0.1"), web, "unverified"},
		"web, with an SVID":                    {svid(first, server), web, "unverified"},
		"web, at a private address":            {host(first, "127.0.0.1"), public, "forbidden"},
		"spiffe":                               {svid(first, server), spiffe(server, first), "ok"},
		"spiffe, another ID":                   {svid(first, "spiffe://partner.example/web"), spiffe(server, first), "unverified"},
		"spiffe, another authority":            {svid(second, server), spiffe(server, first), "unverified"},
		"spiffe, a certificate of a host":      {host(first, "127.0.0.1"), spiffe(server, first), "unverified"},
		"spiffe, of another domain":            {svid(hub, hubID), spiffe(hubID, hub), "ok"},
		"spiffe, of another domain, our own":   {svid(is, control), spiffe(control, newIssuer(t, domain, nil)), "ok"}, // the Workload API goes first
		"spiffe, not of the other domain":      {svid(first, server), spiffe(hubID, hub), "unverified"},
	} {
		t.Run(name, func(t *testing.T) {
			e, f := newEndpoint(t, c.serves), newFederating(t, is, first)
			e.publish(published(t, 1, 0, first))
			c.as.URL = e.URL
			f.Federate([]identity.Federated{{TrustDomain: partner, Endpoint: c.as}})
			err := identity.Fetch(t.Context(), f.Source)
			if (err == nil) != (c.want == "ok") {
				t.Fatal(err)
			}
			if f.metric("sallyport_trust_bundle_fetches_total", c.want) < 1 {
				t.Errorf("%v, and no result %s", err, c.want)
			}
			if got := len(f.Bundles()[partner]) > 0; got != (c.want == "ok") {
				t.Errorf("trusted: %v", got)
			}
		})
	}
}

// A self-serving endpoint is known by the bundle it gave last, no longer by the one
// to begin with; one that is started anew by that again.
func TestBootstrapIsForTheBeginning(t *testing.T) {
	first, second := newIssuer(t, partner, nil), newIssuer(t, partner, nil)
	f := newFederating(t, newIssuer(t, domain, nil), first)
	e := newEndpoint(t, must(first.Issue(server, time.Hour)))
	e.publish(published(t, 1, 0, second))
	as := identity.Endpoint{URL: e.URL, Profile: identity.SPIFFEProfile, ID: server, Bootstrap: string(first.BundlePEM()), Private: true}
	f.Federate([]identity.Federated{{TrustDomain: partner, Endpoint: as}})
	until(t, f.Source, func() bool { return len(f.Bundles()[partner]) > 0 })
	if err := identity.Fetch(t.Context(), f.Source); err == nil || !strings.Contains(err.Error(), "peer identity refused") {
		t.Errorf("the endpoint's authority was withdrawn: %v", err)
	}
	e.TLS.Certificates[0] = must(second.Issue(server, time.Hour))
	renewed := newEndpoint(t, e.TLS.Certificates[0])
	renewed.publish(published(t, 1, 0, first))
	as.URL = renewed.URL
	f.Federate([]identity.Federated{{TrustDomain: partner, Endpoint: as}})
	if err := identity.Fetch(t.Context(), f.Source); err == nil {
		t.Error("begun anew, and not by the bundle to begin with")
	}
	if len(f.Bundles()[partner]) > 0 {
		t.Error("what another endpoint gave is kept")
	}
}

// What could not be fetched from is refused at once, and never asked.
func TestBundleEndpointsThatAreRefused(t *testing.T) {
	f := newFederating(t, newIssuer(t, domain, nil), newIssuer(t, partner, nil))
	plain := string(newIssuer(t, partner, nil).BundlePEM())
	for name, c := range map[string]identity.Federated{
		"no profile":          {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https://a.example"}},
		"http":                {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "http://127.0.0.1", Profile: identity.WebProfile, Private: true}},
		"a user":              {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https://u@a.example", Profile: identity.WebProfile}},
		"no host":             {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https:///a", Profile: identity.WebProfile}},
		"no ID":               {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https://a.example", Profile: identity.SPIFFEProfile, Bootstrap: plain}},
		"no bootstrap":        {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https://a.example", Profile: identity.SPIFFEProfile, ID: server}},
		"another's bootstrap": {TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https://a.example", Profile: identity.SPIFFEProfile, ID: "spiffe://hub.example/a", Bootstrap: plain}},
		"our own domain":      {TrustDomain: domain, Endpoint: identity.Endpoint{URL: "https://a.example", Profile: identity.WebProfile}},
		"no domain":           {TrustDomain: "Partner", Endpoint: identity.Endpoint{URL: "https://a.example", Profile: identity.WebProfile}},
	} {
		f.log.reset()
		f.Federate([]identity.Federated{c})
		if got := f.log.String(); !strings.Contains(got, "trust bundle cannot be read") || strings.Contains(got, "not refreshed") {
			t.Errorf("%s: %q", name, got)
		}
		if err := identity.Fetch(t.Context(), f.Source); err != nil {
			t.Errorf("%s was asked: %v", name, err)
		}
	}
}
