package local

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// child is a process that does not outlive this one, kill -9 included (on
// Linux; elsewhere only an orderly end takes it along).
type child struct {
	cmd *exec.Cmd

	// expected says that an end now is no surprise; true at first.
	expected atomic.Bool

	// family is closed at its other end when the process and all that descend
	// from it are gone: killed with force, Postgres leaves orphans which need a
	// moment to notice.
	family *os.File

	done chan struct{} // closed when the process and its family have ended
	err  error         // how it ended; read it after done
}

// orphanBound is how long a dead process' family is waited for.
const orphanBound = 10 * time.Second

// startChild starts cmd, whose SysProcAttr is set. When expected has been set
// to false and the process ends, surprised is called before done is closed.
func startChild(cmd *exec.Cmd, surprised func(error)) (*child, error) {
	// A group of its own: Ctrl-C in a terminal reaches the whole foreground
	// group and would stop the server under the feet of its clients.
	cmd.SysProcAttr.Setpgid = true
	endWithParent(cmd.SysProcAttr)
	family, member, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer member.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, member)
	c := &child{cmd: cmd, family: family, done: make(chan struct{})}
	c.expected.Store(true)
	started := make(chan error)
	go c.run(started, surprised)
	if err := <-started; err != nil {
		return nil, errors.Join(err, family.Close())
	}
	return c, nil
}

// run keeps its thread to itself until the process has ended: the kernel sends
// the parent death signal when the thread that started a child dies, and the
// Go runtime ends threads as it sees fit.
func (c *child) run(started chan<- error, surprised func(error)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := c.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	c.err = c.cmd.Wait()
	_ = c.family.SetReadDeadline(time.Now().Add(orphanBound))
	_, _ = c.family.Read(make([]byte, 1)) // nobody writes: this is their end, or the deadline
	_ = c.family.Close()
	if !c.expected.Load() {
		surprised(c.err)
	}
	close(c.done)
}

// wait returns how the process ended, and stops it when ctx ends first.
func (c *child) wait(ctx context.Context, patience time.Duration) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), c.stop(patience))
	}
}

var errKilled = errors.New("it did not stop when asked and was killed")

// stop asks the process to end, urges it after patience, and kills it after
// patience again. It returns when the process has ended: nil unless killed.
func (c *child) stop(patience time.Duration) error {
	c.expected.Store(true)
	timer := time.NewTicker(patience)
	defer timer.Stop()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		// An error here means that the process has ended, which done tells.
		_ = c.cmd.Process.Signal(sig)
		select {
		case <-c.done:
			return nil
		case <-timer.C:
		}
	}
	_ = c.cmd.Process.Kill()
	<-c.done
	return errKilled
}
