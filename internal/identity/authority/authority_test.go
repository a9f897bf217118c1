package authority_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/identity/authority"
)

var now = time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)

// signer is an authority, or one in the middle.
type signer struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	up   *signer
}

// issue signs with s; a nil s signs itself.
func issue(t testing.TB, s *signer, serial int64, name string, leaf bool) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true,
	}
	if leaf {
		template.ExtKeyUsage, template.KeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, x509.KeyUsageDigitalSignature
	} else {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	}
	parent, by := template, key
	if s != nil {
		parent, by = s.cert, s.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &signer{t, cert, key, s}
}

func (s *signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw})
}

// list is a revocation list of s in PEM.
func (s *signer) list(spoil func(*x509.RevocationList), serials ...int64) []byte {
	s.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: now})
	}
	if spoil != nil {
		spoil(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, s.cert, s.key)
	must(s.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var shop = authority.Name{Namespace: "shop", Name: "pos"}

func pool(t testing.TB, r prometheus.Registerer) *authority.Pool {
	t.Helper()
	p, err := authority.NewPool(slog.New(slog.DiscardHandler), r)
	must(t, err)
	return p
}

// Every certificate below the root is looked for, each on the list of the one
// above it: what was signed by one that is revoked is worth nothing.
func TestListsOfTheWholeChain(t *testing.T) {
	root := issue(t, nil, 1, "root", false)
	middle := issue(t, root, 2, "middle", false)
	leaf := issue(t, middle, 3, "pos-7", true)
	twin := issue(t, nil, 1, "middle", false) // another key under the same name
	file := filepath.Join(t.TempDir(), "crl")
	partly := func(id ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{0x30, 0}}}
		}
	}
	older := func(l *x509.RevocationList) { l.ThisUpdate = now.Add(-2 * time.Hour) }
	for name, c := range map[string]struct {
		lists [][]byte
		want  authority.Fault
	}{
		"nobody is revoked":                {[][]byte{root.list(nil), middle.list(nil)}, 0},
		"others are":                       {[][]byte{root.list(nil, 3), middle.list(nil, 2)}, 0},
		"the leaf is":                      {[][]byte{root.list(nil), middle.list(nil, 3)}, authority.Revoked},
		"the one above it is":              {[][]byte{root.list(nil, 2), middle.list(nil)}, authority.Revoked},
		"the root's list is missing":       {[][]byte{middle.list(nil)}, authority.NoList},
		"the other list is missing":        {[][]byte{root.list(nil)}, authority.NoList},
		"a list by another of its name":    {[][]byte{root.list(nil), twin.list(nil)}, authority.NoList},
		"the newest of two counts":         {[][]byte{root.list(nil), middle.list(older), middle.list(nil, 3)}, authority.Revoked},
		"in any order":                     {[][]byte{root.list(nil), middle.list(nil, 3), middle.list(older)}, authority.Revoked},
		"a list for some certificates":     {[][]byte{root.list(nil), middle.list(partly(2, 5, 29, 28))}, authority.NoList},
		"what has changed since another":   {[][]byte{root.list(nil), middle.list(nil), middle.list(partly(2, 5, 29, 27))}, authority.NoList},
		"a stale list":                     {[][]byte{root.list(nil), middle.list(func(l *x509.RevocationList) { l.NextUpdate = now })}, authority.NoList},
		"a certificate in place of a list": {[][]byte{root.pem()}, authority.NoList},
		"rubbish":                          {[][]byte{[]byte("rubbish")}, authority.NoList},
		"nothing":                          {nil, authority.NoList},
	} {
		must(t, os.WriteFile(file, slices.Concat(c.lists...), 0o600))
		set := pool(t, nil).Sync([]authority.Spec{{
			Namespace: "shop", Name: "pos", Issuer: "pki", CA: string(root.pem()), CRLFile: file, Subject: authority.CommonName,
		}})
		presented := authority.NewCertificate([]*x509.Certificate{leaf.cert, middle.cert})
		for range 2 { // found out, then remembered
			id, fault := set.Verify(slices.Values([]authority.Name{shop}), presented, now)
			if fault != c.want || (id == nil) != (fault != 0) || id != nil && (id.Subject != "pos-7" || id.Name != shop || id.Issuer != "pki") {
				t.Errorf("%s: %+v, fault %d, want %d", name, id, fault, c.want)
			}
		}
		if err := set.Vouch([]*x509.Certificate{leaf.cert, middle.cert}, now); err != nil {
			t.Errorf("%s: not let through to where it is told why: %v", name, err)
		}
	}
}

