package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is where goose keeps which migrations ran.
const versionTable = "schema_version"

// ErrSchema says that the database has another schema than this build needs.
var ErrSchema = errors.New("the database has another schema than this build needs")

// Migrate brings the database to the schema of this build. Several may try at
// once: an advisory lock lets one do it. ErrSchema if the schema is newer.
func Migrate(ctx context.Context, dsn string) (err error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return fmt.Errorf("connection string: %w", redacted(err))
	}
	config.ConnectTimeout = connectTimeout
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := migrator(db)
	if err != nil {
		return err
	}
	current, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", classify(err))
	}
	if newest := newestMigration(provider); current > newest {
		return fmt.Errorf("%w: it is at version %d, this build knows %d", ErrSchema, current, newest)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", classify(err))
	}
	return nil
}

func migrator(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, err
	}
	store, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, files, goose.WithSessionLocker(locker), goose.WithStore(store))
}

func newestMigration(p *goose.Provider) int64 {
	sources := p.ListSources()
	return sources[len(sources)-1].Version
}

// CheckSchema returns ErrSchema unless the database has exactly the schema of
// this build.
func (s *Store) CheckSchema(ctx context.Context) error {
	db := stdlib.OpenDBFromPool(s.pool)
	defer func() { _ = db.Close() }() // the pool stays open
	provider, err := migrator(db)
	if err != nil {
		return err
	}
	var there bool
	if err := s.pool.QueryRow(ctx, "select to_regclass($1) is not null", versionTable).Scan(&there); err != nil {
		return classify(err)
	}
	newest, current := newestMigration(provider), int64(0)
	if there {
		if err := s.pool.QueryRow(ctx, "select coalesce(max(version_id), 0) from "+versionTable+" where is_applied").Scan(&current); err != nil {
			return classify(err)
		}
	}
	switch {
	case current < newest:
		return fmt.Errorf("%w: it is at version %d, and version %d is needed: run sallyport-controlplane migrate", ErrSchema, current, newest)
	case current > newest:
		return fmt.Errorf("%w: it is at version %d, this build knows %d", ErrSchema, current, newest)
	}
	return nil
}
