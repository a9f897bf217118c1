package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// answerWithin is how long a proxy may take for an answer.
	answerWithin = 10 * time.Second
	// bucketsAtOnce is of how many buckets documents are asked for at a time: of
	// 100,000 documents these have about 3,000.
	bucketsAtOnce = 8
	// maxDeviations bounds those that are named.
	maxDeviations = 1000
	// judgedAtOnce is how many proxies are verified at a time: who does not answer does
	// not hold up the others.
	judgedAtOnce = 8
	// comparisons is how often a lane is compared that moves on meanwhile.
	comparisons = 3
)

var (
	errMovedOn = connect.NewError(connect.CodeAborted, errors.New("the proxy has moved on meanwhile: ask again"))
	errEmpty   = connect.NewError(connect.CodeFailedPrecondition, errors.New("the proxy enforces nothing yet, or does not tell"))
	// errUntold says that a proxy's build does not know that it is asked for the security
	// lane.
	errUntold = errors.New("the proxy does not tell what it has of the security lane")
)

// Verify implements adminv1connect.FleetServiceHandler.
func (s fleetService) Verify(ctx context.Context, req *connect.Request[adminv1.VerifyRequest]) (*connect.Response[adminv1.VerifyResponse], error) {
	id := storage.ProxyID(req.Msg.GetId())
	res, err := s.verify(ctx, id, s.here())
	if errors.Is(err, registry.ErrElsewhere) {
		res, err = s.verifyElsewhere(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// verify compares a proxy with the truth, when it is its turn. registry.ErrElsewhere
// unless it has its stream where it is asked.
func (a *API) verify(ctx context.Context, id storage.ProxyID, by way) (*adminv1.VerifyResponse, error) {
	select {
	case by.turns <- struct{}{}:
		defer func() { <-by.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p, err := a.registry.Proxy(ctx, id)
	if err != nil {
		return nil, err
	}
	security, err := a.compareLane(ctx, p, by, snapshot.SecurityLane)
	if err != nil && !errors.Is(err, errUntold) {
		return nil, err
	}
	policy, err := a.compareLane(ctx, p, by, p.GetEnvironment())
	switch {
	case err != nil:
		return nil, err
	case security.told != policy.told && security.told != "":
		return nil, errMovedOn
	}
	found := slices.Concat(security.found, policy.found)
	return &adminv1.VerifyResponse{
		Id: string(id), Environment: p.GetEnvironment(), Epoch: policy.epoch, Revision: policy.revision, Documents: policy.documents(),
		Sequence: security.revision, SecurityDocuments: security.documents(),
		Deviations: found[:min(len(found), maxDeviations)],
		Cut:        security.cut || policy.cut || len(found) > maxDeviations,
		ToldBy:     string(policy.told),
	}, nil
}

// comparison compares what a proxy has of a lane with the truth.
type comparison struct {
	api   *API
	proxy *adminv1.Proxy
	by    way
	lane  string // an environment, or snapshot.SecurityLane
	truth *snapshot.Set

	told            identity.ID // the edge that has told what follows; empty for the proxy
	epoch, revision int64       // of the proxy
	found           []*adminv1.Deviation
	cut             bool // there are more
}

// compareLane compares until the proxy does not move on meanwhile.
func (a *API) compareLane(ctx context.Context, p *adminv1.Proxy, by way, lane string) (*comparison, error) {
	for try := 1; ; try++ {
		c := &comparison{api: a, proxy: p, by: by, lane: lane}
		if err := c.run(ctx); !errors.Is(err, errMovedOn) || try == comparisons {
			return c, err
		}
	}
}

func (c *comparison) run(ctx context.Context) error {
	m, told, err := c.ask(ctx, nil)
	switch {
	case err != nil:
		return err
	case m.GetRevision() < 1 || len(m.GetBuckets()) != snapshot.BucketCount*len(snapshot.Digest{}):
		return errEmpty
	}
	c.told, c.epoch, c.revision = told, m.GetEpoch(), m.GetRevision()
	if c.truth, err = c.api.truths.at(ctx, c.lane, snapshot.Revision(c.revision)); err != nil {
		return err
	}
	for some := range slices.Chunk(c.differing(m.GetBuckets()), bucketsAtOnce) {
		if c.cut {
			break
		}
		if err := c.compare(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// documents is how many there should be.
func (c *comparison) documents() int64 {
	if c.truth == nil {
		return 0
	}
	return int64(c.truth.Len())
}

// ask returns what the proxy says, and which edge has told so.
func (c *comparison) ask(ctx context.Context, buckets []uint32) (*proxyv1.Inspection, identity.ID, error) {
	waiting, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	security := c.lane == snapshot.SecurityLane
	m, told, err := c.by.ask(waiting, storage.ProxyID(c.proxy.GetId()), &proxyv1.Inspect{Buckets: buckets, Security: security})
	switch {
	case errors.Is(err, registry.ErrElsewhere):
		return nil, "", connect.NewError(connect.CodeFailedPrecondition, err)
	case err != nil && ctx.Err() == nil:
		return nil, "", connect.NewError(connect.CodeUnavailable, fmt.Errorf("the proxy has not answered within %s: its build may be too old", answerWithin))
	case err != nil:
		return nil, "", err
	case security && !m.GetSecurity():
		return nil, "", errUntold
	}
	return m, told, nil
}

// differing returns the buckets whose digests are not those of the truth.
func (c *comparison) differing(digests []byte) (buckets []uint32) {
	for i := range uint32(snapshot.BucketCount) {
		const size = uint32(len(snapshot.Digest{}))
		got, _ := snapshot.ParseDigest(digests[i*size : (i+1)*size])
		if got != c.truth.BucketDigest(int(i)) {
			buckets = append(buckets, i)
		}
	}
	return buckets
}

// compare adds what deviates in some buckets.
func (c *comparison) compare(ctx context.Context, buckets []uint32) error {
	m, told, err := c.ask(ctx, buckets)
	switch {
	case err != nil:
		return err
	case m.GetRevision() != c.revision, m.GetEpoch() != c.epoch, told != c.told:
		return errMovedOn
	}
	live := map[resource.Key]snapshot.Digest{}
	for _, d := range m.GetDocuments() {
		live[documentKey(d)], _ = snapshot.ParseDigest(d.GetDigest())
	}
	for b := range c.truth.Buckets() {
		if !slices.Contains(buckets, uint32(b.Index)) { //nolint:gosec // from 0 to 255
			continue
		}
		for _, e := range b.Entries {
			switch got, there := live[e.Key]; {
			case !there && !m.GetCut():
				c.add(e.Key, adminv1.DeviationType_DEVIATION_TYPE_MISSING)
			case there && got != e.Digest:
				c.add(e.Key, adminv1.DeviationType_DEVIATION_TYPE_DIFFERENT)
			}
			delete(live, e.Key)
		}
	}
	for _, d := range m.GetDocuments() { // in their order
		if _, left := live[documentKey(d)]; left {
			c.add(documentKey(d), adminv1.DeviationType_DEVIATION_TYPE_EXTRA)
		}
	}
	c.cut = c.cut || m.GetCut()
	return nil
}

func documentKey(d *proxyv1.DocumentDigest) resource.Key {
	return resource.Key{Kind: resource.Kind(d.GetKey().GetKind()), Namespace: d.GetKey().GetNamespace(), Name: d.GetKey().GetName()}
}

func (c *comparison) add(key resource.Key, how adminv1.DeviationType) {
	if len(c.found) == maxDeviations {
		c.cut = true
		return
	}
	rejects := c.proxy.GetRejects()
	if c.lane == snapshot.SecurityLane {
		rejects = c.proxy.GetSecurity().GetRejects()
	}
	d := &adminv1.Deviation{Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name, Type: how}
	for _, r := range rejects {
		if r.GetKind() == d.GetKind() && r.GetNamespace() == d.GetNamespace() && r.GetName() == d.GetName() {
			d.Rejected = r.GetReason()
		}
	}
	c.found = append(c.found, d)
}
