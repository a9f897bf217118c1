package assertion

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// maxFile bounds the file, in bytes: three keys are below one KiB.
const maxFile = 16 << 10

// purpose is what the file is sealed for.
const purpose = "assertion keys"

// saved is the file, sealed.
type saved struct {
	Current  *savedKey `json:"current,omitempty"`
	Next     *savedKey `json:"next,omitempty"`
	Previous *savedKey `json:"previous,omitempty"`
	Since    time.Time `json:"since"`
}

type savedKey struct {
	Private  []byte    `json:"private"`
	Reported time.Time `json:"reported"`
}

// read takes over what the file holds, or nothing. The caller holds mu.
func (k *Keys) read() error {
	if k.vault == nil {
		if err := os.Remove(k.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := readFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s saved
	if err == nil {
		b, err = k.vault.Unseal(purpose, b)
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return err
	}
	var keys [3]*key
	for i, from := range [...]*savedKey{s.Current, s.Next, s.Previous} {
		if keys[i], err = from.key(); err != nil {
			return err
		}
	}
	k.current, k.next, k.previous, k.since = keys[0], keys[1], keys[2], s.Since
	k.signing.Store(k.current)
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, errors.New("others than its owner can read or write it")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = errors.New("too large")
	}
	return b, err
}

func (s *savedKey) key() (*key, error) {
	if s == nil {
		return nil, nil //nolint:nilnil // none
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), s.Private)
	if err != nil {
		return nil, errors.New("not a private key") // whose bytes are nobody's business
	}
	k, err := keyOf(private)
	if err != nil {
		return nil, err
	}
	k.reported = s.Reported
	return k, nil
}

func (k *Keys) save() {
	if k.vault == nil {
		return
	}
	k.mu.Lock()
	s, err := k.snapshot()
	k.mu.Unlock()
	if err == nil {
		err = k.writeFile(s)
	}
	if err != nil {
		k.log.Error("assertion keys were not written", "file", k.file, "err", err)
	}
}

// snapshot is what the file is to hold. The caller holds mu.
func (k *Keys) snapshot() (saved, error) {
	s := saved{Since: k.since}
	for to, from := range map[**savedKey]*key{&s.Current: k.current, &s.Next: k.next, &s.Previous: k.previous} {
		if from == nil {
			continue
		}
		raw, err := from.private.Bytes()
		if err != nil {
			return saved{}, fmt.Errorf("private key: %w", err)
		}
		*to = &savedKey{Private: raw, Reported: from.reported}
	}
	return s, nil
}

// writeFile replaces the file as a whole, for good.
func (k *Keys) writeFile(s saved) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b, name := k.vault.Seal(purpose, b), k.file
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
