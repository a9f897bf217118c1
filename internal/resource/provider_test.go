package resource_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/resource"
)

const publicKey = `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`

// problemsOf returns "field reason" of each problem of an IdentityProvider with
// these fields.
func problemsOf(t *testing.T, fields string) []string {
	t.Helper()
	_, problems := resource.Decode(parse(t, of("IdentityProvider", "{audiences: [b], "+fields+"}"))[0].Resource)
	var got []string
	for _, p := range problems.Kept {
		got = append(got, p.Field+" "+p.Reason)
	}
	return got
}

func TestIdentityProvider(t *testing.T) {
	const endpoint = `introspection: {endpoint: "https://a.example/introspect", clientId: sallyport, clientSecretFile: /etc/sallyport/secret`
	set := func(keys ...string) string {
		return fmt.Sprintf("issuer: a, jwks: %q", `{"keys":[`+strings.Join(keys, ",")+`]}`)
	}
	url := `issuer: a, jwksUrl: "https://a.example/keys"`
	for _, c := range []struct {
		name, fields string
		want         []string
	}{
		{"keys by URL", url, nil},
		{"keys by discovery", `issuer: "https://a.example/realms/shop", discovery: true`, nil},
		{"keys inline", set(publicKey), nil},
		{"no keys, but an endpoint", "issuer: a, " + endpoint + "}", nil},
		{"keys and an endpoint", url + ", " + endpoint + ", timeout: 1s, cache: 0s}", nil},
		{"everything else", url + `, algorithms: [ES512, EdDSA], tokenTypes: [jwt, "at+jwt", absent], subjectClaim: email, groupsClaim: realm_access.roles,
			maxLifetime: 1h, requiredClaims: [{claim: tid, values: [""]}], leeway: 0s`, nil},

		{"no keys", "issuer: a", []string{"spec invalid_value"}},
		{"keys twice", url + ", discovery: true", []string{"spec invalid_value"}},
		{"keys thrice", set(publicKey) + `, jwksUrl: "https://a.example", discovery: true, ` + endpoint + "}", []string{"spec invalid_value"}},
		{"discovery of no URL", "issuer: a, discovery: true", []string{"spec.issuer invalid_value"}},
		{"discovery over http", `issuer: "http://a.example", discovery: true`, []string{"spec.issuer invalid_value"}},
		{"discovery with a query", `issuer: "https://a.example/?tenant=1", discovery: true`, []string{"spec.issuer invalid_value"}},
		{"discovery on this machine", `issuer: "https://localhost", discovery: true`, []string{"spec.issuer invalid_value"}},
		{"JWKS that is too large", "issuer: a, jwks: " + strings.Repeat("x", 65537), []string{"spec.jwks invalid_value"}},
		{"algorithms", url + `, algorithms: [HS256, none, es256, ES256]`,
			[]string{"spec.algorithms[0] invalid_value", "spec.algorithms[1] invalid_value", "spec.algorithms[2] invalid_value"}},
		{"algorithm twice", url + `, algorithms: [ES256, ES256]`, []string{"spec.algorithms invalid_value"}},
		{"types", url + `, tokenTypes: [JWT, "logout+jwt"]`, []string{"spec.tokenTypes[0] invalid_value", "spec.tokenTypes[1] invalid_value"}},
		{"required claims", url + `, requiredClaims: [{claim: tid}, {values: [a]}, {claim: "a\nb", values: [a, a]}]`, []string{
			"spec.requiredClaims[0].values invalid_value", "spec.requiredClaims[1].claim required",
			"spec.requiredClaims[2].values invalid_value", "spec.requiredClaims[2].claim invalid_value",
		}},
		{"lifetime", url + ", maxLifetime: 0s", []string{"spec.maxLifetime invalid_value"}},
		{"claims", url + `, subjectClaim: "a\tb", groupsClaim: "a\x00"`, []string{"spec.groupsClaim invalid_value", "spec.subjectClaim invalid_value"}},
		{"sign-in", url + `, signIn: {clientId: "a\n", clientSecretFile: secret, scopes: ["a b", ""], claims: ["a\tb"]}`, []string{
			"spec.signIn.clientId invalid_value", "spec.signIn.clientSecretFile invalid_value", "spec.signIn.scopes[0] invalid_value",
			"spec.signIn.scopes[1] invalid_value", "spec.signIn.claims[0] invalid_value",
		}},
		{"sign-in alone", "issuer: a, " + endpoint + "}, signIn: {}", []string{"spec.signIn invalid_value"}},
		{"endpoint alone", "issuer: a, introspection: {}", []string{
			"spec.introspection.endpoint required", "spec.introspection.clientId required", "spec.introspection.clientSecretFile required",
		}},
		{"endpoint", `issuer: a, introspection: {endpoint: "http://a.example", clientId: "a\n", clientSecretFile: secret, timeout: 31s, cache: 2h}`, []string{
			"spec.introspection.timeout invalid_value", "spec.introspection.cache invalid_value", "spec.introspection.endpoint invalid_value",
			"spec.introspection.clientId invalid_value", "spec.introspection.clientSecretFile invalid_value",
		}},
	} {
		got := problemsOf(t, c.fields)
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
}

func TestURLsOfAnIdentityProvider(t *testing.T) {
	const good, private, bad = 0, 1, 2 // with allowPrivateAddresses only
	for url, want := range map[string]int{
		"https://login.example/keys":     good,
		"https://login.example:8443/":    good,
		"https://[2001:db8::1]:8443/":    good,
		"https://[fd00::1]:8443/":        private,
		"https://10.0.0.1/":              private,
		"https://[::ffff:10.0.0.1]/":     private,
		"https://127.0.0.1/":             private,
		"http://127.0.0.1:8080/keys":     private,
		"http://localhost/keys":          private,
		"http://[::1]/keys":              private,
		"https://169.254.169.254/":       bad,
		"https://[fe80::1]/":             bad,
		"https://0.0.0.0/":               bad,
		"https://255.255.255.255/":       bad,
		"http://login.example/keys":      bad,
		"http://10.0.0.1/keys":           bad,
		"http://localhost.example/keys":  bad,
		"http://127.0.0.1.example/":      bad,
		"https://user@login.example/":    bad,
		"https://login.example/#keys":    bad,
		"https://login.example:0/":       bad,
		"https://login.example:99999/":   bad,
		"https:login.example":            bad,
		"https:///keys":                  bad,
		"login.example/keys":             bad,
		"file:///etc/passwd":             bad,
		"HTTPS://LOGIN.example/":         bad,
		"https://login.example\\@evil/":  bad,
		"https://login.example /":        bad,
		"ftp://login.example/":           bad,
		"https://%6cogin.example/":       bad,
		"javascript://login.example/%0a": bad,
	} {
		for allow, most := range map[bool]int{false: good, true: private} {
			got := problemsOf(t, fmt.Sprintf("issuer: a, jwksUrl: %q, allowPrivateAddresses: %v", url, allow))
			if (len(got) == 0) != (want <= most) {
				t.Errorf("%s, private addresses allowed %v: %v", url, allow, got)
			}
			got = problemsOf(t, fmt.Sprintf("issuer: a, introspection: {endpoint: %q, clientId: a, clientSecretFile: /a}, allowPrivateAddresses: %v", url, allow))
			if (len(got) == 0) != (want <= most) {
				t.Errorf("endpoint %s, private addresses allowed %v: %v", url, allow, got)
			}
		}
	}
}

// What an earlier build admitted is still read: its proxies do not ask there.
func TestDocumentsWithPrivateAddressesAreRead(t *testing.T) {
	text := of("IdentityProvider", `{issuer: a, audiences: [b], jwksUrl: "http://127.0.0.1/keys", allowPrivateAddresses: true}`)
	p, problems := resource.Decode(parse(t, text)[0].Resource)
	if problems.Total > 0 {
		t.Fatal(problems.Kept)
	}
	field := p.Spec.ProtoReflect().Descriptor().Fields().ByName("allow_private_addresses")
	p.Spec.ProtoReflect().Clear(field)
	document, err := resource.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resource.ParseDocument(document); err != nil {
		t.Error(err)
	}
}

func TestRequireIntrospectionNeedsAProvider(t *testing.T) {
	text := of("Route", `{hosts: [a.example], upstream: u, authentication: {clientCertificates: true, requireIntrospection: true}}`)
	_, problems := resource.Decode(parse(t, text)[0].Resource)
	if problems.Total != 1 || problems.Kept[0].Field != "spec.authentication.requireIntrospection" {
		t.Errorf("got %v", problems.Kept)
	}
}
