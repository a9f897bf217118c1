package api

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// published adds to a status how far publishing is, from what the database has: this
// replica need not be the one that publishes. Of the environments it tells of those
// that are named, or of all when none is.
func (s fleetService) published(ctx context.Context, res *adminv1.StatusResponse, named []string) error {
	cursors, err := s.store.Cursors(ctx)
	if err != nil {
		return err
	}
	newest, err := s.newest(ctx, named) // after the cursors, which are never ahead of it
	if err != nil {
		return err
	}
	troubles, err := s.troubles(ctx)
	if err != nil {
		return err
	}
	lags, err := s.store.Lags(ctx, s.targetNames(cursors, troubles))
	if err != nil {
		return err
	}
	for _, l := range lags {
		t := &adminv1.TargetStatus{Name: l.Target, Lacks: int32(min(l.Revisions, 1<<31-1)), Trouble: troubles[l.Target]} //nolint:gosec // bounded
		if !l.Since.IsZero() {
			t.LacksSince = timestamppb.New(l.Since)
		}
		for _, name := range slices.Sorted(maps.Keys(newest)) {
			t.Published = append(t.Published, &adminv1.PublishedRevision{
				Environment: name, Revision: int64(cursors[l.Target][name]), Newest: int64(newest[name]),
			})
		}
		res.Targets = append(res.Targets, t)
	}
	res.Trouble = troubles[everywhere]
	return nil
}

// everywhere is the target of what keeps the publisher from all of them.
const everywhere = ""

// troubles returns what is wrong with each target. Of several it is what began first.
func (s fleetService) troubles(ctx context.Context) (map[string]*adminv1.PublishingTrouble, error) {
	all, err := s.store.Troubles(ctx)
	first := map[string]*adminv1.PublishingTrouble{}
	for _, t := range all {
		if first[t.Target] == nil {
			first[t.Target] = &adminv1.PublishingTrouble{Since: timestamppb.New(t.Since), Error: t.Error}
		}
	}
	return first, err
}

// targetNames returns the targets that this replica's settings name, and those that the
// publisher knows, each once and ordered.
func (s fleetService) targetNames(cursors map[string]map[string]snapshot.Revision, troubles map[string]*adminv1.PublishingTrouble) []string {
	names := slices.Concat(s.targets, slices.Collect(maps.Keys(cursors)), slices.Collect(maps.Keys(troubles)))
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == everywhere })
}

// newest returns the newest revisions of environments, and of the security lane.
func (s fleetService) newest(ctx context.Context, named []string) (map[string]snapshot.Revision, error) {
	position, err := s.store.Position(ctx)
	if err != nil {
		return nil, err
	}
	at, err := s.store.EnvironmentsAt(ctx, position.Revision)
	if err != nil {
		return nil, err
	}
	if len(named) > 0 {
		maps.DeleteFunc(at, func(name string, _ snapshot.Revision) bool { return !slices.Contains(named, name) })
	}
	position, err = s.security.store.Position(ctx)
	at[snapshot.SecurityLane] = position.Revision
	return at, err
}
