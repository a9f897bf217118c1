package dataplane

import (
	"fmt"
	"net/http"
	"net/netip"
	"runtime/pprof"
	"strconv"
	"time"
)

// Bounds of a profile of the processor, in seconds.
const (
	usualProfile   = 30
	longestProfile = 120
)

// debugHandler serves Go's profiles below /debug/pprof/, in the form that go tool
// pprof reads, to clients on this machine alone: the address is often open to
// whoever reads metrics. net/http/pprof would publish itself on other servers, too.
func debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/profile", profileProcessor)
	mux.HandleFunc("GET /debug/pprof/{name}", profile)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "profiles are for clients on this machine", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// profile serves heap, goroutine and the like.
func profile(w http.ResponseWriter, r *http.Request) {
	p := pprof.Lookup(r.PathValue("name"))
	if p == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = p.WriteTo(w, 0) // the client is gone
}

// profileProcessor profiles for as many seconds as are asked for.
func profileProcessor(w http.ResponseWriter, r *http.Request) {
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
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(lasts + adminTimeout)); err != nil {
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
	case <-time.After(lasts):
	}
}
