package edge

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// A report has at most so many proxies, and no more bytes but for the last of them.
	reportProxies = 500
	reportBytes   = 2 << 20
)

// report hands records on, each with what the proxy has acknowledged last.
func (s *store) report(ctx context.Context, proxies []storage.Proxy) error {
	for len(proxies) > 0 {
		req, rest, err := s.gather(proxies)
		if err != nil {
			return err
		}
		var approved []string
		err = s.edge.full.call(ctx, "report", reportWithin, func(ctx context.Context, c client) error {
			res, err := c.Report(ctx, connect.NewRequest(req))
			if err == nil {
				approved = res.Msg.GetApproved()
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("report proxies: %w", err)
		}
		s.approve(req, approved)
		proxies = rest
	}
	return nil
}

// gather makes a report of the first of the proxies, and returns the rest.
func (s *store) gather(proxies []storage.Proxy) (*replicav1.ReportRequest, []storage.Proxy, error) {
	req, size := &replicav1.ReportRequest{Replica: s.replica}, 0
	for len(proxies) > 0 && len(req.GetProxies()) < reportProxies && size < reportBytes {
		p, err := s.describe(proxies[0])
		if err != nil {
			return nil, nil, err
		}
		req.Proxies, proxies = append(req.Proxies, p), proxies[1:]
		size += proto.Size(p)
	}
	return req, proxies, nil
}

// describe makes a report of one proxy.
func (s *store) describe(record storage.Proxy) (*replicav1.ProxyReport, error) {
	status := &adminv1.Proxy{}
	if err := proto.Unmarshal(record.Status, status); err != nil {
		return nil, fmt.Errorf("status of proxy %s: %w", record.ID, err)
	}
	policy, security := s.edge.registry.Acks(record.ID)
	return &replicav1.ProxyReport{
		SpiffeId: record.SPIFFEID, Instance: record.Instance, Status: status,
		SilentFor: durationpb.New(max(s.edge.now().Sub(record.LastSeen), 0)),
		Connected: record.Replica != "", Ack: policy, SecurityAck: security,
		Binding: s.edge.registry.Binding(record.ID),
	}, nil
}

// approve takes what a replica with a database said of the SPIFFE IDs in a report.
func (s *store) approve(req *replicav1.ReportRequest, approved []string) {
	s.mu.Lock()
	for _, p := range req.GetProxies() {
		delete(s.approved, p.GetSpiffeId())
	}
	for _, id := range approved[:min(len(approved), reportProxies)] {
		if len(s.approved) < maxApproved {
			s.approved[id] = true
		}
	}
	s.mu.Unlock()
	if s.revise() {
		s.tell()
	}
}
