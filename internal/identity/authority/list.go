package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// lists are the revocation lists of a file. A nil lists asks for none.
type lists struct {
	all []*list
	err error // why there are none; all is empty then
}

// list is the revocation list of one issuer.
type list struct {
	crl     *x509.RevocationList
	revoked map[string]bool // serial numbers
}

// maxLists bounds the lists of one file.
const maxLists = 64

// readLists understands all lists of a file, or none.
func readLists(text []byte) *lists {
	l := &lists{}
	for _, der := range blocks(text, "X509 CRL") {
		one, err := readList(der)
		if err == nil && len(l.all) >= maxLists {
			err = fmt.Errorf("more than %d revocation lists", maxLists)
		}
		if err != nil {
			return &lists{err: err}
		}
		l.all = append(l.all, one)
	}
	if len(l.all) == 0 {
		return &lists{err: errors.New("there is no revocation list")}
	}
	return l
}

// readList refuses what speaks for a part of the issuer's certificates only, or
// changes another list: both say so in critical extensions (RFC 5280, section
// 5.2). One that does not say how long it is good is good for nothing.
func readList(der []byte) (*list, error) {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	for _, e := range crl.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("revocation list of %s: has the critical extension %s", crl.Issuer, e.Id)
		}
	}
	if crl.NextUpdate.IsZero() {
		return nil, fmt.Errorf("revocation list of %s: does not say when the next one comes", crl.Issuer)
	}
	l := &list{crl: crl, revoked: make(map[string]bool, len(crl.RevokedCertificateEntries))}
	for _, e := range crl.RevokedCertificateEntries {
		l.revoked[e.SerialNumber.String()] = true
	}
	crl.RevokedCertificateEntries = nil // known by now
	return l, nil
}

// check looks for every certificate of a chain but the root on the list of its
// issuer, and returns until when this holds.
func (l *lists) check(chain []*x509.Certificate) (until time.Time, fault Fault) {
	if l == nil {
		return time.Time{}, 0
	}
	for i, c := range chain[:len(chain)-1] {
		of := l.of(chain[i+1])
		switch {
		case of == nil:
			return time.Time{}, NoList
		case of.revoked[c.SerialNumber.String()]:
			return time.Time{}, Revoked
		case until.IsZero() || of.crl.NextUpdate.Before(until):
			until = of.crl.NextUpdate
		}
	}
	return until, 0
}

// of returns the newest list that an issuer has signed.
func (l *lists) of(issuer *x509.Certificate) (newest *list) {
	for _, one := range l.all {
		if !bytes.Equal(one.crl.RawIssuer, issuer.RawSubject) || newest != nil && !one.crl.ThisUpdate.After(newest.crl.ThisUpdate) {
			continue
		}
		if one.crl.CheckSignatureFrom(issuer) == nil {
			newest = one
		}
	}
	return newest
}

// next returns when the first of the lists ends; zero without any.
func (l *lists) next() (first time.Time) {
	for _, one := range l.all {
		if first.IsZero() || one.crl.NextUpdate.Before(first) {
			first = one.crl.NextUpdate
		}
	}
	return first
}

// readRoots understands all certificates of a file or text, or none.
func readRoots(text []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for _, der := range blocks(text, "CERTIFICATE") {
		c, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			return nil, err
		case !c.IsCA || !c.BasicConstraintsValid:
			return nil, fmt.Errorf("certificate of %s is not an authority's", c.Subject)
		}
		roots = append(roots, c)
	}
	if len(roots) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return roots, nil
}

// blocks returns the contents of PEM blocks of one type, or the text itself
// when it is no PEM.
func blocks(text []byte, kind string) (all [][]byte) {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		if len(text) == 0 {
			return nil
		}
		return [][]byte{text}
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return all
		}
		if block.Type == kind {
			all = append(all, block.Bytes)
		}
		text = rest
	}
}
