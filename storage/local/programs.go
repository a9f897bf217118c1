package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// oldestPostgres is the first major version that Sallyport supports.
const oldestPostgres = 15

// usualPlaces is where packages put initdb and postgres, which most keep off
// the PATH.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // the project's own RPMs
	"/usr/libexec/postgresql*",                           // Alpine
	"/usr/local/pgsql/bin",                               // built from source
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

var errNoPostgres = errors.New("no PostgreSQL 15 or newer on this machine; install it, e.g. sudo apt-get install postgresql")

// findPostgres returns the directory of initdb and postgres: the one on the
// PATH when it is new enough, else the newest in the usual places.
func findPostgres() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(initdb); err == nil {
			if version, err := postgresVersion(filepath.Dir(real)); err == nil && version >= oldestPostgres {
				return filepath.Dir(real), nil
			}
		}
	}
	best, newest := "", oldestPostgres-1
	for _, pattern := range usualPlaces {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for postgres in %s: %w", pattern, err)
		}
		for _, dir := range dirs {
			if version, err := postgresVersion(dir); err == nil && version > newest {
				best, newest = dir, version
			}
		}
	}
	if best == "" {
		return "", errNoPostgres
	}
	return best, nil
}

var versionText = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// postgresVersion is the major version of the programs in dir. It is an error
// when one of the two is missing.
func postgresVersion(dir string) (int, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask postgres in %s for its version: %w", dir, err)
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("postgres in %s has no version we know: %.80q", dir, out)
	}
	return strconv.Atoi(string(m[1]))
}
