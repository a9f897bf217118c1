package dataplane

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// recordFile appends to a file, and to a new one when that was moved away or
// removed. It is for one goroutine. The zero value but path is ready.
type recordFile struct {
	path string

	file *os.File
	info fs.FileInfo // of file
}

// Write implements io.Writer.
func (r *recordFile) Write(b []byte) (int, error) {
	if err := r.open(); err != nil {
		return 0, err
	}
	return r.file.Write(b)
}

// open makes file the one that has the path now.
func (r *recordFile) open() error {
	info, err := os.Stat(r.path)
	if err == nil && r.file != nil && os.SameFile(info, r.info) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err = file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if r.file != nil {
		err = r.file.Close()
	}
	r.file, r.info = file, info
	return err
}

// close closes the file. What was written is in it.
func (r *recordFile) close() { _ = r.file.Close() } // that of none fails

// copied has what is written to one writer written to another one as well, which
// takes everything.
type copied struct {
	io.Writer
	to io.Writer
}

// Write implements io.Writer.
func (c *copied) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	_, _ = c.to.Write(b[:n])
	return n, err
}
