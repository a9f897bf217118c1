package dataplane

import (
	"io"
	"net/http"
)

// NewRecordFile appends to the file of that path.
func NewRecordFile(path string) io.Writer { return &recordFile{path: path} }

// DebugHandler serves profiles.
func DebugHandler() http.Handler { return debugHandler() }
