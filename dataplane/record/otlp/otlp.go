// Package otlp sends the lines of decision records to a collector of logs, as
// OpenTelemetry's protocol over HTTP. Neither requests nor other records wait for it.
package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/sallyport/sallyport/dataplane/collector"
)

// maxLine bounds a line, in bytes: what is longer is no record of ours.
const maxLine = 256 << 10

// Config is what a Sink needs. Address, Instance and Log are required.
type Config struct {
	// Address is where logs are taken, such as https://collector.example:4318/v1/logs.
	Address collector.Address
	// Instance and Version are those of this process.
	Instance, Version string
	Log               *slog.Logger

	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Queue bounds, in bytes, what waits for the collector; 16 MiB when zero.
	Queue int
}

// Sink is an io.Writer of lines, for one goroutine, whose Run sends them.
type Sink struct {
	queue    *collector.Queue
	metrics  *metrics
	resource *resourcev1.Resource

	part []byte // Write's: the beginning of a line
}

// New returns a Sink that has started nothing. It reads Address.CAFile.
func New(c Config) (*Sink, error) {
	if c.Instance == "" {
		return nil, errors.New("a collector of logs needs an instance")
	}
	s := &Sink{resource: collector.Resource(c.Instance, c.Version)}
	var err error
	s.metrics, err = newMetrics(c.Registerer, func() (items, bytes int) { return s.queue.Waiting() })
	if err != nil {
		return nil, fmt.Errorf("register metrics of the collector of logs: %w", err)
	}
	s.queue, err = collector.New(collector.Config{
		Address: c.Address, Signal: "logs", Encode: s.logs, Sent: s.metrics.sent, Dropped: s.metrics.dropped, Log: c.Log, Queue: c.Queue,
	})
	return s, err
}

// Write takes the lines that end in p, as far as there is room. It never waits and
// never fails: what finds no room is counted.
func (s *Sink) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		room := maxLine + 1 - len(s.part) // one more tells what is too long
		s.part = append(s.part, line[:min(len(line), room)]...)
		if !whole {
			return n, nil
		}
		if len(s.part) > maxLine {
			s.metrics.dropped.Inc()
		} else {
			s.queue.Put(bytes.Clone(s.part))
		}
		s.part, p = s.part[:0], rest
	}
}

// Run sends until ctx ends, and then what is left, for a moment. It returns nil.
// Who writes ends before. Losing the collector ends nothing.
func (s *Sink) Run(ctx context.Context) error { return s.queue.Run(ctx) }
