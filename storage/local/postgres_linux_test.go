package local_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/storage/local"
)

func TestPostgresEndsWithItsParent(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	parent, dsn := startHelper(t, "serve", dir)
	client := connect(t, dsn) // a session in use does not keep the server
	pid := postmaster(t, filepath.Join(dir, "data"))
	if !running(pid) {
		t.Fatalf("process %d does not run", pid)
	}

	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "postgres ends", func() bool { return !running(pid) })
	if err := client.Ping(t.Context()); err == nil {
		t.Error("a session survived")
	}

	// The directory is free again, and what the killed process could not
	// remove, the next one does.
	startPostgres(t, local.PostgresConfig{Dir: dir})
	missing(t, scratchOf(t, dsn))
}

// A server whose owner was killed may take a moment to end. Its directory is
// its own until then.
func TestPostgresWaitsForPredecessor(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	parent, dsn := startHelper(t, "serve", dir)
	var session int // frozen, it keeps the server from ending
	if err := connect(t, dsn).QueryRow(t.Context(), "select pg_backend_pid()").Scan(&session); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(session, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()

	next := newPostgres(t, local.PostgresConfig{Dir: dir})
	hurry, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := next.Start(hurry); err == nil || !strings.Contains(err.Error(), "in use by another") {
		t.Errorf("started beside a living server: %v", err)
	}
	if _, err := os.Stat(scratchOf(t, dsn)); err != nil {
		t.Errorf("the living server lost its socket: %v", err)
	}
	if err := syscall.Kill(session, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := next.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

// The kernel's parent death signal follows the thread, and Go ends the thread
// of a goroutine that returns with its thread locked.
func TestPostgresOutlivesTheStartingThread(t *testing.T) {
	t.Parallel()
	var log logBuffer
	p := newPostgres(t, local.PostgresConfig{Log: logTo(&log)})
	thread := make(chan int)
	start := func() {
		if err := p.Start(t.Context()); err != nil {
			t.Error(err)
		}
		thread <- syscall.Gettid()
	}
	go func() {
		runtime.LockOSThread()
		if syscall.Gettid() != os.Getpid() {
			start()
			return
		}
		// The main thread never ends. As long as we keep it, others get another.
		defer runtime.UnlockOSThread()
		go func() {
			runtime.LockOSThread()
			start()
		}()
		<-t.Context().Done()
	}()
	task := fmt.Sprintf("/proc/self/task/%d", <-thread)
	eventually(t, "the thread ends", func() bool {
		_, err := os.Stat(task)
		return err != nil
	})
	if got := ask(t, p.DSN("postgres"), "select 'alive'"); got != "alive" {
		t.Error(got)
	}
	if strings.Contains(log.String(), "ended by itself") {
		t.Error(log.String())
	}
}
