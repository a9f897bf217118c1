package postgres_test

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// firstExpanding is the first migration that replicas of before had to be able to
// live with.
const firstExpanding = 7

var (
	comment   = regexp.MustCompile(`(?m)--.*$`)
	newTable  = regexp.MustCompile(`^create table ([a-z_]+) \(`)
	newIndex  = regexp.MustCompile(`^create index [a-z_]+ on [a-z_]+ `)
	newUnique = regexp.MustCompile(`^create unique index [a-z_]+ on ([a-z_]+) `)
	newRows   = regexp.MustCompile(`^insert into ([a-z_]+) `)
	newColumn = regexp.MustCompile(`^alter table [a-z_]+ add column [a-z_]+ [^,]+$`)
	aDefault  = regexp.MustCompile(`^alter table [a-z_]+ alter column [a-z_]+ set default [^,]+$`)
	theFloor  = regexp.MustCompile(`^update schema_floor set version = [0-9]+$`)
	// Of a column that is new, what writers that do not know it would run against.
	demanding = regexp.MustCompile(` (unique|primary key|references|check|generated)\b`)
)

// takesAway returns the statements of a migration that a build of before might not
// live with: all but those that are known to add something.
func takesAway(migration string) (statements []string, raises bool) {
	made := map[string]bool{}
	for statement := range strings.SplitSeq(comment.ReplaceAllString(migration, ""), ";") {
		statement = strings.Join(strings.Fields(statement), " ")
		table := func(pattern *regexp.Regexp) string {
			if m := pattern.FindStringSubmatch(statement); m != nil {
				return m[1]
			}
			return ""
		}
		if name := table(newTable); name != "" {
			made[name] = true
			continue
		}
		switch {
		case statement == "", newIndex.MatchString(statement), aDefault.MatchString(statement):
		case made[table(newUnique)], made[table(newRows)]:
		case theFloor.MatchString(statement):
			raises = true
		case newColumn.MatchString(statement) && !demanding.MatchString(statement) &&
			(!strings.Contains(statement, "not null") || strings.Contains(statement, " default ")):
		default:
			statements = append(statements, statement)
		}
	}
	return statements, raises
}

// Replicas of the release before run on what a migration makes: it only adds, or it
// raises the floor below which builds are refused.
func TestMigrationsExpandFirst(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(os.DirFS("migrations"), "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			t.Fatal(err)
		}
		if version < firstExpanding {
			continue
		}
		b, err := os.ReadFile("migrations/" + file)
		if err != nil {
			t.Fatal(err)
		}
		read++
		if taken, raises := takesAway(string(b)); len(taken) > 0 && !raises {
			t.Errorf("%s does not raise schema_floor, and builds of before may not live with %q", file, taken)
		}
	}
	if read == 0 {
		t.Error("no migrations were read")
	}
}

func TestWhatTakesAway(t *testing.T) {
	t.Parallel()
	for statement, want := range map[string]bool{
		`create table a (b int not null, constraint a_pkey primary key (b))`: false,
		`create table a (b int); create unique index c on a (b)`:             false,
		`create table a (b int); insert into a (b) values (1)`:               false,
		`create index a on revision (b) where c is not null`:                 false,
		`alter table revision add column a uuid`:                             false,
		`alter table revision add column a bytea not null default ''`:        false,
		`alter table revision alter column a set default now()`:              false,
		"-- drop table revision;\n\n":                                        false,

		`alter table revision add column a uuid not null`:                  true,
		`alter table revision add column a uuid unique`:                    true,
		`alter table revision add column a int check (a > 0)`:              true,
		`alter table revision add column a uuid, drop column caller`:       true,
		`alter table revision drop column caller`:                          true,
		`alter table revision rename column caller to a`:                   true,
		`alter table revision rename to a`:                                 true,
		`alter table revision alter column caller type bytea`:              true,
		`alter table revision alter column caller set not null`:            true,
		`alter table revision alter column caller drop default`:            true,
		`alter table revision add constraint a check (changes > 0)`:        true,
		`create unique index a on revision (caller)`:                       true,
		`drop table revision`:                                              true,
		`drop index resource_version_superseded`:                           true,
		`delete from revision`:                                             true,
		`update revision set caller = ''`:                                  true,
		`insert into revision (revision) values (1)`:                       true,
		`create trigger a before insert on revision execute procedure b()`: true,
	} {
		if taken, _ := takesAway(statement); (len(taken) > 0) != want {
			t.Errorf("%s: takes away %q", statement, taken)
		}
	}
	if _, raises := takesAway("drop table a;\nupdate schema_floor set version = 12;\n"); !raises {
		t.Error("the raised floor was not seen")
	}
}

// widen makes what a later release might: a schema ahead of this build, in which every
// table has a column more.
func widen(t *testing.T, dsn string) {
	t.Helper()
	rows, err := session(t, dsn).Query(t.Context(), `select format('alter table %I add column later text not null default ''new''', c.relname)
		from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition`)
	if err != nil {
		t.Fatal(err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(statements) < 10 {
		t.Fatalf("%d tables (%v)", len(statements), err)
	}
	for _, statement := range statements {
		alter(t, dsn, statement)
	}
	alter(t, dsn, `insert into schema_version (version_id, is_applied) values (9999, true)`)
}

// A replica of before starts on the schema of the next release, beside one that is
// new, and both commit and publish.
func TestBuildOfBeforeGoesOnWithALaterSchema(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t, postgres.Migrate)
	f := fleet{connect(t, dsn), dsn}
	f.apply(t, environment("aws"))
	widen(t, dsn)
	if err := postgres.Migrate(t.Context(), dsn); err != nil {
		t.Errorf("Migrate, where nothing is to be done: %v", err)
	}
	again := fleet{connect(t, dsn), dsn}
	if err := again.CheckSchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	again.apply(t, environment("gcp"))
	f.apply(t, environment("azure"))
	versions, at, err := again.Since(t.Context(), 0)
	if err != nil || at != 3 {
		t.Errorf("the fleet is at %d (%v)", at, err)
	}
	var names []string
	for _, v := range versions {
		names = append(names, fmt.Sprint(v.Key.Name))
	}
	if slices.Sort(names); !slices.Equal(names, []string{"aws", "azure", "gcp"}) {
		t.Errorf("the fleet holds %v", names)
	}
	if c := again.cut(t, revocation("a", "a")); c.Revision != 2 {
		t.Errorf("the next sequence is %d", c.Revision)
	}
	if heads, err := f.Heads(t.Context()); err != nil || len(heads) != 4 {
		t.Errorf("the heads are %s(%v)", showHeads(heads...), err)
	}
}
