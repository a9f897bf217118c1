package dataplane

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/sallyport/sallyport/dataplane/access"
)

// AccessLog says what is written of each request when it has ended.
type AccessLog struct {
	// File is the one to which a JSON line of each request is appended, or "stdout";
	// there is no access log when it is empty. A file that was moved away is created anew.
	File string `json:"file"`
	// Fields are the keys of a line, in their order; the usual ones when there are none.
	Fields []string `json:"fields"`
}

func (a *AccessLog) validate(records string, report func(field string, err error)) {
	switch {
	case a.File == "" && len(a.Fields) > 0:
		report("access_log.file", errRequired)
	case a.File == toStdout:
	case a.File == records && a.File != "":
		report("access_log.file", errors.New("is that of records: they do not share one"))
	case a.File != "":
		report("access_log.file", checkAbsolute(a.File))
	}
	report("access_log.fields", access.CheckFields(a.Fields))
}

// openAccessLog builds the access log, if there is to be one.
func (p *Proxy) openAccessLog() (err error) {
	a := p.settings.AccessLog
	var writer io.Writer
	switch a.File {
	case "":
		return nil
	case toStdout:
		writer = os.Stdout
	default:
		p.accessFile = &recordFile{path: a.File}
		writer = p.accessFile
	}
	p.access, err = access.New(access.Config{Writer: writer, Fields: a.Fields, Log: p.log, Registerer: p.metrics})
	return err
}

// writeAccessLog writes until ctx ends.
func (p *Proxy) writeAccessLog(ctx context.Context) error {
	if p.access == nil {
		return nil
	}
	if p.accessFile != nil {
		defer p.accessFile.close()
	}
	return p.access.Run(ctx)
}
