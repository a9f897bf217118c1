package dataplane

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/trace"
	"github.com/sallyport/sallyport/internal/build"
)

// maxNetworks bounds a list of networks.
const maxNetworks = 256

// Traces say of which requests there are spans, and where they go.
type Traces struct {
	// Endpoint is the URL that takes spans as OTLP over HTTP, such as
	// https://collector.example:4318/v1/traces; http only to an address of this machine.
	// There are none when it is empty, and what requests say of traces is passed on as it
	// came.
	Endpoint string `json:"endpoint"`
	// CAFile is a PEM file with what verifies the collector; the system's roots when
	// empty.
	CAFile string `json:"ca_file"`
	// AuthorizationFile is a file with what is sent in the field Authorization, such
	// as "Bearer ..."; it is read again each time. Nothing is sent when it is empty.
	AuthorizationFile string `json:"authorization_file"`
	// Ratio is of how many requests there are spans, from 0 for none to 1 for all.
	Ratio float64 `json:"ratio"`
	// SampledFrom are networks of clients that decide for themselves whether there are
	// spans of their requests.
	SampledFrom []string `json:"sampled_from"`
}

func (t *Traces) validate(report func(field string, err error)) {
	if t.Endpoint == "" {
		if t.CAFile != "" || t.AuthorizationFile != "" || t.Ratio != 0 || len(t.SampledFrom) > 0 {
			report("traces.endpoint", errRequired)
		}
		return
	}
	report("traces.endpoint", collector.CheckEndpoint(t.Endpoint))
	for field, path := range map[string]string{"traces.ca_file": t.CAFile, "traces.authorization_file": t.AuthorizationFile} {
		if path != "" {
			report(field, checkAbsolute(path))
		}
	}
	switch {
	case !(t.Ratio >= 0 && t.Ratio <= 1):
		report("traces.ratio", errors.New("has to be from 0 to 1"))
	case t.Ratio == 0 && len(t.SampledFrom) == 0:
		report("traces.ratio", errors.New("is required, or sampled_from: else there are no spans"))
	}
	_, err := t.trusted()
	report("traces.sampled_from", err)
}

// trusted are the networks of SampledFrom.
func (t *Traces) trusted() (all []netip.Prefix, err error) {
	if len(t.SampledFrom) > maxNetworks {
		return nil, fmt.Errorf("%d networks: more than %d", len(t.SampledFrom), maxNetworks)
	}
	for _, text := range t.SampledFrom {
		p, bad := netip.ParsePrefix(text)
		if bad != nil || p != p.Masked() {
			err = errors.Join(err, fmt.Errorf("%q is not a network as 10.0.0.0/8", text))
		}
		all = append(all, p)
	}
	return all, err
}

// openTraces builds what sends spans, if there are to be any.
func (p *Proxy) openTraces() error {
	t := p.settings.Traces
	if t.Endpoint == "" {
		return nil
	}
	trusted, err := t.trusted()
	if err != nil {
		return fmt.Errorf("traces.sampled_from: %w", err)
	}
	p.traces, err = trace.New(trace.Config{
		Address: collector.Address{Endpoint: t.Endpoint, CAFile: t.CAFile, AuthorizationFile: t.AuthorizationFile},
		Ratio:   t.Ratio, Trusted: trusted, Instance: p.settings.Instance, Version: build.Version(), Log: p.log, Registerer: p.metrics,
	})
	return err
}
