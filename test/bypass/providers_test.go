package bypass_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// shape is what tokens of a provider look like, and which of its neighbours are
// refused.
type shape struct {
	header, claims object
	alg            string // of the key that signs: ES256 or RS256
	subject        string // whom it speaks for
	neighbours     []neighbour
}

// neighbour changes claims or header of a good token; nil removes one.
type neighbour struct {
	name           string
	header, claims object
	reason         string
}

// The claims are those that the providers document, as of November 2026:
// https://www.keycloak.org/docs/latest/server_admin/,
// https://developer.okta.com/docs/reference/api/oidc/#access-token,
// https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference,
// https://developers.google.com/identity/openid-connect/openid-connect#an-id-tokens-payload,
// https://docs.github.com/actions/concepts/security/openid-connect,
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/.
var shapes = map[string]shape{
	"Keycloak": {
		header: object{"typ": "JWT"}, alg: "RS256", subject: "f3b1c1de-0000-4000-8000-000000000001",
		claims: object{
			"jti": "onrtac:1", "iss": "https://keycloak.example/realms/shop", "aud": []string{"orders", "account"},
			"sub": "f3b1c1de-0000-4000-8000-000000000001", "typ": "Bearer", "azp": "shop-web", "sid": "s-1", "acr": "1",
			"realm_access":    object{"roles": []string{"shop", "offline_access"}},
			"resource_access": object{"account": object{"roles": []string{"view-profile"}}},
			"scope":           "openid email", "email_verified": true, "preferred_username": "alice",
		},
		neighbours: []neighbour{
			{"another realm", nil, object{"iss": "https://keycloak.example/realms/staff"}, "token_wrong_issuer"},
			{"without an audience mapper", nil, object{"aud": "account"}, "token_wrong_audience"},
			{"another client", nil, object{"azp": "admin-cli"}, "token_wrong_claim"},
			{"roles that are no list", nil, object{"realm_access": object{"roles": 1}}, "token_bad_claim"},
			{"a logout token", object{"typ": "logout+jwt"}, nil, "token_wrong_type"},
		},
	},
	"Okta": {
		alg: "RS256", subject: "alice@shop.example",
		claims: object{
			"ver": 1, "jti": "AT.1", "iss": "https://shop.okta.com/oauth2/default", "aud": "api://orders",
			"cid": "0oa1example2CLIENT3d4", "uid": "00u1example", "scp": []string{"openid", "orders:read"},
			"auth_time": 1700000000, "sub": "alice@shop.example", "groups": []string{"Everyone", "shop"},
		},
		neighbours: []neighbour{
			{"the server of the organisation", nil, object{"iss": "https://shop.okta.com"}, "token_wrong_issuer"},
			{"another API", nil, object{"aud": "api://default"}, "token_wrong_audience"},
			{"another client", nil, object{"cid": "0oaOTHER"}, "token_wrong_claim"},
			{"scopes that are no list", nil, object{"scp": 7}, "token_bad_claim"},
		},
	},
	"Microsoft Entra ID": {
		header: object{"typ": "JWT"}, alg: "RS256", subject: "99999999-8888-7777-6666-555555555555",
		claims: object{
			"aud": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
			"iss": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0",
			"aio": "x", "azp": "cccccccc-0000-0000-0000-000000000000", "azpacr": "1", "name": "Alice",
			"oid": "99999999-8888-7777-6666-555555555555", "preferred_username": "alice@shop.example", "rh": "x",
			"roles": []string{"shop"}, "scp": "orders.read", "sub": "pairwise-1", "tid": "11111111-2222-3333-4444-555555555555",
			"uti": "x", "ver": "2.0",
		},
		neighbours: []neighbour{
			{"version 1", nil, object{"iss": "https://sts.windows.net/11111111-2222-3333-4444-555555555555/", "ver": "1.0"}, "token_wrong_issuer"},
			{"another tenant", nil, object{"iss": "https://login.microsoftonline.com/99999999-2222-3333-4444-555555555555/v2.0"}, "token_wrong_issuer"},
			{"the tenant of a guest", nil, object{"tid": "99999999-2222-3333-4444-555555555555"}, "token_wrong_claim"},
			{"for Microsoft Graph", nil, object{"aud": "00000003-0000-0000-c000-000000000000"}, "token_wrong_audience"},
			{"groups that are elsewhere", nil, object{"_claim_names": object{"roles": "src1"}, "roles": nil}, "token_bad_claim"},
		},
	},
	"Google": {
		header: object{"typ": "JWT"}, alg: "RS256", subject: "10769150350006150715113082367",
		claims: object{
			"iss": "https://accounts.google.com", "azp": "1234567890-abc.apps.googleusercontent.com",
			"aud": "1234567890-abc.apps.googleusercontent.com", "sub": "10769150350006150715113082367",
			"at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "hd": "shop.example", "email": "alice@shop.example", "email_verified": true,
			"nonce": "0394852",
		},
		neighbours: []neighbour{
			{"anybody's account", nil, object{"hd": nil, "email": "alice@gmail.example"}, "token_wrong_claim"},
			{"another domain", nil, object{"hd": "evil.example"}, "token_wrong_claim"},
			{"an address that nobody has verified", nil, object{"email_verified": false}, "token_wrong_claim"},
			{"another client", nil, object{"aud": "999-xyz.apps.googleusercontent.com"}, "token_wrong_audience"},
			{"the issuer without its scheme", nil, object{"iss": "accounts.google.com"}, "token_wrong_issuer"},
		},
	},
	"GitHub Actions": {
		header: object{"typ": "JWT", "x5t": "example-thumbprint"}, alg: "RS256", subject: "repo:shop/orders:environment:production",
		claims: object{
			"jti": "example-id", "sub": "repo:shop/orders:environment:production", "environment": "production",
			"aud": "https://api.shop.example", "ref": "refs/heads/main", "sha": "example-sha", "repository": "shop/orders",
			"repository_owner": "shop", "actor_id": "12", "repository_visibility": "private", "repository_id": "74",
			"repository_owner_id": "65", "run_id": "example-run-id", "run_number": "10", "run_attempt": "2", "actor": "bot",
			"workflow": "deploy", "head_ref": "", "base_ref": "", "event_name": "workflow_dispatch", "ref_type": "branch",
			"job_workflow_ref": "shop/automation/.github/workflows/oidc.yml@refs/heads/main",
			"iss":              "https://token.actions.githubusercontent.com",
		},
		neighbours: []neighbour{
			{"another organisation", nil, object{"sub": "repo:evil/orders:environment:production", "repository_owner": "evil", "repository_owner_id": "66"}, "token_wrong_claim"},
			{"another, renamed to ours", nil, object{"repository_owner_id": "66"}, "token_wrong_claim"},
			{"a pull request", nil, object{"ref": "refs/pull/7/merge", "sub": "repo:shop/orders:pull_request"}, "token_wrong_claim"},
			{"the default audience", nil, object{"aud": "https://github.com/shop"}, "token_wrong_audience"},
			{"a token for a day", nil, object{"exp": time.Now().Add(24 * time.Hour).Unix()}, "token_long_lived"},
		},
	},
	"Kubernetes service accounts": {
		alg: "RS256", subject: "system:serviceaccount:shop:web",
		claims: object{
			"aud": []string{"orders"}, "iss": "https://oidc.eks.eu-central-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF",
			"jti": "1", "sub": "system:serviceaccount:shop:web",
			"kubernetes.io": object{
				"namespace": "shop", "node": object{"name": "node-1", "uid": "1"}, "pod": object{"name": "web-1", "uid": "2"},
				"serviceaccount": object{"name": "web", "uid": "3"}, "warnafter": 1700000000,
			},
		},
		neighbours: []neighbour{
			{"another namespace", nil, object{"kubernetes.io": object{"namespace": "dev"}, "sub": "system:serviceaccount:dev:web"}, "token_wrong_claim"},
			{"for the cluster's API", nil, object{"aud": []string{"https://kubernetes.default.svc"}}, "token_wrong_audience"},
			{"another cluster", nil, object{"iss": "https://oidc.eks.eu-central-1.amazonaws.com/id/FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"}, "token_wrong_issuer"},
			{"a secret of old, which never expires", nil, object{"exp": nil}, "token_bad_claim"},
		},
	},
	"A plain JWKS": {
		header: object{"typ": "at+jwt"}, alg: "ES256", subject: "alice",
		claims: object{
			"iss": "https://tokens.shop.example", "aud": "orders", "sub": "alice", "client_id": "shop-web", "jti": "1",
		},
		neighbours: []neighbour{
			{"an ID token", object{"typ": "JWT"}, nil, "token_wrong_type"},
			{"without a client", nil, object{"client_id": nil}, "token_bad_claim"},
			{"without an identifier", nil, object{"jti": nil}, "token_bad_claim"},
		},
	},
}

