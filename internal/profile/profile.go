// Package profile serves what a process says of its own work: Go's profiles, to
// clients on the same machine.
package profile

import (
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"time"
)

// Bounds of a profile of the processor, in seconds.
const (
	usualProfile   = 30
	longestProfile = 120

	// writeWithin is how long a client may take to read one, beside the time that
	// it is made in.
	writeWithin = 10 * time.Second
)

// Handler serves Go's profiles below /debug/pprof/, in the form that go tool pprof
// reads, to clients on this machine alone: the address is often open to whoever
// reads metrics. net/http/pprof would publish itself on other servers, too.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/profile", processor)
	mux.HandleFunc("GET /debug/pprof/{name}", named)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "profiles are for clients on this machine", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// named serves heap, goroutine and the like. Asked with gc=1, it collects garbage
// first and gives back to the system what is free.
func named(w http.ResponseWriter, r *http.Request) {
	p := pprof.Lookup(r.PathValue("name"))
	if p == nil {
		http.NotFound(w, r)
		return
	}
	if r.FormValue("gc") == "1" {
		debug.FreeOSMemory()
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = p.WriteTo(w, 0) // the client is gone
}

// processor profiles for as many seconds as are asked for.
func processor(w http.ResponseWriter, r *http.Request) {
	seconds := usualProfile
	if text := r.FormValue("seconds"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > longestProfile {
			http.Error(w, fmt.Sprintf("seconds is 1 to %d", longestProfile), http.StatusBadRequest)
			return
		}
		seconds = n
	}
	lasts := time.Duration(seconds) * time.Second
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(lasts + writeWithin)); err != nil { //nolint:forbidigo // a profile takes real time
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := pprof.StartCPUProfile(w); err != nil {
		http.Error(w, "there is a profile being made", http.StatusConflict)
		return
	}
	defer pprof.StopCPUProfile()
	select {
	case <-r.Context().Done():
	case <-time.After(lasts): //nolint:forbidigo // a profile takes real time
	}
}
