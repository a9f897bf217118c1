package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
)

func apiKey(namespace, name string, ids ...string) string {
	secrets := ""
	for _, id := range ids {
		secrets += fmt.Sprintf("{id: %s, sha256: %q, createdAt: 2026-11-26T20:00:00Z}, ", id, strings.Repeat("ab", 32))
	}
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: ApiKey
metadata: {namespace: %s, name: %s}
spec: {secrets: [%s]}
`, namespace, name, secrets)
}

// Whose key it is is never in doubt: of two with the same ID in a namespace
// the second is rejected, whatever is in the snapshot before or after.
func TestAPIKeysWithTheSameID(t *testing.T) {
	alone := snap(t, 1, documents(t, apiKey("shop", "a", "AAAABBBBCCCC")))
	both := snap(t, 2, documents(t, apiKey("shop", "b", "AAAABBBBCCCC", "AAAABBBBDDDD")+apiKey("shop", "c", "AAAABBBBDDDD")+
		apiKey("shop", "a", "AAAABBBBCCCC")+apiKey("pay", "a", "AAAABBBBCCCC")))
	first := compile.Compile(nil, alone)
	table := compile.Compile(first, both)
	var names []string
	for _, k := range table.APIKeys() {
		names = append(names, k.Key.String())
	}
	if want := []string{"ApiKey/pay/a", "ApiKey/shop/a", "ApiKey/shop/c"}; !slices.Equal(names, want) {
		t.Errorf("enforced are %q, want %q", names, want)
	}
	if r := table.Rejects(); len(r) != 1 || r[0].Reason != "has the ID AAAABBBBCCCC, as ApiKey/shop/a" {
		t.Errorf("rejected is %v", r)
	}
	checkRoot(t, table)
	again := compile.Compile(table, snap(t, 3, documents(t, apiKey("shop", "b", "AAAABBBBCCCC", "AAAABBBBDDDD"))))
	if len(again.Rejects()) != 0 || len(again.APIKeys()) != 1 {
		t.Errorf("alone it is rejected: %v", again.Rejects())
	}
	checkRoot(t, again)
}

// A policy that names a key which is not there is as good as one that names a
// route which is not.
func TestPolicyOfAMissingKey(t *testing.T) {
	const policies = `
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: orders}
spec: {plaintext: {}, endpoints: ["127.0.0.1:80"]}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders}
spec: {hosts: [shop.example], upstream: orders, authentication: {apiKeys: true, anonymous: true}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: exports}
spec: {routes: {all: true}, effect: ALLOW, principals: [{key: export}]}
`
	const ask = req("GET shop.example / -")
	if got := ask.answer(compile.Compile(nil, snap(t, 1, documents(t, policies)))); got != "unavailable" {
		t.Errorf("without the key: %s", got)
	}
	table := compile.Compile(nil, snap(t, 1, documents(t, policies+apiKey("shop", "export", "AAAABBBBCCCC"))))
	if got := ask.answer(table); got != "no_matching_policy" {
		t.Errorf("with the key: %s", got)
	}
	checkRoot(t, table)
}