// What docs/identity.md says of providers works with tokens of their shape, and
// with nobody else's. Only where the keys come from is replaced.
func TestProviders(t *testing.T) {
	w := newWorld(t)
	sections := documented(t)
	if got, want := slices.Sorted(maps.Keys(sections)), slices.Sorted(maps.Keys(shapes)); !slices.Equal(got, want) {
		t.Fatalf("documented: %q, tested: %q", got, want)
	}
	k, path := newKeys(t), 0
	for name, s := range shapes {
		path++
		w.apply(t, withKeys(t, sections[name], k)+fmt.Sprintf(providerRoute, path, providerName(t, sections[name]), s.subject, w.echo))
		ask := func(n neighbour) string {
			token := jws(changed(object{"kid": kid(s.alg), "alg": s.alg}, s.header, n.header), changed(fresh(), s.claims, n.claims), k.signer(s.alg))
			return w.outcome(t, request{path: fmt.Sprintf("/provider-%d/x", path), header: []string{"Authorization: Bearer " + token}})
		}
		if got := ask(neighbour{}); got != "200" {
			t.Errorf("%s: a token of its shape: %s", name, got)
		}
		for _, n := range s.neighbours {
			if got := ask(n); got != "401 "+n.reason {
				t.Errorf("%s, %s: %s, want 401 %s", name, n.name, got, n.reason)
			}
		}
	}
}

