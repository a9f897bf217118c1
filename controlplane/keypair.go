package controlplane

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// keyPairEvery is how often the files of a certificate are looked at.
const keyPairEvery = time.Second

// keyPair is a certificate with its key, in files that may be replaced while
// the process runs. It is safe for concurrent use.
type keyPair struct {
	certificate, key string // files
	log              *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	files   [2]time.Time // when they were written that pair is from
	looked  time.Time
	failing bool
}

// current returns the newest pair that could be read. One that cannot be, as
// when only one of the files has been replaced so far, does not end the one
// before.
func (k *keyPair) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); k.pair == nil || now.Sub(k.looked) > keyPairEvery {
		k.looked = now
		err := k.reload()
		if err != nil && k.pair == nil {
			return nil, err
		}
		if err != nil && !k.failing {
			k.log.Error("admin certificate was not read again", "err", err)
		}
		k.failing = err != nil
	}
	return k.pair, nil
}

// reload reads the files if they were written since they were read.
func (k *keyPair) reload() error {
	var written [2]time.Time
	for i, file := range []string{k.certificate, k.key} {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		written[i] = info.ModTime()
	}
	if k.pair != nil && written == k.files {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(k.certificate, k.key)
	if err != nil {
		return err
	}
	k.pair, k.files = &pair, written
	return nil
}
