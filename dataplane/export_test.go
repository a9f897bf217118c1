package dataplane

import "io"

// NewRecordFile appends to the file of that path.
func NewRecordFile(path string) io.Writer { return &recordFile{path: path} }
