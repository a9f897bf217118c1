package spool

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const suffix = ".spool"

func (g *segment) name() string { return fmt.Sprintf("%x-%016x%s", g.boot, g.first, suffix) }

var errName = errors.New("is not the name of a segment")

func parseName(path string) (*segment, error) {
	boot, first, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), suffix), "-")
	g := &segment{path: path}
	n, err := strconv.ParseInt(first, 16, 64)
	if err != nil || n < 1 || len(boot) != 2*len(g.boot) {
		return nil, errName
	}
	if _, err := hex.Decode(g.boot[:], []byte(boot)); err != nil {
		return nil, errName
	}
	g.first = n
	return g, nil
}

// open returns the segment that grows, with its file, which is a new one when the
// last has grown enough.
func (s *Spool) open() (*segment, error) {
	if s.file != nil {
		s.mu.Lock()
		last := s.segments[len(s.segments)-1]
		s.mu.Unlock()
		if last.size < min(maxSegment, s.limit/8+1) {
			return last, nil
		}
		s.rest()
	}
	g := &segment{boot: s.boot, first: s.sequence + 1}
	g.path = filepath.Join(s.dir, g.name())
	file, err := os.OpenFile(g.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syncDir(s.dir); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = file
	s.segments = append(s.segments, g)
	return g, nil
}

// syncDir makes safe which files there are.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// rest closes the file that grows, if there is one: its segment grows no more.
func (s *Spool) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close() // what counts was synced
		s.file = nil
	}
	signal(s.ready)
}

// Batch is consecutive records of one journal.
type Batch struct {
	Boot    Boot
	First   int64
	Records [][]byte

	of    *segment
	bytes int64
}

// Ready receives after there was something new to take. It carries no data.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Take returns the oldest records, of at most so many bytes but at least one, until
// Done is called; false when there are none. It is for one goroutine.
func (s *Spool) Take(most int) (Batch, bool) {
	for {
		g, size, growing := s.oldest()
		if g == nil {
			return Batch{}, false
		}
		b, err := g.read(size, most)
		if err != nil {
			s.log.Error("end of a segment of the spool cannot be read", "path", g.path, "err", err)
		}
		if len(b.Records) > 0 {
			return b, true
		}
		if growing {
			return Batch{}, false
		}
		s.drop(g)
	}
}

// oldest returns the first segment, with its size, and whether it may grow.
func (s *Spool) oldest() (g *segment, size int64, growing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 0 {
		return nil, 0, false
	}
	g = s.segments[0]
	return g, g.size, s.file != nil && len(s.segments) == 1
}

// read returns records from where Done was called last. After what is no record
// there is no telling what comes: a process that was killed leaves such an end, of
// which nobody was told that it is safe.
func (g *segment) read(size int64, most int) (Batch, error) {
	b := Batch{Boot: g.boot, First: g.first + g.passed, of: g}
	left := size - g.taken
	if left <= 0 {
		return b, nil
	}
	f, err := os.Open(g.path)
	if err != nil {
		return b, err
	}
	defer f.Close()
	buf := make([]byte, min(left, int64(max(most, header+maxRecord))))
	n, err := f.ReadAt(buf, g.taken)
	if err != nil && !errors.Is(err, io.EOF) {
		return b, err
	}
	b.parse(buf[:n])
	if len(b.Records) == 0 {
		return b, fmt.Errorf("there is no record at byte %d of %d", g.taken, size)
	}
	return b, nil
}

func (b *Batch) parse(buf []byte) {
	const most = 4096 // records in one batch
	for len(buf) >= header && len(b.Records) < most {
		size := binary.BigEndian.Uint32(buf)
		if size == 0 || size > maxRecord || int(size) > len(buf)-header {
			return
		}
		record := buf[header : header+size]
		if crc32.Checksum(record, castagnoli) != binary.BigEndian.Uint32(buf[4:]) {
			return
		}
		b.Records = append(b.Records, record)
		b.bytes += int64(header + size)
		buf = buf[header+size:]
	}
}

// Done drops what was taken: somebody else keeps it.
func (s *Spool) Done(b Batch) {
	s.mu.Lock()
	g := b.of
	g.taken += b.bytes
	g.passed += int64(len(b.Records))
	through := g.taken >= g.size
	growing := s.file != nil && g == s.segments[len(s.segments)-1]
	s.mu.Unlock()
	if through && !growing {
		s.drop(g)
	}
}

// drop removes a segment. If that fails, its records are taken again by the next
// process, and those who keep them notice.
func (s *Spool) drop(g *segment) {
	if err := os.Remove(g.path); err != nil {
		s.log.Warn("segment of the spool was not removed", "path", g.path, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= g.size
	s.segments = slices.DeleteFunc(s.segments, func(o *segment) bool { return o == g })
}

// Size returns how many bytes there are on disk, or soon will be.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}
