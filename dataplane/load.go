package dataplane

import (
	"runtime"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/dataplane/link"
)

// load is what this process has to do.
func (p *Proxy) load() link.Load {
	requests, open := p.gateway.Load()
	return link.Load{Requests: requests, OpenRequests: open, ProcessorTime: processorTime(), Processors: runtime.GOMAXPROCS(0)}
}

// processorTime is how long this process has kept processors busy; 0 if that cannot
// be told.
func processorTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
