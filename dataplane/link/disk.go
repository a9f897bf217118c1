package link

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// The files of a state directory, of each lane with its prefix.
const (
	lockFile      = "lock"
	lastGoodFile  = "last-good"
	previousFile  = "last-good.previous"
	marksFile     = "high-water-mark"
	freshnessFile = "freshness"
	newSuffix     = ".new" // of what is being written
)

// maxSmall bounds the small files, in bytes. A chain of as many key sets as there can
// be takes about half of it.
const maxSmall = 2 << 20

// disk is a state directory that this process holds the lock of, or the part of
// it that a lane has. Reading and writing must not overlap within a part.
type disk struct {
	dir    string
	prefix string   // of files
	lock   *os.File // nil for a part
	// generations says that a previous one is kept.
	generations bool
	// whole says that the last-good file is one: what is damaged never takes
	// the place of the previous generation.
	whole bool
}

// openDisk creates the directory if need be and locks it.
func openDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("state directory %s can be written by everybody", dir)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("state directory %s is used by another process: %w", dir, err), lock.Close())
	}
	return &disk{dir: dir, lock: lock}, nil
}

// close gives the directory free.
func (d *disk) close() error { return d.lock.Close() }

// part returns the files with a prefix. It needs the lock for as long as it is
// used.
func (d *disk) part(prefix string, generations bool) *disk {
	return &disk{dir: d.dir, prefix: prefix, generations: generations}
}

func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// readBundle reads a generation and verifies it as if it came from the network.
func (d *disk) readBundle(name string, v *snapshot.Verifier) (*bundle.Bundle, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bundle.Read(bufio.NewReaderSize(f, 1<<16), v)
	d.whole = d.whole || err == nil && name == lastGoodFile
	return b, err
}

// writeSnapshot makes s the last good snapshot, and the one before it the
// previous generation, where one is kept. Whenever the process dies, one of them is whole.
func (d *disk) writeSnapshot(s *snapshot.Snapshot) error {
	err := d.write(lastGoodFile+newSuffix, func(f io.Writer) error {
		w := bufio.NewWriterSize(f, min(max(512*s.Set().Len(), 4<<10), 64<<10))
		return cmp.Or(bundle.WriteSnapshot(w, s), w.Flush())
	})
	if err != nil {
		return err
	}
	failpoint.Hit("link.written")
	if d.whole && d.generations {
		if err := os.Rename(d.path(lastGoodFile), d.path(previousFile)); err != nil {
			return err
		}
		d.whole = false
	}
	failpoint.Hit("link.renamed")
	err = d.commit(lastGoodFile)
	d.whole = err == nil
	return err
}

func (d *disk) readMarks() (marks, error) {
	b, err := d.readSmall(marksFile)
	if err != nil {
		return marks{}, err
	}
	m, err := parseMarks(b)
	if err != nil {
		return marks{}, err
	}
	return m, nil
}

func (d *disk) writeMarks(m marks) error {
	b, err := m.marshal()
	if err != nil {
		return fmt.Errorf("marshal high-water marks: %w", err)
	}
	return d.writeSmall(marksFile, b)
}

func (d *disk) readFreshness(v *snapshot.Verifier) (fresh, error) {
	b, err := d.readSmall(freshnessFile)
	if err != nil {
		return fresh{}, err
	}
	signed := &proxyv1.SignedFreshness{}
	if err := proto.Unmarshal(b, signed); err != nil {
		return fresh{}, fmt.Errorf("parse freshness: %w", err)
	}
	f, err := v.VerifyFreshness(signed)
	return fresh{f, signed}, err
}

func (d *disk) writeFreshness(signed *proxyv1.SignedFreshness) error {
	b, err := proto.Marshal(signed)
	if err != nil {
		return fmt.Errorf("marshal freshness: %w", err)
	}
	return d.writeSmall(freshnessFile, b)
}

// readSmall returns what writeSmall wrote, if its checksum agrees.
func (d *disk) readSmall(name string) ([]byte, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err != nil {
		return nil, err
	}
	at := len(b) - sha256.Size
	if at < 0 || len(b) > maxSmall {
		return nil, fmt.Errorf("%s has %d bytes", name, len(b))
	}
	if sum := sha256.Sum256(b[:at]); !bytes.Equal(sum[:], b[at:]) {
		return nil, fmt.Errorf("%s: checksum differs", name)
	}
	return b[:at], nil
}

// writeSmall replaces a file by b and its checksum.
func (d *disk) writeSmall(name string, b []byte) error {
	sum := sha256.Sum256(b)
	err := d.write(name+newSuffix, func(f io.Writer) error {
		_, err := f.Write(append(b, sum[:]...))
		return err
	})
	if err != nil {
		return err
	}
	return d.commit(name)
}

func (d *disk) path(name string) string { return filepath.Join(d.dir, d.prefix+name) }

// write writes a file whose contents are on the disk when it returns.
func (d *disk) write(name string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(d.path(name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// commit gives what was written its name, for good.
func (d *disk) commit(name string) error {
	if err := os.Rename(d.path(name+newSuffix), d.path(name)); err != nil {
		return err
	}
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
