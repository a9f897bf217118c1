package proof_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/proof"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	domain  identity.TrustDomain = "prod.example"
	one     identity.ID          = "spiffe://prod.example/proxy/one"
	two     identity.ID          = "spiffe://prod.example/proxy/two"
	replica identity.ID          = "spiffe://prod.example/control"
)

// newIssuer is the authority of a trust domain.
func newIssuer() *issuer.Issuer {
	return must(issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: domain, Log: slog.New(slog.DiscardHandler)}))
}

// verifier is who trusts an authority, until the test ends.
func verifier(t *testing.T, is *issuer.Issuer) *identity.Source {
	t.Helper()
	endpoint := must(is.Listen(replica, filepath.Join(t.TempDir(), "s"), 0))
	src := must(identity.New(identity.Config{SocketAddr: endpoint.Addr(), Log: slog.New(slog.DiscardHandler)}))
	for _, part := range []func(context.Context) error{endpoint.Run, src.Run} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- part(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := src.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return src
}

// svid is one of an authority, as the workload has it.
func svid(is *issuer.Issuer, id identity.ID) identity.SVID {
	cert := must(is.Issue(id, time.Hour))
	return identity.SVID{ID: id, Certificate: &cert}
}

// keysOf are those of the process "a" of a proxy.
func keysOf(id identity.ID) proof.Keys {
	return proof.Keys{SPIFFEID: string(id), Instance: "a", Ack: must(proof.NewKey()).Public(), Sealing: []byte("sealing")}
}

func TestKeysAreBound(t *testing.T) {
	t.Parallel()
	is := newIssuer()
	src := verifier(t, is)
	for range 2 { // of whatever process
		k := keysOf(one)
		got, err := proof.OpenBinding(must(proof.Bind(k, svid(is, one))), src)
		if err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// Whoever changes anything of a binding, or has not the SVID, has bound nothing.
func TestKeysAreNotBound(t *testing.T) {
	t.Parallel()
	is, liar := newIssuer(), newIssuer()
	src := verifier(t, is)
	mine := svid(is, one)
	for name, c := range map[string]struct {
		by     identity.SVID
		change func(*proxyv1.KeyBinding)
		want   string
	}{
		"by another proxy":     {svid(is, two), func(*proxyv1.KeyBinding) {}, "svid of " + string(two)},
		"by another authority": {svid(liar, one), func(*proxyv1.KeyBinding) {}, "verify leaf certificate"},
		"with the statement of another": {mine, func(b *proxyv1.KeyBinding) {
			b.Statement = must(proof.Bind(keysOf(one), mine)).GetStatement()
		}, "signature"},
		"with other certificates": {mine, func(b *proxyv1.KeyBinding) {
			b.Chain = append(slices.Clone(b.GetChain()), svid(is, two).Chain()...)
		}, "another svid"},
		"without an SVID":   {mine, func(b *proxyv1.KeyBinding) { b.Chain = nil }, "0 certificates"},
		"without words":     {mine, func(b *proxyv1.KeyBinding) { b.Statement = nil }, "empty"},
		"with many words":   {mine, func(b *proxyv1.KeyBinding) { b.Statement = make([]byte, 4097) }, "too large"},
		"without signature": {mine, func(b *proxyv1.KeyBinding) { b.Signature = nil }, "signature"},
		"by what says more": {mine, func(b *proxyv1.KeyBinding) {
			b.Statement = protowire.AppendVarint(protowire.AppendTag(b.GetStatement(), 99, protowire.VarintType), 1)
			b.Signature = must(mine.Sign(append([]byte("sallyport keys v1\x00"), b.GetStatement()...)))
		}, "does not know"},
		"for another purpose": {mine, func(b *proxyv1.KeyBinding) {
			b.Signature = must(mine.Sign(append([]byte("sallyport ack v1\x00"), b.GetStatement()...)))
		}, "signature"},
		"a key that is none": {mine, func(b *proxyv1.KeyBinding) {
			k := keysOf(one)
			k.Ack = k.Ack[1:]
			proto.Merge(b, must(proof.Bind(k, mine)))
		}, "out of range"},
		"of no process": {mine, func(b *proxyv1.KeyBinding) {
			k := keysOf(one)
			k.Instance = ""
			proto.Merge(b, must(proof.Bind(k, mine)))
		}, "out of range"},
	} {
		b := must(proof.Bind(keysOf(one), c.by))
		c.change(b)
		if got, err := proof.OpenBinding(b, src); err == nil || !strings.Contains(err.Error(), c.want) || !reflect.DeepEqual(got, proof.Keys{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// What nobody would read is not sent.
func TestLongChainsAreNotBound(t *testing.T) {
	t.Parallel()
	long := svid(newIssuer(), one)
	long.Certificate.Certificate = slices.Repeat(long.Certificate.Certificate, 40)
	if _, err := proof.Bind(keysOf(one), long); err == nil || !strings.Contains(err.Error(), "at most 16384") {
		t.Errorf("got %v", err)
	}
	keyless := identity.SVID{ID: one, Certificate: &tls.Certificate{}}
	if _, err := proof.Bind(keysOf(one), keyless); err == nil {
		t.Error("an svid without a key has signed")
	}
}
