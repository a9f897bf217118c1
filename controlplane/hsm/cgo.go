//go:build cgo

package hsm

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// What PKCS#11 3.0 has for Ed25519, and the library does not name.
const (
	keyEdwards = 0x00000040 // CKK_EC_EDWARDS
	signEdDSA  = 0x00001057 // CKM_EDDSA
)

// Key is a private key in a token. It is safe for concurrent use: who signs waits for
// who signs already. A session that was lost is opened again.
type Key struct {
	cfg    Config
	module *pkcs11.Ctx
	public crypto.PublicKey
	// session has room for one, which is out while somebody signs; nil in it is one
	// that has to be opened.
	session chan *session
}

// session is a place at the token with the key.
type session struct {
	module  *pkcs11.Ctx
	handle  pkcs11.SessionHandle
	private pkcs11.ObjectHandle
	public  crypto.PublicKey
}

// Supported returns nil: this build can load modules.
func Supported() error { return nil }

// Open loads the module and finds the key, which has signed something when it
// returns. Whoever can write the module's file can do all that this process can.
func Open(c Config) (*Key, error) {
	module := pkcs11.New(c.Module)
	if module == nil {
		return nil, fmt.Errorf("module %s cannot be loaded", c.Module)
	}
	// It may be in use in this process already. For the same reason it is never
	// finalized: that would end everybody's sessions.
	if err := module.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		module.Destroy()
		return nil, fmt.Errorf("initialize %s: %w", c.Module, err)
	}
	k := &Key{cfg: c, module: module, session: make(chan *session, 1)}
	s, err := k.open()
	if err != nil {
		return nil, err
	}
	k.public = s.public
	k.session <- s
	if err := prove(k); err != nil {
		k.Close()
		return nil, fmt.Errorf("key %q: %w", c.Key, err)
	}
	return k, nil
}

// Close ends the session, once nobody signs any more. The key is not to be used
// after it; closing it again does nothing.
func (k *Key) Close() {
	if s := <-k.session; s != nil {
		s.close()
	}
	k.session <- nil
}

// Public implements crypto.Signer.
func (k *Key) Public() crypto.PublicKey { return k.public }

// signWithin is how long a token may take. A module that hangs cannot be told to
// stop: what it was asked for is waited for no longer, and whoever signs next waits
// for it as long again.
const signWithin = 10 * time.Second

// signed is what came of signing.
type signed struct {
	signature []byte
	err       error
}

// Sign implements crypto.Signer. The token has its own random numbers.
func (k *Key) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	late := time.NewTimer(signWithin)
	defer late.Stop()
	var s *session
	select {
	case s = <-k.session:
	case <-late.C:
		return nil, errSilent
	}
	done := make(chan signed, 1)
	go func() {
		signature, s, err := k.sign(s, digest)
		k.session <- s
		done <- signed{signature, err}
	}()
	select {
	case r := <-done:
		return r.signature, r.err
	case <-late.C:
		return nil, errSilent
	}
}

// sign signs in a session, or in another one when that has failed, and returns the
// session that is to be used next.
func (k *Key) sign(s *session, digest []byte) (signature []byte, _ *session, err error) {
	for range 2 {
		if s == nil {
			if s, err = k.reopen(); err != nil {
				return nil, nil, err
			}
		}
		if signature, err = s.sign(digest); err == nil {
			return signature, s, nil
		}
		// The token may have been away: a session does not outlive that.
		s.close()
		s = nil
	}
	return nil, nil, fmt.Errorf("sign with key %q of token %q: %w", k.cfg.Key, k.cfg.Token, err)
}

// reopen opens another session at the same key.
func (k *Key) reopen() (*session, error) {
	s, err := k.open()
	if err != nil {
		return nil, err
	}
	if same, ok := k.public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(s.public) {
		s.close()
		return nil, fmt.Errorf("key %q of token %q is another one than before", k.cfg.Key, k.cfg.Token)
	}
	return s, nil
}

func (k *Key) open() (*session, error) {
	slot, err := k.slot()
	if err != nil {
		return nil, err
	}
	handle, err := k.module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return nil, fmt.Errorf("open session of token %q: %w", k.cfg.Token, err)
	}
	s := &session{module: k.module, handle: handle}
	err = k.module.Login(handle, pkcs11.CKU_USER, k.cfg.PIN)
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		s.close()
		return nil, fmt.Errorf("log in to token %q: %w", k.cfg.Token, err)
	}
	if err := s.find(k.cfg.Key); err != nil {
		s.close()
		return nil, fmt.Errorf("key %q of token %q: %w", k.cfg.Key, k.cfg.Token, err)
	}
	return s, nil
}

// slot returns where the token is.
func (k *Key) slot() (uint, error) {
	slots, err := k.module.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list slots of %s: %w", k.cfg.Module, err)
	}
	var found []uint
	for _, slot := range slots {
		info, err := k.module.GetTokenInfo(slot)
		if err == nil && strings.TrimRight(info.Label, " \x00") == k.cfg.Token {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d tokens are called %q", len(found), k.cfg.Token)
	}
	return found[0], nil
}

// close has no way to fail that matters: a session that is gone is closed.
func (s *session) close() { _ = s.module.CloseSession(s.handle) }

// find looks for the pair of keys with a label.
func (s *session) find(label string) (err error) {
	if s.private, err = s.object(pkcs11.CKO_PRIVATE_KEY, label); err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	public, err := s.object(pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	s.public, err = s.read(public)
	return err
}

// object returns the only object of a class with a label.
func (s *session) object(class uint, label string) (pkcs11.ObjectHandle, error) {
	err := s.module.FindObjectsInit(s.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	})
	if err != nil {
		return 0, err
	}
	found, _, err := s.module.FindObjects(s.handle, 2)
	if err := errors.Join(err, s.module.FindObjectsFinal(s.handle)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("not one has the label, but %d or more", len(found))
	}
	return found[0], nil
}

// read returns a public key of the token.
func (s *session) read(h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	got, err := s.module.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, nil), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil),
	})
	if err != nil || len(got) != 3 {
		return nil, errors.Join(errType, err)
	}
	is := func(kind uint) bool {
		return bytes.Equal(got[0].Value, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind).Value)
	}
	if !is(keyEdwards) && !is(pkcs11.CKK_EC) {
		return nil, errType
	}
	return publicKey(is(keyEdwards), got[1].Value, got[2].Value)
}

// sign signs what Ed25519 takes whole, and ECDSA as a digest.
func (s *session) sign(message []byte) ([]byte, error) {
	_, edwards := s.public.(ed25519.PublicKey)
	mechanism := uint(pkcs11.CKM_ECDSA)
	if edwards {
		mechanism = signEdDSA
	}
	if err := s.module.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, s.private); err != nil {
		return nil, err
	}
	signature, err := s.module.Sign(s.handle, message)
	if err != nil || edwards {
		return signature, err
	}
	return signatureDER(signature)
}
