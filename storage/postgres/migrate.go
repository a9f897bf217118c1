package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/sallyport/sallyport/storage"
)

// ErrSchema says that the schema of the database is not the one of this build.
var ErrSchema = errors.New("the schema of the database does not fit this build")

// versionTable is where goose keeps which migrations were applied.
const versionTable = "schema_version"

// schemaFloor asks from which version on builds can use the database.
const schemaFloor = `select version from schema_floor`

//go:embed migrations/*.sql
var embedded embed.FS

// Migrate brings the database to the schema of this build, each migration in a
// transaction. Of several callers one works and the others wait. ErrSchema if
// the database is ahead of this build, and not for its use any more. Of one that is
// ahead and is, nothing is changed.
func Migrate(ctx context.Context, dsn string) (err error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errDSN
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = connectBound
	}
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := migrate(ctx, db); err != nil {
		return fmt.Errorf("migrate the database: %w", meaning(ctx, err))
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	migrations, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 600)) // tries each second
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations,
		goose.WithTableName(versionTable),
		goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	// On a schema that is ahead, nothing is pending.
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	at, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	var floor int64
	if err := db.QueryRowContext(ctx, schemaFloor).Scan(&floor); err != nil {
		return err
	}
	return fits(at, floor)
}

// newest returns the version of the last migration.
func newest() (int64, error) {
	files, err := fs.Glob(embedded, "migrations/*.sql")
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("find migrations: %w", err)
	}
	return goose.NumericComponent(files[len(files)-1]) // they are sorted
}

// fits returns ErrSchema unless a database at the version is for this build: of
// later ones, those whose floor is not above what this build knows. A floor of zero
// is that of a database which has none.
func fits(at, floor int64) error {
	want, err := newest()
	switch {
	case err != nil:
		return err
	case at > want && (floor == 0 || floor > want):
		return fmt.Errorf("%w: it has version %d, for builds that know version %d, and this one knows %d: start a newer build", ErrSchema, at, floor, want)
	case at < want:
		return fmt.Errorf("%w: it has version %d, which is older than %d: migrate it", ErrSchema, at, want)
	}
	return nil
}

// CheckSchema returns ErrSchema unless the schema is the one of this build or a later
// one that this build can still use, so that a replica of before may restart while
// others are new, and storage.ErrUnavailable if the database cannot be reached.
func (s *Store) CheckSchema(ctx context.Context) error {
	var at, floor int64
	err := s.do(ctx, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, `select coalesce(max(version_id), 0) from `+versionTable+` where is_applied`).Scan(&at)
		if err == nil {
			err = s.pool.QueryRow(ctx, schemaFloor).Scan(&floor)
		}
		if noTable(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	return fits(at, floor)
}

func noTable(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "42P01"
}

// Unreachable reports whether err says that the database cannot be reached now.
func Unreachable(err error) bool { return errors.Is(err, storage.ErrUnavailable) }
