// Package demo tells a story with a whole Sallyport on one machine, and checks
// every answer.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// Options are what a demo is asked for.
type Options struct {
	// Dir keeps everything; a temporary folder, removed at the end, when empty.
	Dir string
	// Once ends the demo after its story.
	Once bool
	// Out is told the story.
	Out io.Writer
	// Bin is the folder of sallyport-controlplane and sallyport-proxy.
	Bin string
}

// Run starts everything and tells the story. It returns an error if anything
// differed from what was told. Without Once it then stays up until ctx ends.
// Nothing that it started is left when it returns.
func Run(ctx context.Context, o Options) (err error) {
	dir, remove, err := folder(o.Dir)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil { // else the logs are worth keeping
			err = remove()
		}
	}()
	log, closeLog, err := openLog(dir)
	if err != nil {
		return err
	}
	defer closeLog()

	t := &teller{out: o.Out}
	t.title("Sallyport demo: one policy, two clouds, every part real")
	began := time.Now()
	f, err := fleet.Start(ctx, fleet.Config{Dir: dir, Bin: o.Bin, Log: log})
	defer func() { err = errors.Join(err, f.Stop()) }()
	if err != nil {
		return fmt.Errorf("start: %w (logs are in %s)", err, dir)
	}
	s := &story{f}
	s.introduce(t, time.Since(began))
	if err := s.tell(ctx, t); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%w (logs are in %s)", err, dir)
	}
	if o.Once {
		t.line("\nEvery answer was as told.")
		return nil
	}
	s.invite(t)
	return f.Watch(ctx)
}

// folder returns where the demo keeps everything, as an absolute path.
func folder(dir string) (string, func() error, error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "sallyport-demo-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	return dir, func() error { return nil }, os.MkdirAll(dir, 0o700)
}

func openLog(dir string) (*slog.Logger, func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, "demo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(slog.NewJSONHandler(f, nil)), func() { _ = f.Close() }, nil
}

// teller prints the story.
type teller struct{ out io.Writer }

func (t *teller) line(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

func (t *teller) title(text string) { t.line("\n%s\n", text) }

// ok tells what happened as it was meant to.
func (t *teller) ok(format string, args ...any) { t.line("  ✓ "+format, args...) }
