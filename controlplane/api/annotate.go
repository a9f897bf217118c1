package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// maxRevisionLabels bounds the labels of a revision, as those of a resource.
const maxRevisionLabels = 32

func (s configService) AnnotateRevision(ctx context.Context, req *connect.Request[adminv1.AnnotateRevisionRequest]) (*connect.Response[adminv1.AnnotateRevisionResponse], error) {
	m := req.Msg
	entry := storage.AuditEntry{
		At: s.now(), Caller: callerOf(ctx).String(), Action: adminv1connect.ConfigServiceAnnotateRevisionProcedure,
		Allowed: true, Detail: said(m),
	}
	info, err := s.store.Annotate(ctx, snapshot.Revision(m.GetRevision()), entry, func(a storage.Annotation) (storage.Annotation, error) {
		return annotated(a, m)
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no revision %d yet", m.GetRevision()))
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.AnnotateRevisionResponse{Revision: revision(info)}), nil
}

// annotated returns what is said of a revision after a request.
func annotated(a storage.Annotation, m *adminv1.AnnotateRevisionRequest) (storage.Annotation, error) {
	labels := maps.Clone(a.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	for _, name := range m.GetRemoveLabels() {
		delete(labels, name)
	}
	maps.Copy(labels, m.GetLabels())
	if len(labels) > maxRevisionLabels {
		var problems resource.Problems
		problems.Add(resource.Problem{
			Index: -1, Field: "labels", Reason: resource.ReasonTooMany,
			Message: fmt.Sprintf("the revision would have %d labels: more than %d", len(labels), maxRevisionLabels),
		})
		return a, problem(connect.CodeFailedPrecondition, problems)
	}
	a.Labels = labels
	if m.Note != nil {
		a.Note = m.GetNote()
	}
	return a, nil
}

// said is what the audit keeps of a request.
func said(m *adminv1.AnnotateRevisionRequest) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m.GetLabels())) {
		parts = append(parts, name+"="+m.GetLabels()[name])
	}
	for _, name := range m.GetRemoveLabels() {
		parts = append(parts, name+"-")
	}
	if m.Note != nil {
		parts = append(parts, fmt.Sprintf("note %q", m.GetNote()))
	}
	return fmt.Sprintf("revision %d: %s", m.GetRevision(), strings.Join(parts, ", "))
}