func TestNobodyIsTrusted(t *testing.T) {
	root := issue(t, nil, 1, "root", false)
	leaf := issue(t, root, 2, "pos-7", true)
	c := authority.NewCertificate([]*x509.Certificate{leaf.cert})
	names := slices.Values([]authority.Name{shop})
	spec := authority.Spec{Namespace: "shop", Name: "pos", CA: string(root.pem()), Subject: authority.CommonName}
	with := func(change func(*authority.Spec)) *authority.Set {
		s := spec
		change(&s)
		return pool(t, nil).Sync([]authority.Spec{s})
	}
	for name, tc := range map[string]struct {
		set  *authority.Set
		want authority.Fault
	}{
		"as it should be":     {with(func(*authority.Spec) {}), 0},
		"no set":              {nil, authority.Untrusted},
		"an empty set":        {pool(t, nil).Sync(nil), authority.Untrusted},
		"another name":        {with(func(s *authority.Spec) { s.Namespace = "pay" }), authority.Untrusted},
		"no subject":          {with(func(s *authority.Spec) { s.Subject = 0 }), authority.Unnamed},
		"a missing file":      {with(func(s *authority.Spec) { s.CA, s.CAFile = "", "/nowhere" }), authority.NoAuthority},
		"no authority":        {with(func(s *authority.Spec) { s.CA = "" }), authority.NoAuthority},
		"a client's":          {with(func(s *authority.Spec) { s.CA = string(leaf.pem()) }), authority.NoAuthority},
		"another authority's": {with(func(s *authority.Spec) { s.CA = string(issue(t, nil, 1, "root", false).pem()) }), authority.Untrusted},
	} {
		if id, fault := tc.set.Verify(names, c, now); fault != tc.want || (id != nil) != (fault == 0) {
			t.Errorf("%s: %+v, fault %d, want %d", name, id, fault, tc.want)
		}
	}
	if (*authority.Set)(nil).Vouch([]*x509.Certificate{leaf.cert}, now) == nil || (*authority.Set)(nil).Roots() != nil {
		t.Error("no set vouches")
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		subject       authority.Subject
		pattern, name string
		want          bool
	}{
		{authority.DNSName, "a.example", "a.example", true},
		{authority.DNSName, "a.example", "b.example", false},
		{authority.DNSName, "*.a.example", "x.a.example", true},
		{authority.DNSName, "*.a.example", "x.y.a.example", false},
		{authority.DNSName, "*.a.example", ".a.example", false},
		{authority.DNSName, "*.a.example", "a.example", false},
		{authority.DNSName, "*a.example", "xa.example", false},
		{authority.EmailAddress, "*@a.example", "ann.lee@a.example", true},
		{authority.EmailAddress, "*@a.example", "ann@b@a.example", false},
		{authority.EmailAddress, "*@a.example", "ann@x.a.example", false},
		{authority.EmailAddress, "*@a.example", "@a.example", false},
		{authority.EmailAddress, "ann@a.example", "Ann@a.example", false},
		{authority.URI, "*", "https://a.example", false},
		{authority.CommonName, "*", "ann", false},
		{authority.CommonName, "ann", "ann", true},
	} {
		if got := c.subject.Matches(c.pattern, c.name); got != c.want {
			t.Errorf("%s of %s: %t", c.pattern, c.name, got)
		}
	}
}

// What is remembered of a connection is bounded, and nothing is of another
// authority than the one that it was found out by.
func TestManyAuthorities(t *testing.T) {
	root := issue(t, nil, 1, "root", false)
	c := authority.NewCertificate([]*x509.Certificate{issue(t, root, 2, "pos-7", true).cert})
	var specs []authority.Spec
	var names []authority.Name
	for i := range 50 {
		s := authority.Spec{Namespace: "shop", Name: string(rune('A' + i)), CA: string(root.pem()), Subject: authority.CommonName}
		if i%2 == 0 {
			s.Names = []string{"pos-8"}
		}
		specs, names = append(specs, s), append(names, s.Key())
	}
	set := pool(t, nil).Sync(specs)
	for range 3 {
		for i, name := range names {
			id, fault := set.Verify(slices.Values([]authority.Name{name}), c, now)
			if (i%2 == 0) != (fault == authority.Unnamed) || id != nil && id.Name != name {
				t.Fatalf("%s: %+v, fault %d", name, id, fault)
			}
		}
	}
}

func TestListsAreMeasured(t *testing.T) {
	root := issue(t, nil, 1, "root", false)
	file := filepath.Join(t.TempDir(), "crl")
	must(t, os.WriteFile(file, root.list(nil), 0o600))
	registry := prometheus.NewRegistry()
	p := pool(t, registry)
	spec := authority.Spec{Namespace: "shop", Name: "pos", CA: string(root.pem()), CRLFile: file, Subject: authority.CommonName}
	value := func() []float64 {
		families, err := registry.Gather()
		must(t, err)
		var all []float64
		for _, f := range families {
			for _, m := range f.GetMetric() {
				all = append(all, m.GetGauge().GetValue())
			}
		}
		return all
	}
	p.Sync([]authority.Spec{spec})
	if got := value(); len(got) != 1 || got[0] != float64(now.Add(time.Hour).Unix()) {
		t.Errorf("a good list: %v", got)
	}
	must(t, os.Remove(file))
	p.Refresh()
	if got := value(); len(got) != 1 || got[0] != 0 {
		t.Errorf("none: %v", got)
	}
	p.Sync(nil)
	if got := value(); len(got) != 0 {
		t.Errorf("no provider: %v", got)
	}
}