const providerRoute = `---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: identity, name: provider-%[1]d}
spec: {endpoints: [%[4]q], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: identity, name: provider-%[1]d}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: ["/provider-%[1]d/**"]
  upstream: provider-%[1]d
  authentication: {identityProviders: [%[2]s]}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: identity, name: provider-%[1]d}
spec:
  routes: {names: [provider-%[1]d]}
  effect: ALLOW
  principals: [{subject: %[3]q, identityProvider: %[2]s}]
`

// documented returns the blocks of docs/identity.md that are providers, by the
// heading above them.
func documented(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		heading, body, _ := strings.Cut(section, "\n")
		if m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(body); m != nil && strings.Contains(m[1], "kind: IdentityProvider") {
			sections[heading] = m[1]
		}
	}
	return sections
}

func providerName(t *testing.T, text string) string {
	t.Helper()
	m := regexp.MustCompile(`name: ([a-z-]+)}`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no name in %s", text)
	}
	return m[1]
}

// withKeys replaces where keys come from by keys that are given.
func withKeys(t *testing.T, text string, k *keys) string {
	t.Helper()
	from := regexp.MustCompile(`(?m)^  (discovery|jwksUrl): .*$`)
	if len(from.FindAllString(text, -1)) != 1 {
		t.Fatalf("no one place where keys come from in %s", text)
	}
	return from.ReplaceAllLiteralString(text, "  jwks: '"+string(k.set())+"'")
}

func kid(alg string) string { return map[string]string{"ES256": "shared", "RS256": "rsa"}[alg] }

func (k *keys) signer(alg string) signer {
	return map[string]signer{"ES256": k.es256, "RS256": k.rs256}[alg]
}

func fresh() object {
	now := time.Now().Unix()
	return object{"iat": now, "nbf": now, "exp": now + 300}
}

// changed returns the first object with the others laid over it; nil removes.
func changed(first object, others ...object) object {
	all := object{}
	maps.Copy(all, first)
	for _, other := range others {
		for name, value := range other {
			if all[name] = value; value == nil {
				delete(all, name)
			}
		}
	}
	return all
}
