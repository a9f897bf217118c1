package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/jackc/pgx/v5"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// A proxy signs as soon as it has told its key, which may be before the database
// knows of it: whoever asks the replica that was told gets the key.
func TestKeysArePublishedBeforeTheyAreSaved(t *testing.T) {
	l := newLab(t)
	l.commit(enroll(t, "aws", "spiffe://prod.example/proxy/aws/*", "aws"), enroll(t, "gcp", "spiffe://prod.example/proxy/gcp/*", "gcp"))
	r := l.ready("first")
	l.admitted(r, one, "aws")

	conn, err := pgx.Connect(t.Context(), l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()                                      // with the connection
	if _, err = tx.Exec(t.Context(), "lock table proxy in exclusive mode"); err != nil { // it can be read
		t.Fatal(err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	open(t, r, one, "a").Beat(&proxyv1.Heartbeat{AssertionKeys: [][]byte{point}})
	for environment, want := range map[string]int{"aws": 1, "gcp": 0} {
		if keys, err := r.AssertionKeys(t.Context(), environment); err != nil || len(keys) != want {
			t.Errorf("%s has %d keys, %v", environment, len(keys), err)
		}
	}
}
