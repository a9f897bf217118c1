package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// lockName is the file whose lock says that a directory is in use.
	lockName = "lock"

	scratchPrefix = "sallyport-local-"

	// longestBase keeps the path of a socket in a scratch directory below the
	// smallest limit we know, 103 bytes on macOS.
	longestBase = 103 - len("/"+scratchPrefix+"4294967295/run/.s.PGSQL.5432")
)

// scratch is a temporary directory of our own. Its lock is held as long as
// this process lives, or a server that was given the lock at its start.
type scratch struct {
	path string
	lock *os.File
}

// newScratch makes a directory that account can enter, below temp if it can
// enter that, and first removes those that killed processes left.
func newScratch(temp string, a *account) (*scratch, error) {
	base := scratchBase(temp, a)
	sweep(base)
	fresh, err := os.MkdirTemp(base, "."+scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("make temporary directory: %w", err)
	}
	s, err := settle(fresh, a)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make temporary directory: %w", err), os.RemoveAll(fresh))
	}
	return s, nil
}

// settle locks the directory and only then gives it the name that sweep looks
// for, so that no other process takes it for an abandoned one.
func settle(fresh string, a *account) (*scratch, error) {
	if a != nil {
		if err := os.Chmod(fresh, 0o711); err != nil { //nolint:gosec // the account passes through to what is its own
			return nil, err
		}
	}
	lock, err := lockFile(filepath.Join(fresh, lockName), os.O_CREATE)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(filepath.Dir(fresh), strings.TrimPrefix(filepath.Base(fresh), "."))
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &scratch{path: path, lock: lock}, nil
}

func (s *scratch) remove() error {
	return errors.Join(os.RemoveAll(s.path), s.lock.Close())
}

// scratchBase is temp, or the system's temporary directory when that is empty.
// It is /tmp where account cannot reach that, or where the path of a socket in
// it would be too long.
func scratchBase(temp string, a *account) string {
	if temp == "" {
		temp = os.TempDir()
	}
	base, err := filepath.Abs(temp)
	if err != nil || len(base) > longestBase || !a.reaches(base) {
		return "/tmp"
	}
	return base
}

// sweep removes scratch directories whose owners are gone. It is a courtesy to
// the disk: what cannot be removed stays for the next one.
func sweep(base string) {
	dirs, err := filepath.Glob(filepath.Join(base, scratchPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || owner(info) != os.Geteuid() {
			continue
		}
		lock, err := lockFile(filepath.Join(dir, lockName), 0)
		if err != nil {
			continue
		}
		_ = (&scratch{path: dir, lock: lock}).remove()
	}
}

// claim makes dir where it is missing and takes it for this process. A server
// that outlives its killed owner for a moment is waited for until ctx ends.
func claim(ctx context.Context, dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // Postgres, run by root, passes through to what is its own
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, claimBound)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := lockFile(filepath.Join(dir, lockName), os.O_CREATE)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("directory %s is in use by another process", dir)
		case <-tick.C:
		}
	}
}

// claimBound is what a server whose owner was killed may need to end.
const claimBound = 5 * time.Second

// lockFile opens name and locks it, or returns EWOULDBLOCK at once. The lock
// ends when the file is closed here and in every child that inherited it.
func lockFile(name string, create int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|create, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

func owner(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}
