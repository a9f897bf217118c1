package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// maxTables is how many tables are kept: of those who ask the same again.
const maxTables = 4

// tables are environments at revisions, made ready to answer. It is safe for
// concurrent use. A large environment takes a second and a copy of it to make, so
// callers take turns.
type tables struct {
	store Store
	turn  chan struct{}
	kept  []*compile.Table // the last that was used first; for who has the turn
}

func newTables(s Store) *tables { return &tables{store: s, turn: make(chan struct{}, 1)} }

// edit is what resources would become.
type edit struct {
	upserts []snapshot.Entry
	removed []resource.Key
}

// with calls use with the table of an environment at a revision, the newest when 0,
// edited as is asked for.
func (t *tables) with(ctx context.Context, environment string, at snapshot.Revision, edit edit, use func(*compile.Table) error) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	position, err := t.store.Position(ctx)
	if err != nil {
		return err
	}
	if at == 0 {
		at = position.Revision
	}
	if at > position.Revision {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no revision %d yet", at))
	}
	position.Revision = at
	table, err := t.of(ctx, environment, position)
	if err == nil && len(edit.upserts)+len(edit.removed) > 0 {
		table, err = evaluate.Table(table, table.Head().Statement, table.Snapshot().Set().With(edit.upserts, edit.removed))
	}
	if err != nil {
		return err
	}
	// Others than the Environment itself may be for any environment there is.
	if _, there := table.Snapshot().Set().Lookup(resource.Key{Kind: resource.KindEnvironment, Name: environment}); !there {
		return errNoEnvironment
	}
	return use(table)
}

// of returns a table that is kept, or makes it.
func (t *tables) of(ctx context.Context, environment string, at snapshot.Position) (*compile.Table, error) {
	var prev *compile.Table
	for i, one := range t.kept {
		switch head := one.Head(); {
		case head.Environment != environment:
		case head.Position() == at:
			copy(t.kept[1:i+1], t.kept[:i])
			t.kept[0] = one
			return one, nil
		case prev == nil:
			prev = one
		}
	}
	versions, err := t.store.EnvironmentState(ctx, environment, at.Revision)
	if err != nil {
		return nil, err
	}
	set, err := setOf(versions)
	if err != nil {
		return nil, err
	}
	table, err := evaluate.Table(prev, snapshot.Statement{Epoch: at.Epoch, Environment: environment, Revision: at.Revision}, set)
	if err != nil {
		return nil, err
	}
	t.kept = append([]*compile.Table{table}, t.kept[:min(len(t.kept), maxTables-1)]...)
	return table, nil
}

var errNoEnvironment = connect.NewError(connect.CodeNotFound, errors.New("there is no such environment at that revision"))

func setOf(versions []storage.Version) (*snapshot.Set, error) {
	entries := make([]snapshot.Entry, 0, len(versions))
	for _, v := range versions {
		e, err := snapshot.NewEntry(v.Document)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", v.Key, err)
		}
		entries = append(entries, e)
	}
	return snapshot.NewSet(entries...), nil
}
