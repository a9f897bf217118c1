package geo

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// maxFile bounds a file, in bytes. While it is replaced there are two of it in
// memory.
const maxFile = 512 << 20

// source is a file and what is in use of it.
type source struct {
	file     string
	log      *slog.Logger
	database *database // nil before there was a sound one

	looked  fs.FileInfo // the file that was last read, sound or not; nil for none
	refused *database   // of looked, for its age alone
	problem string      // what was last logged of a file that cannot be read
	expired bool        // database is out of date, and that was logged
}

// errUnsettled is of a file that is being written.
var errUnsettled = errors.New("changes while it is read")

// refresh takes over what is in the file if that has changed, is sound, and passes
// check. It returns why not.
func (s *source) refresh(check func(*database) error) error {
	info, err := os.Stat(s.file)
	if err == nil && !s.changed(info) && (s.refused == nil || check(s.refused) != nil) {
		s.problem = "" // it may have been away
		return nil
	}
	var next *database
	if err == nil {
		s.looked, s.refused = nil, nil
		next, err = s.read(info, check)
	}
	switch {
	case errors.Is(err, errUnsettled):
		return nil // the next look will tell
	case err != nil:
		s.complain(err, info != nil && s.looked == info)
		return err
	}
	s.database, s.problem, s.expired = next, "", false
	s.log.Info("geo database read", "type", next.Type, "built", next.Built, "bytes", info.Size())
	return nil
}

func (s *source) changed(info fs.FileInfo) bool { return s.looked == nil || !same(s.looked, info) }

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// read returns the database in the file. It remembers a file that will not get
// better by itself.
func (s *source) read(info fs.FileInfo, check func(*database) error) (*database, error) {
	data, err := readWhole(s.file, info)
	if err != nil {
		return nil, err
	}
	s.looked = info
	d, err := open(s.file, data)
	if err != nil {
		return nil, err
	}
	// What costs most comes last.
	if err := check(d); err != nil {
		if _, ok := errors.AsType[*errAge](err); ok {
			s.refused = &database{Database: d.Database, kind: d.kind}
		}
		return nil, err
	}
	if err := d.verify(); err != nil {
		return nil, err
	}
	return d, nil
}

// readWhole reads a file into memory. Mapped, it would be faster to open, and
// whoever cuts it short in place would end the process: what a look-up then touches
// is a fault (SIGBUS) that nothing recovers from.
func readWhole(name string, info fs.FileInfo) ([]byte, error) {
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, errUnsettled
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !same(info, after) {
		return nil, errUnsettled
	}
	return data, nil
}

// complain logs what is wrong with the file: with each content that was read, and
// once where there is none.
func (s *source) complain(err error, read bool) {
	if !read && err.Error() == s.problem {
		return
	}
	s.problem = err.Error()
	if s.database == nil {
		s.log.Error("geo database cannot be used", "err", err)
		return
	}
	s.log.Error("geo database cannot be used", "err", err, "type", s.database.Type, "built", s.database.Built)
}

// watch logs, once, that what is in use is not asked any more.
func (s *source) watch(ages func(*database) error) {
	if s.database == nil {
		return
	}
	err := ages(s.database)
	if err != nil && !s.expired {
		s.log.Error("geo database is out of date and is not asked", "err", err)
	}
	s.expired = err != nil
}

// age is since a database was built, zero when clocks differ.
func (d *database) age(now time.Time) time.Duration { return max(now.Sub(d.Built), 0) }
