// Package spool keeps records on disk until somebody has taken them, so that what
// must be recorded is, before anything comes of it.
package spool

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

var (
	// ErrFull says that there is no room.
	ErrFull = errors.New("the spool of decision records is full")
	// ErrEnded says that nothing is written any more.
	ErrEnded = errors.New("the spool of decision records has ended")
)

const (
	// header is length and CRC-32C of a record, four bytes each.
	header = 8
	// maxRecord bounds a record, in bytes.
	maxRecord = 64 << 10
	// defaultLimit is that of Config.Limit.
	defaultLimit = 256 << 20
	// maxSegment is how large a segment gets, at most: what was taken of one is
	// still on disk until all of it was.
	maxSegment = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Config is what a Spool needs. Limit may be zero.
type Config struct {
	// Directory is created if need be, and belongs to one process at a time.
	Directory string
	Log       *slog.Logger
	// Limit bounds the bytes on disk; 256 MiB when zero.
	Limit int64
}

// Boot names a journal: the records that one process has put into its spool.
type Boot [16]byte

// Spool is safe for concurrent use. Records that were appended are in it until
// Done, also after the death of the process. They are taken in the order of their
// sequence, those of earlier processes first.
type Spool struct {
	dir   string
	log   *slog.Logger
	limit int64
	boot  Boot
	lock  *os.File // nil before Load

	pending chan struct{} // has room for one: something waits for Run
	ready   chan struct{} // has room for one: something was written

	mu       sync.Mutex
	ended    bool
	waiting  group
	size     int64 // on disk and waiting
	segments []*segment
	file     *os.File // the last segment, nil when none grows; Run alone changes it

	sequence int64 // Run's: of the last record that was written
}

// group is records that are written, and become safe, together.
type group struct {
	bytes []byte
	count int64
	done  *outcome
}

// outcome is what becomes of a group.
type outcome struct {
	settled chan struct{} // closed when err says it
	err     error
}

// segment is a file of records.
type segment struct {
	path  string
	boot  Boot
	first int64 // sequence of the first record
	size  int64 // bytes that are written

	taken  int64 // bytes that Done was called for
	passed int64 // records, likewise
}

// New checks c and builds a Spool. It touches no file.
func New(c Config) (*Spool, error) {
	if c.Log == nil || c.Directory == "" || c.Limit < 0 {
		return nil, errors.New("a spool needs a directory, a logger, and no negative limit")
	}
	s := &Spool{
		dir: c.Directory, log: c.Log, limit: c.Limit,
		pending: make(chan struct{}, 1), ready: make(chan struct{}, 1),
	}
	if s.limit == 0 {
		s.limit = defaultLimit
	}
	s.waiting.done = &outcome{settled: make(chan struct{})}
	if _, err := rand.Read(s.boot[:]); err != nil {
		return nil, err
	}
	return s, nil
}

// Load makes the directory, and takes up what is there. It comes before all else.
func (s *Spool) Load() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the spool of decision records in the state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the spool of decision records: %w", err)
	}
	s.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("the spool %s is used by another process: %w", s.dir, err), s.Close())
	}
	if err := s.find(); err != nil {
		return errors.Join(fmt.Errorf("load the spool of decision records: %w", err), s.Close())
	}
	return nil
}

// Close gives the directory free for the next process. It comes after all else.
func (s *Spool) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// find takes up what earlier processes have left.
func (s *Spool) find() error {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*"+suffix))
	if err != nil {
		return err
	}
	for _, path := range paths {
		g, err := parseName(path)
		if err != nil {
			s.log.Warn("file in the spool of decision records was left alone", "path", path)
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		g.size = info.Size()
		s.size += g.size
		s.segments = append(s.segments, g)
	}
	if len(s.segments) > 0 {
		s.ready <- struct{}{}
	}
	return nil
}

// Append returns nil when record is safe on the disk. ErrFull at once when there is
// no room. The record may be in the spool also after another error.
func (s *Spool) Append(ctx context.Context, record []byte) error {
	done, err := s.put(record)
	if err != nil {
		return err
	}
	select {
	case <-done.settled:
		return done.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Spool) put(record []byte) (*outcome, error) {
	if len(record) > maxRecord || len(record) == 0 {
		return nil, fmt.Errorf("a record of %d bytes does not fit the spool", len(record))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	need := int64(header + len(record))
	switch {
	case s.ended:
		return nil, ErrEnded
	case s.size+need > s.limit:
		return nil, ErrFull
	}
	s.size += need
	g := &s.waiting
	g.bytes = binary.BigEndian.AppendUint32(g.bytes, uint32(len(record))) //nolint:gosec // bounded above
	g.bytes = binary.BigEndian.AppendUint32(g.bytes, crc32.Checksum(record, castagnoli))
	g.bytes = append(g.bytes, record...)
	g.count++
	signal(s.pending)
	return g.done, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and what waits then. It returns nil. A Spool runs
// once.
func (s *Spool) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.pending:
			s.commit(s.take(false))
		}
	}
	s.commit(s.take(true))
	s.rest()
	return nil
}

// take returns what waits.
func (s *Spool) take(last bool) group {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.waiting
	s.waiting = group{done: &outcome{settled: make(chan struct{})}}
	s.ended = s.ended || last
	return g
}

// commit makes a group safe: while that takes, the next one gathers.
func (s *Spool) commit(g group) {
	if g.count == 0 {
		return
	}
	g.done.err = s.write(g)
	if g.done.err != nil {
		s.log.Error("decision records could not be spooled and requests are denied", "err", g.done.err)
		s.mu.Lock()
		s.size -= int64(len(g.bytes))
		s.mu.Unlock()
	}
	close(g.done.settled)
	signal(s.ready)
}

func (s *Spool) write(g group) error {
	at, err := s.open()
	if err != nil {
		return err
	}
	_, err = s.file.WriteAt(g.bytes, at.size)
	if err == nil {
		err = s.file.Sync()
	}
	s.sequence += g.count
	if err != nil {
		// What is there of it was not told to be safe. Should the next process find
		// it all the same, nothing else has its place in the journal.
		_ = s.file.Truncate(at.size)
		s.rest()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at.size += int64(len(g.bytes))
	return nil
}
