package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// defaultVersions is how many versions of a resource a page has.
const defaultVersions = 50

// historic refuses a kind that has no history, or that there is not.
func historic(field, kind string) error {
	if err := checkKind(field, kind); err != nil {
		return err
	}
	if resource.Kind(kind).Immediate() {
		return unfit(field, kind+" makes no revision: only what is in force is known of it")
	}
	return nil
}

func (s configService) ListVersions(ctx context.Context, req *connect.Request[adminv1.ListVersionsRequest]) (*connect.Response[adminv1.ListVersionsResponse], error) {
	if err := historic("key.kind", req.Msg.GetKey().GetKind()); err != nil {
		return nil, err
	}
	key, limit := keyOf(req.Msg.GetKey()), pageSize(req.Msg.GetPageSize(), defaultVersions)
	var before snapshot.Revision
	if token := req.Msg.GetPageToken(); token != "" {
		var at string
		if err := decodeToken(token, &at); err != nil {
			return nil, err
		}
		if err := parseRevision(at, &before); err != nil {
			return nil, err
		}
	}
	past, err := s.store.History(ctx, key, before, storage.Page{Limit: limit + 1, Bytes: maxPageBytes})
	switch {
	case err != nil:
		return nil, err
	case len(past) == 0 && before == 0:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there never was a %s", key))
	}
	res := &adminv1.ListVersionsResponse{}
	fit := fitting(len(past), limit, func(i int) int { return len(past[i].Document) })
	begins, err := s.store.Begins(ctx)
	if err != nil {
		return nil, err
	}
	res.Versions, err = presented(fit, func(i int) (*adminv1.ResourceVersion, error) {
		return version(past[i], past[i+1:], begins)
	})
	if err != nil {
		return nil, err
	}
	if fit = len(res.GetVersions()); fit < len(past) {
		res.NextPageToken = encodeToken(formatRevision(past[fit-1].Revision))
	}
	return connect.NewResponse(res), nil
}

// presented returns the first of n messages, as many as a page takes: fields that
// differ may take more than the documents that they are of.
func presented[M proto.Message](n int, present func(i int) (M, error)) ([]M, error) {
	all, bytes := make([]M, 0, n), 0
	for i := range n {
		one, err := present(i)
		if err != nil {
			return nil, err
		}
		if bytes += proto.Size(one); i > 0 && bytes > maxPageBytes {
			break
		}
		all = append(all, one)
	}
	return all, nil
}

// version presents a version by what it changed of the one before, if that is among
// those that are older, or there was none. It may have been forgotten when it was
// superseded by where history begins.
func version(p storage.Past, older []storage.Past, begins snapshot.Revision) (*adminv1.ResourceVersion, error) {
	v := &adminv1.ResourceVersion{
		Revision: int64(p.Revision), CommittedAt: timestamppb.New(p.CommittedAt), Caller: p.Caller, Message: p.Message,
	}
	if !p.Deleted {
		v.Digest = p.Digest[:]
	}
	before := storage.Version{Deleted: true}
	switch {
	case len(older) > 0 && older[0].SupersededBy == p.Revision:
		before = older[0].Version
	case p.Deleted || len(older) > 0 || p.Revision <= begins && begins > 1:
		return v, nil
	}
	d, err := difference(storage.Difference{Key: p.Key, Before: before, After: p.Version})
	v.Type, v.Fields, v.MoreFields = d.GetType(), d.GetFields(), d.GetMoreFields()
	return v, err
}

func (s configService) Diff(ctx context.Context, req *connect.Request[adminv1.DiffRequest]) (*connect.Response[adminv1.DiffResponse], error) {
	span, err := s.span(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	limit := span.Page.Limit - 1
	differences, err := s.store.Differences(ctx, span)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no revision %d yet", max(span.From, span.To)))
	case err != nil:
		return nil, err
	}
	res := &adminv1.DiffResponse{From: int64(span.From), To: int64(span.To)}
	fit := fitting(len(differences), limit, func(i int) int {
		return len(differences[i].Before.Document) + len(differences[i].After.Document)
	})
	res.Resources, err = presented(fit, func(i int) (*adminv1.ResourceDiff, error) { return difference(differences[i]) })
	if err != nil {
		return nil, err
	}
	if fit = len(res.GetResources()); fit < len(differences) {
		last := differences[fit-1].Key
		res.NextPageToken = encodeToken(formatRevision(span.To), string(last.Kind), last.Namespace, last.Name)
	}
	return connect.NewResponse(res), nil
}

// span returns what a request compares, and one more than its page holds.
func (s configService) span(ctx context.Context, m *adminv1.DiffRequest) (storage.Span, error) {
	span := storage.Span{
		To: snapshot.Revision(m.GetTo()), Kind: resource.Kind(m.GetKind()),
		Page: storage.Page{Limit: pageSize(m.GetPageSize(), defaultPage) + 1, Bytes: maxPageBytes},
	}
	if m.GetKind() != "" {
		if err := historic("kind", m.GetKind()); err != nil {
			return span, err
		}
	}
	if m.GetNamespace() != "" {
		span.Namespace = &m.Namespace
	}
	if token := m.GetPageToken(); token != "" {
		var to string
		if err := decodeToken(token, &to, (*string)(&span.After.Kind), &span.After.Namespace, &span.After.Name); err != nil {
			return span, err
		}
		if err := parseRevision(to, &span.To); err != nil {
			return span, err
		}
	}
	if span.To == 0 {
		newest, err := s.store.Position(ctx)
		if err != nil {
			return span, err
		}
		span.To = newest.Revision
	}
	span.From = max(0, span.To-1)
	if m.From != nil {
		span.From = snapshot.Revision(m.GetFrom())
	}
	return span, nil
}

// difference presents in what a resource differs.
func difference(d storage.Difference) (*adminv1.ResourceDiff, error) {
	one := &adminv1.ResourceDiff{
		Key:          &adminv1.Key{Kind: string(d.Key.Kind), Namespace: d.Key.Namespace, Name: d.Key.Name},
		FromRevision: revisionOf(d.Before), ToRevision: revisionOf(d.After),
	}
	switch {
	case d.Before.Deleted:
		one.Type = adminv1.ChangeType_CHANGE_TYPE_CREATED
	case d.After.Deleted:
		one.Type = adminv1.ChangeType_CHANGE_TYPE_DELETED
	default:
		one.Type = adminv1.ChangeType_CHANGE_TYPE_REPLACED
	}
	fields, more, err := resource.Diff(d.Before.Document, d.After.Document)
	one.Fields, one.MoreFields = fields, int32(min(more, 1<<30)) //nolint:gosec // bounded
	if err != nil {
		return nil, fmt.Errorf("compare %s: %w", d.Key, err)
	}
	return one, nil
}

// revisionOf returns what gave a version its content; 0 when it has none.
func revisionOf(v storage.Version) int64 {
	if v.Deleted {
		return 0
	}
	return int64(v.Revision)
}
