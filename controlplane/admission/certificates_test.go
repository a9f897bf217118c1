package admission_test

import (
	"strings"
	"testing"
)

// What goes by client certificates needs a listener that asks for them, in one of
// the environments at least, and as long as there is such a route.
func TestCertificatesThatNobodyAsksFor(t *testing.T) {
	const (
		base = `
			Environment aws {}
			Environment gcp {}
			IdentityProvider shop/login {issuer: "https://login.example", jwksUrl: "https://login.example/keys", audiences: [shop]}
			IdentityProvider shop/pki {issuer: "https://pki.example", x509: {caFile: /a, subject: SAN_DNS}}
			Upstream shop/u {endpoints: ["u:1"], tls: {}}
			`
		plain  = `Listener edge/plain {environments: [aws], address: ":1", tls: {workloadIdentity: true}}`
		asking = `Listener edge/asking {environments: [aws], address: ":2", tls: {workloadIdentity: true, clientCertificates: OPTIONAL}}`
		remote = `Listener edge/remote {environments: [gcp], address: ":3", tls: {workloadIdentity: true, clientCertificates: REQUIRED}}`
		global = `Listener edge/global {address: ":4", tls: {workloadIdentity: true, clientCertificates: REQUIRED}}`
		svids  = `Route shop/a {environments: [aws], hosts: [a.example], upstream: u, authentication: {clientCertificates: true}}`
		all    = `Route shop/a {hosts: [a.example], upstream: u, authentication: {clientCertificates: true}}`
		tokens = `Route shop/a {environments: [aws], hosts: [a.example], upstream: u, authentication: {identityProviders: [login]}}`
		bound  = `Route shop/a {environments: [aws], hosts: [a.example], upstream: u, authentication: {identityProviders: [login], proof: CERTIFICATE}}`
		either = `Route shop/a {environments: [aws], hosts: [a.example], upstream: u, authentication: {identityProviders: [login], proof: ANY}}`
		pki    = `Route shop/a {environments: [aws], hosts: [a.example], upstream: u, authentication: {identityProviders: [login, pki]}}`
		never  = `never_fires: no listener of its environments asks for client certificates: say tls.clientCertificates: OPTIONAL at one`
		later  = never + ` after this change`
	)
	for name, c := range map[string]struct{ before, apply, want string }{
		"no listener yet":                   {``, svids, ``},
		"one that asks":                     {asking + "\n" + plain, svids, ``},
		"one that is everywhere":            {global, svids, ``},
		"none that asks":                    {plain, svids, `0 Route/shop/a spec.authentication.clientCertificates: ` + never},
		"bound tokens":                      {plain, bound, `0 Route/shop/a spec.authentication.proof: ` + never},
		"tokens that are bound in some way": {plain, either, ``},
		"tokens":                            {plain, tokens, ``},
		"an authority":                      {plain, pki, `0 Route/shop/a spec.authentication.identityProviders[1]: ` + never},
		"asked elsewhere":                   {plain + "\n" + remote, svids, `0 Route/shop/a spec.authentication.clientCertificates: ` + never},
		"asked in one of its environments":  {plain + "\n" + remote, all, ``},
		"listeners elsewhere alone":         {remote, svids, ``},
		"together with a listener":          {plain, svids + "\n" + asking, ``},
		"the listener asks no more": {asking + "\n" + svids, strings.Replace(asking, ", clientCertificates: OPTIONAL", "", 1),
			`-1 Route/shop/a spec.authentication.clientCertificates: ` + later},
		"the listener moves": {asking + "\n" + plain + "\n" + pki, strings.Replace(asking, "aws", "gcp", 1),
			`-1 Route/shop/a spec.authentication.identityProviders[1]: ` + later},
		"the first listener does not ask":  {bound, plain, `-1 Route/shop/a spec.authentication.proof: ` + later},
		"another does not ask":             {asking + "\n" + svids, plain, ``},
		"the listener moves with its port": {asking + "\n" + svids, strings.Replace(asking, ":2", ":5", 1), ``},
		"a provider becomes an authority": {plain + "\n" + tokens, `IdentityProvider shop/login {issuer: "https://pki.example", x509: {caFile: /a, subject: SAN_DNS}}`,
			`-1 Route/shop/a spec.authentication.identityProviders[0]: ` + later},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := newFleet(t, base+strings.ReplaceAll(c.before, "\n", "\n\t\t\t")).apply(t, c.apply)
			same(t, texts(problems), c.want)
		})
	}
	f := newFleet(t, base+asking+"\n"+plain+"\n"+svids)
	_, problems := f.delete(t, "Listener edge/asking")
	same(t, texts(problems), `-1 Route/shop/a spec.authentication.clientCertificates: `+later)
	if _, problems = f.delete(t, "Listener edge/asking\nListener edge/plain"); problems.Total > 0 {
		t.Errorf("no listener is left: %s", texts(problems))
	}
}
