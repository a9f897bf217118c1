package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

const (
	defaultRevisions = 50
	// maxPageBytes bounds the documents of a page, so that what is made of them
	// stays below what clients take: 4 MiB, for gRPC's.
	maxPageBytes = 1 << 20
)

// configService implements adminv1connect.ConfigServiceHandler.
type configService struct{ *API }

var _ adminv1connect.ConfigServiceHandler = configService{}

func (s configService) Get(ctx context.Context, req *connect.Request[adminv1.GetRequest]) (*connect.Response[adminv1.GetResponse], error) {
	if err := checkKind("key.kind", req.Msg.GetKey().GetKind()); err != nil {
		return nil, err
	}
	key, at := keyOf(req.Msg.GetKey()), req.Msg.GetRevision()
	l, err := s.laneFor(req.Msg.GetKey().GetKind(), at)
	if err != nil {
		return nil, err
	}
	v, err := l.store.Resource(ctx, key, snapshot.Revision(at))
	switch {
	case errors.Is(err, storage.ErrNotFound) && at > 0:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no %s at revision %d", key, at))
	case errors.Is(err, storage.ErrNotFound):
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no %s", key))
	case err != nil:
		return nil, err
	}
	switch gone, err := expired(v, s.now()); {
	case err != nil:
		return nil, err
	case gone:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%s has expired", key))
	}
	stored, err := present(v)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetResponse{Resource: stored}), nil
}

func (s configService) List(ctx context.Context, req *connect.Request[adminv1.ListRequest]) (*connect.Response[adminv1.ListResponse], error) {
	m := req.Msg
	if m.GetKind() != "" {
		if err := checkKind("kind", m.GetKind()); err != nil {
			return nil, err
		}
	}
	l, err := s.laneFor(m.GetKind(), m.GetRevision())
	if err != nil {
		return nil, err
	}
	limit := pageSize(m.GetPageSize(), defaultPage)
	filter := storage.Filter{Kind: resource.Kind(m.GetKind()), At: snapshot.Revision(m.GetRevision()), Limit: limit + 1, Bytes: maxPageBytes}
	if m.GetNamespace() != "" {
		filter.Namespace = &m.Namespace
	}
	if token := m.GetPageToken(); token != "" {
		var at string
		if err := decodeToken(token, &at, (*string)(&filter.After.Kind), &filter.After.Namespace, &filter.After.Name); err != nil {
			return nil, err
		}
		if err := parseRevision(at, &filter.At); err != nil {
			return nil, err
		}
	}
	versions, at, err := l.store.List(ctx, filter)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no revision %d yet", filter.At))
	case err != nil:
		return nil, err
	}
	res := &adminv1.ListResponse{Revision: int64(at)}
	if fit := fitting(len(versions), limit, func(i int) int { return len(versions[i].Document) }); fit < len(versions) {
		versions = versions[:fit]
		last := versions[fit-1].Key
		res.NextPageToken = encodeToken(formatRevision(at), string(last.Kind), last.Namespace, last.Name)
	}
	if versions, err = effective(versions, s.now()); err != nil {
		return nil, err
	}
	for _, v := range versions {
		stored, err := present(v)
		if err != nil {
			return nil, err
		}
		res.Resources = append(res.Resources, stored)
	}
	return connect.NewResponse(res), nil
}

// fitting returns how many of n, of so many bytes each, a page takes.
func fitting(n, limit int, size func(int) int) int {
	bytes := 0
	for i := range n {
		if bytes += size(i); i == limit || i > 0 && bytes > maxPageBytes {
			return i
		}
	}
	return n
}

func (s configService) ListRevisions(ctx context.Context, req *connect.Request[adminv1.ListRevisionsRequest]) (*connect.Response[adminv1.ListRevisionsResponse], error) {
	limit := pageSize(req.Msg.GetPageSize(), defaultRevisions)
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
	var revisions []storage.RevisionInfo
	var err error
	if labels := req.Msg.GetLabels(); len(labels) > 0 {
		revisions, err = s.store.Labelled(ctx, labels, before, limit+1)
	} else {
		revisions, err = s.store.Revisions(ctx, before, limit+1)
	}
	if err != nil {
		return nil, err
	}
	res := &adminv1.ListRevisionsResponse{}
	if len(revisions) > limit {
		revisions = revisions[:limit]
		res.NextPageToken = encodeToken(formatRevision(revisions[limit-1].Revision))
	}
	for _, r := range revisions {
		res.Revisions = append(res.Revisions, revision(r))
	}
	return connect.NewResponse(res), nil
}

func revision(r storage.RevisionInfo) *adminv1.Revision {
	return &adminv1.Revision{
		Revision: int64(r.Revision), CommittedAt: timestamppb.New(r.CommittedAt), Caller: r.Caller,
		Message: r.Message, Changes: int32(r.Changes), Environments: r.Environments, //nolint:gosec // bounded by a request
		Labels: r.Labels, Note: r.Note, Forgotten: r.Forgotten,
	}
}

func keyOf(k *adminv1.Key) resource.Key {
	return resource.Key{Kind: resource.Kind(k.GetKind()), Namespace: k.GetNamespace(), Name: k.GetName()}
}

func present(v storage.Version) (*adminv1.StoredResource, error) {
	r, err := resource.Present(v.Document)
	if err != nil {
		return nil, fmt.Errorf("present %s: %w", v.Key, err)
	}
	return &adminv1.StoredResource{Resource: r, Revision: int64(v.Revision), Digest: v.Digest[:]}, nil
}

// checkKind refuses a kind that there is not: it would only ever find nothing.
func checkKind(field, kind string) error {
	kinds := resource.Kinds()
	if slices.Contains(kinds, resource.Kind(kind)) {
		return nil
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	var problems resource.Problems
	problems.Add(resource.Problem{
		Field: field, Reason: resource.ReasonUnknownKind, Message: fmt.Sprintf("%q is none of %s", kind, strings.Join(names, ", ")),
	})
	return problem(connect.CodeInvalidArgument, problems)
}
