package dataplane

import (
	"net/http"
	"net/http/pprof" //nolint:gosec // on a mux of our own, for this machine alone
	"net/netip"
)

// debugHandler serves Go's profiles below /debug/pprof/, to clients on this
// machine alone: whoever may read metrics over the network need not be able to
// stop the process for a trace.
func debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "profiles are for clients on this machine", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
