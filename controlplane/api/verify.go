package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
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
)

var (
	errMovedOn = connect.NewError(connect.CodeAborted, errors.New("the proxy has moved on meanwhile: ask again"))
	errEmpty   = connect.NewError(connect.CodeFailedPrecondition, errors.New("the proxy enforces nothing yet, or does not tell"))
)

// Verify implements adminv1connect.FleetServiceHandler.
func (s fleetService) Verify(ctx context.Context, req *connect.Request[adminv1.VerifyRequest]) (*connect.Response[adminv1.VerifyResponse], error) {
	select {
	case s.judging <- struct{}{}:
		defer func() { <-s.judging }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	v := &verification{api: s.API, id: storage.ProxyID(req.Msg.GetId()), result: &adminv1.VerifyResponse{}}
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(v.result), nil
}

// verification compares one proxy with the truth.
type verification struct {
	api    *API
	id     storage.ProxyID
	proxy  *adminv1.Proxy
	truth  *snapshot.Set
	result *adminv1.VerifyResponse
}

func (v *verification) run(ctx context.Context) (err error) {
	if v.proxy, err = v.api.registry.Proxy(ctx, v.id); err != nil {
		return err
	}
	m, err := v.ask(ctx, nil)
	if err != nil {
		return err
	}
	if m.GetRevision() < 1 || len(m.GetBuckets()) != snapshot.BucketCount*len(snapshot.Digest{}) {
		return errEmpty
	}
	v.result.Environment, v.result.Epoch, v.result.Revision = v.proxy.GetEnvironment(), m.GetEpoch(), m.GetRevision()
	if err := v.read(ctx); err != nil {
		return err
	}
	v.result.Documents = int64(v.truth.Len())
	for some := range slices.Chunk(v.differing(m.GetBuckets()), bucketsAtOnce) {
		if v.result.GetCut() {
			break
		}
		if err := v.compare(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// ask returns what the proxy says.
func (v *verification) ask(ctx context.Context, buckets []uint32) (*proxyv1.Inspection, error) {
	waiting, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	m, err := v.api.registry.Inspect(waiting, v.id, buckets)
	switch {
	case errors.Is(err, registry.ErrElsewhere):
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	case err != nil && ctx.Err() == nil:
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("the proxy has not answered within %s: its build may be too old", answerWithin))
	}
	return m, err
}

// read reads the truth: what the database has.
func (v *verification) read(ctx context.Context) error {
	at := snapshot.Revision(v.result.GetRevision())
	versions, err := v.api.store.EnvironmentState(ctx, v.result.GetEnvironment(), at)
	if err != nil {
		return err
	}
	v.truth, err = setOf(versions)
	return err
}

// differing returns the buckets whose digests are not those of the truth.
func (v *verification) differing(digests []byte) (buckets []uint32) {
	for i := range uint32(snapshot.BucketCount) {
		const size = uint32(len(snapshot.Digest{}))
		got, _ := snapshot.ParseDigest(digests[i*size : (i+1)*size])
		if got != v.truth.BucketDigest(int(i)) {
			buckets = append(buckets, i)
		}
	}
	return buckets
}

// compare adds what deviates in some buckets.
func (v *verification) compare(ctx context.Context, buckets []uint32) error {
	m, err := v.ask(ctx, buckets)
	switch {
	case err != nil:
		return err
	case m.GetRevision() != v.result.GetRevision(), m.GetEpoch() != v.result.GetEpoch():
		return errMovedOn
	}
	live := map[resource.Key]snapshot.Digest{}
	for _, d := range m.GetDocuments() {
		key := resource.Key{Kind: resource.Kind(d.GetKey().GetKind()), Namespace: d.GetKey().GetNamespace(), Name: d.GetKey().GetName()}
		live[key], _ = snapshot.ParseDigest(d.GetDigest())
	}
	for b := range v.truth.Buckets() {
		if !slices.Contains(buckets, uint32(b.Index)) { //nolint:gosec // from 0 to 255
			continue
		}
		for _, e := range b.Entries {
			switch got, there := live[e.Key]; {
			case !there && !m.GetCut():
				v.add(e.Key, adminv1.DeviationType_DEVIATION_TYPE_MISSING)
			case there && got != e.Digest:
				v.add(e.Key, adminv1.DeviationType_DEVIATION_TYPE_DIFFERENT)
			}
			delete(live, e.Key)
		}
	}
	for _, d := range m.GetDocuments() { // in their order
		key := resource.Key{Kind: resource.Kind(d.GetKey().GetKind()), Namespace: d.GetKey().GetNamespace(), Name: d.GetKey().GetName()}
		if _, left := live[key]; left {
			v.add(key, adminv1.DeviationType_DEVIATION_TYPE_EXTRA)
		}
	}
	v.result.Cut = v.result.GetCut() || m.GetCut()
	return nil
}

func (v *verification) add(key resource.Key, how adminv1.DeviationType) {
	if len(v.result.GetDeviations()) == maxDeviations {
		v.result.Cut = true
		return
	}
	d := &adminv1.Deviation{Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name, Type: how}
	for _, r := range v.proxy.GetRejects() {
		if r.GetKind() == d.GetKind() && r.GetNamespace() == d.GetNamespace() && r.GetName() == d.GetName() {
			d.Rejected = r.GetReason()
		}
	}
	v.result.Deviations = append(v.result.Deviations, d)
}
