package etcd_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// However long etcd was away, it is tried again within seconds.
func TestAwayForLong(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "etcd.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := ln.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, endpoints: []string{"unix://" + path}, prefix: "/away"}
	l.follow(l.store())
	// With twice the wait each time, and no bound, there were not so many.
	for i := range 10 {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatalf("after %d attempts: %v", i, err)
		}
		_ = conn.Close() // nobody is there
	}
}
