package proof_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

var (
	since = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)
	later = since.Add(time.Minute)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

// head is that of aws at a revision.
func head(revision snapshot.Revision, by *snapshot.Signer) snapshot.Head {
	return must(by.SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: revision, Root: snapshot.Digest{byte(revision)}}))
}

// ackOf is an honest ack of a head, but for the changes.
func ackOf(h snapshot.Head, change ...func(*proxyv1.Ack)) *proxyv1.Ack {
	digest := h.Digest()
	a := &proxyv1.Ack{
		Epoch: int64(h.Epoch), Revision: int64(h.Revision), HeadDigest: digest[:], ReceivedRoot: h.Root[:], EnforcedRoot: h.Root[:],
	}
	for _, f := range change {
		f(a)
	}
	return a
}

func rejecting(names ...string) func(*proxyv1.Ack) {
	return func(a *proxyv1.Ack) {
		for _, name := range names {
			a.Rejects = append(a.Rejects, &proxyv1.Reject{Key: &proxyv1.DocumentKey{Kind: "Policy", Namespace: "shop", Name: name}})
		}
	}
}

func TestAcksAreSigned(t *testing.T) {
	t.Parallel()
	k := must(proof.NewKey())
	h := head(7, signer(1))
	sign := func(change ...func(*proxyv1.Ack)) *proxyv1.Ack {
		a := ackOf(h, change...)
		k.Sign(a, "aws", since, later)
		return a
	}
	said, err := proof.OpenAck(k.Public(), "aws", sign())
	if err != nil || !said.Enforces(h) || !said.Since.Equal(since) || !said.At.Equal(later) || said.Environment != "aws" || said.Revision != 7 {
		t.Errorf("%+v, %v", said, err)
	}
	fork := must(signer(1).SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: 7, Root: h.Root, Previous: snapshot.Digest{9}}))
	if said.Enforces(fork) {
		t.Error("what it enforces is taken for another head with the same content")
	}
	if said.Enforces(head(8, signer(1))) || said.Enforces(snapshot.Head{}) {
		t.Error("it enforces another head")
	}
	said, err = proof.OpenAck(k.Public(), "aws", sign(rejecting("p")))
	if err != nil || said.Enforces(h) {
		t.Errorf("a proxy that rejects something enforces all of it: %+v, %v", said, err)
	}
	said, err = proof.OpenAck(k.Public(), "aws", sign(func(a *proxyv1.Ack) { a.EnforcedRoot = nil }))
	if err != nil || said.Enforces(h) {
		t.Errorf("a proxy that enforces nothing enforces all of it: %+v, %v", said, err)
	}
}

func TestAcksThatProveNothing(t *testing.T) {
	t.Parallel()
	k, other := must(proof.NewKey()), must(proof.NewKey())
	h := head(7, signer(1))
	for name, c := range map[string]struct {
		public      []byte
		environment string
		change      func(*proxyv1.Ack)
		want        error
	}{
		"of another process":     {other.Public(), "aws", func(*proxyv1.Ack) {}, proof.ErrSignature},
		"of one without a key":   {nil, "aws", func(*proxyv1.Ack) {}, proof.ErrSignature},
		"not signed":             {k.Public(), "aws", func(a *proxyv1.Ack) { a.Signature = nil }, proof.ErrSignature},
		"nothing signed":         {k.Public(), "aws", func(a *proxyv1.Ack) { a.Statement = nil }, proof.ErrSignature},
		"too large":              {k.Public(), "aws", func(a *proxyv1.Ack) { a.Statement = make([]byte, 1025) }, proof.ErrSignature},
		"a bit of the signature": {k.Public(), "aws", func(a *proxyv1.Ack) { a.Signature[9] ^= 1 }, proof.ErrSignature},
		"a bit of what it says":  {k.Public(), "aws", func(a *proxyv1.Ack) { a.Statement[9] ^= 1 }, proof.ErrSignature},
		"of another environment": {k.Public(), "gcp", func(*proxyv1.Ack) {}, proof.ErrOther},
		"another revision":       {k.Public(), "aws", func(a *proxyv1.Ack) { a.Revision++ }, proof.ErrOther},
		"another epoch":          {k.Public(), "aws", func(a *proxyv1.Ack) { a.Epoch++ }, proof.ErrOther},
		"another head":           {k.Public(), "aws", func(a *proxyv1.Ack) { a.HeadDigest = make([]byte, 32) }, proof.ErrOther},
		"another root":           {k.Public(), "aws", func(a *proxyv1.Ack) { a.EnforcedRoot = make([]byte, 32) }, proof.ErrOther},
		"rejects are added":      {k.Public(), "aws", rejecting("q"), proof.ErrOther},
		"rejects are taken away": {k.Public(), "aws", func(a *proxyv1.Ack) { a.Rejects = nil }, proof.ErrOther},
		"names run into another": {k.Public(), "aws", func(a *proxyv1.Ack) { a.Rejects[0].Key.Namespace, a.Rejects[0].Key.Name = "shopp", "" }, proof.ErrOther},
	} {
		a := ackOf(h, rejecting("p"))
		k.Sign(a, "aws", since, later)
		c.change(a)
		if _, err := proof.OpenAck(c.public, c.environment, a); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
