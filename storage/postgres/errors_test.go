package postgres_test

import (
	"errors"
	"testing"

	"github.com/sallyport/sallyport/storage"
)

// Postgres says by a code whether it cannot serve now, or finds fault with what
// was asked.
func TestErrorsOfTheServer(t *testing.T) {
	t.Parallel()
	f := open(t)
	alter(t, f.dsn, `create table trouble (code text)`)
	alter(t, f.dsn, `create function trouble() returns trigger language plpgsql as
		$$ begin raise exception 'trouble' using errcode = (select code from trouble); end $$`)
	alter(t, f.dsn, `create trigger trouble before update on publisher for each row execute function trouble()`)
	for code, away := range map[string]bool{
		"08006": true, // connection failure
		"25006": true, // read-only: no longer the primary
		"53100": true, // disk full
		"53300": true, // too many connections
		"55P03": true, // the lock is held
		"57014": true, // statement timeout
		"57P01": true, // shutdown
		"23505": false,
		"40P01": false, // deadlock: ours
		"42501": false, // permission denied
		"58030": false, // input or output error: someone has to act
		"XX001": false, // damaged data
	} {
		alter(t, f.dsn, `truncate trouble`)
		alter(t, f.dsn, `insert into trouble (code) values ($1)`, code)
		_, err := f.BeginTerm(t.Context(), "a")
		if err == nil || errors.Is(err, storage.ErrUnavailable) != away || errors.Is(err, storage.ErrUnknownOutcome) {
			t.Errorf("code %s: %v, want ErrUnavailable %t", code, err, away)
		}
	}
}
