//go:build cgo

package hsm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/sallyport/sallyport/controlplane/hsm"
	"github.com/sallyport/sallyport/internal/snapshot"
)

const pin = "8642"

// module is that of SoftHSM, a token without hardware: see tools/need.
func module(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("SoftHSM is not there: on Debian apt-get install softhsm2")
	return ""
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		panic(err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", dir), 0o600); err != nil {
		panic(err)
	}
	// The module reads it once for the process.
	if err := os.Setenv("SOFTHSM2_CONF", conf); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// token is one of its own for a test.
type token struct {
	*testing.T
	cfg hsm.Config
	raw *pkcs11.Ctx
}

func newToken(t *testing.T) *token {
	t.Helper()
	k := &token{T: t, cfg: hsm.Config{Module: module(t), Token: strings.ToLower(rand.Text()), Key: "fleet", PIN: pin}}
	k.raw = pkcs11.New(k.cfg.Module)
	if err := k.raw.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		t.Fatal(err)
	}
	k.initialize()
	return k
}

// initialize makes a token of the slot that SoftHSM has for the next one: the last.
func (k *token) initialize() {
	k.Helper()
	slots, err := k.raw.GetSlotList(true)
	if err != nil {
		k.Fatal(err)
	}
	if err := k.raw.InitToken(slots[len(slots)-1], pin, k.cfg.Token); err != nil {
		k.Fatal(err)
	}
	s, err := k.raw.OpenSession(k.slot(), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err == nil {
		err = errors.Join(k.raw.Login(s, pkcs11.CKU_SO, pin), k.raw.InitPIN(s, pin), k.raw.CloseSession(s))
	}
	if err != nil {
		k.Fatal(err)
	}
}

// slot returns where the token is; sessions are opened at it.
func (k *token) slot() uint {
	k.Helper()
	slots, err := k.raw.GetSlotList(true)
	if err != nil {
		k.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := k.raw.GetTokenInfo(slot); err == nil && info.Label == k.cfg.Token {
			return slot
		}
	}
	k.Fatal("the token is not there")
	return 0
}

// within runs f in a session of the token's user.
func (k *token) within(f func(pkcs11.SessionHandle) error) {
	k.Helper()
	s, err := k.raw.OpenSession(k.slot(), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		k.Fatal(err)
	}
	if err := k.raw.Login(s, pkcs11.CKU_USER, pin); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		k.Fatal(err)
	}
	if err := f(s); err != nil {
		k.Fatal(err)
	}
	if err := k.raw.CloseSession(s); err != nil {
		k.Fatal(err)
	}
}

// How keys are made: the mechanism, and the curve in DER.
var (
	edwards = curve{0x1055, []byte("\x13\x0cedwards25519")}
	p256    = curve{pkcs11.CKM_EC_KEY_PAIR_GEN, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}}
	p384    = curve{pkcs11.CKM_EC_KEY_PAIR_GEN, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}}
)

type curve struct {
	mechanism uint
	params    []byte
}

// generate makes a pair of keys with labels.
func (k *token) generate(c curve, public, private string) {
	k.Helper()
	k.within(func(s pkcs11.SessionHandle) error {
		_, _, err := k.raw.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(c.mechanism, nil)},
			[]*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, public),
				pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, c.params), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
			}, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, private),
				pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
				pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			})
		return err
	})
}

func (k *token) open() *hsm.Key {
	k.Helper()
	key, err := hsm.Open(k.cfg)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(key.Close)
	return key
}

// What a token signs, a fleet's verifier takes.
func TestTokenSignsForAFleet(t *testing.T) {
	for name, c := range map[string]curve{"Ed25519": edwards, "ECDSA P-256": p256} {
		t.Run(name, func(t *testing.T) {
			k := newToken(t)
			k.generate(c, "fleet", "fleet")
			k.generate(c, "another", "another")
			signer := snapshot.NewSigner(k.open())
			if got := signer.Public().Type(); got != name {
				t.Errorf("it is %s", got)
			}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					head, err := signer.SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: snapshot.Revision(i + 1)})
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := signer.Verifier().VerifyHead(head.Signed()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// A session that is lost, as when the token was away, is opened again.
func TestLostSession(t *testing.T) {
	k := newToken(t)
	k.generate(p256, "fleet", "fleet")
	key := k.open()
	digest := sha256.Sum256([]byte("a"))
	for range 2 {
		if err := k.raw.CloseAllSessions(k.slot()); err != nil {
			t.Fatal(err)
		}
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		public, ok := key.Public().(*ecdsa.PublicKey)
		if !ok || !ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Error("it does not verify")
		}
	}

	// Another key of the same name takes no place that it was not given.
	k.destroy()
	k.generate(p256, "fleet", "fleet")
	if err := k.raw.CloseAllSessions(k.slot()); err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil || !strings.Contains(err.Error(), "another one than before") {
		t.Errorf("another key signs: %v", err)
	}
}

// destroy removes all keys.
func (k *token) destroy() {
	k.Helper()
	k.within(func(s pkcs11.SessionHandle) error {
		if err := k.raw.FindObjectsInit(s, nil); err != nil {
			return err
		}
		found, _, err := k.raw.FindObjects(s, 100)
		if err != nil {
			return err
		}
		if err := k.raw.FindObjectsFinal(s); err != nil {
			return err
		}
		for _, o := range found {
			if err := k.raw.DestroyObject(s, o); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*token)
		want    string
	}{
		"no module":      {func(k *token) { k.cfg.Module = "/nowhere/module.so" }, "module /nowhere/module.so cannot be loaded"},
		"no token":       {func(k *token) { k.cfg.Token = "elsewhere" }, `0 tokens are called "elsewhere"`},
		"another PIN":    {func(k *token) { k.cfg.PIN = "1357" }, "log in to token"},
		"no key":         {func(k *token) {}, "private key: not one has the label, but 0"},
		"two keys":       {func(k *token) { k.generate(p256, "fleet", "fleet"); k.generate(edwards, "fleet", "fleet") }, "private key: not one has the label, but 2 or more"},
		"half a pair":    {func(k *token) { k.generate(p256, "public", "fleet") }, "public key: not one has the label, but 0"},
		"no pair":        {func(k *token) { k.generate(p256, "fleet", "a"); k.generate(p256, "b", "fleet") }, "they are no pair"},
		"no pair either": {func(k *token) { k.generate(edwards, "fleet", "a"); k.generate(edwards, "b", "fleet") }, "they are no pair"},
		"another curve":  {func(k *token) { k.generate(p384, "fleet", "fleet") }, "neither of Ed25519 nor of ECDSA on P-256"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newToken(t)
			c.prepare(k)
			key, err := hsm.Open(k.cfg)
			if err == nil {
				key.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), k.cfg.PIN) {
				t.Error("the error shows the PIN")
			}
		})
	}
}

var _ crypto.Signer = (*hsm.Key)(nil)
