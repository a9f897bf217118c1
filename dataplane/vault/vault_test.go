package vault_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/dataplane/vault"
)

func file(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func key(seed byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{seed}, vault.KeySize)) + "\n"
}

func open(t *testing.T, seed byte) *vault.Vault {
	t.Helper()
	v, err := vault.Open(file(t, key(seed), 0o400))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A secret is for its key and purpose, comes back as it was, and is not to be seen in
// what is kept.
func TestSealed(t *testing.T) {
	v, secret := open(t, 1), []byte("the key of all sessions")
	sealed := v.Seal("cookies", secret)
	if bytes.Contains(sealed, secret) || bytes.Equal(sealed, v.Seal("cookies", secret)) {
		t.Error("it is to be seen, or sealed alike twice")
	}
	if got, err := v.Unseal("cookies", sealed); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := v.Unseal("assertions", sealed); !errors.Is(err, vault.ErrForeign) {
		t.Errorf("for another purpose: %v", err)
	}
	if _, err := open(t, 2).Unseal("cookies", sealed); !errors.Is(err, vault.ErrForeign) {
		t.Errorf("with another key: %v", err)
	}
	for at := range sealed {
		b := slices.Clone(sealed)
		b[at] ^= 1
		if _, err := v.Unseal("cookies", b); !errors.Is(err, vault.ErrForeign) {
			t.Errorf("with byte %d changed: %v", at, err)
		}
		if _, err := v.Unseal("cookies", sealed[:at]); !errors.Is(err, vault.ErrForeign) {
			t.Errorf("cut off at %d: %v", at, err)
		}
	}
	if _, err := v.Unseal("cookies", secret); !errors.Is(err, vault.ErrForeign) {
		t.Errorf("what was never sealed: %v", err)
	}
}

func TestKeysThatCannotBe(t *testing.T) {
	for name, path := range map[string]string{
		"nothing":             filepath.Join(t.TempDir(), "gone"),
		"empty":               file(t, "", 0o400),
		"short":               file(t, "AAAA", 0o400),
		"long":                file(t, key(1)+key(1), 0o400),
		"no base64":           file(t, "!"+key(1), 0o400),
		"for everybody":       file(t, key(1), 0o444),
		"the group's as well": file(t, key(1), 0o660),
	} {
		if _, err := vault.Open(path); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if _, err := vault.Open(file(t, key(1), 0o440)); err != nil {
		t.Errorf("as systemd shows it: %v", err)
	}
}
