package fleet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const stopWithin = 10 * time.Second

// Process is a child process: the real binary, with its settings. It is not
// safe for concurrent use.
type Process struct {
	Label string   // names it for people
	Args  []string // its program, and the arguments
	Log   string   // the file that takes its output

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts the process, again when it has ended, with variables added to
// its environment. Should the caller's process die, the system ends it too.
func (p *Process) Start(variables ...string) error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.Args[0], p.Args[1:]...) //nolint:noctx // Stop ends it
	p.cmd.Env = append(os.Environ(), variables...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.done = make(chan struct{})
	started := make(chan error)
	go func(done chan struct{}) {
		// Pdeathsig follows the thread that started the child, which has to
		// live as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in its log
		}
		close(done)
	}(p.done)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Label, err)
	}
	return nil
}

// PID returns the id of the process that was started last.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended that was started last.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process at once, as a crash would.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Stop asks the process to end, and ends it if it does not.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Process) end(signal syscall.Signal) error {
	if p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.Label, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopWithin):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Label, err)
	}
	<-p.done
	return nil
}

// program returns the path of one of our binaries.
func program(bin, name string) (string, error) {
	path := filepath.Join(bin, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither in %s nor on the PATH: run make build", name, bin)
	}
	return path, nil
}
