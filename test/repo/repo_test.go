package repo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	root      = "../.."
	module    = "github.com/sallyport/sallyport"
	generated = "./proto/gen/..."
)

// A listed is what these tests read of "go list -json" about one package.
type listed struct {
	ImportPath, Dir, Name, Doc string
	Standard                   bool
	GoFiles, Imports, Deps     []string
}

// packages returns the module's packages and all that they depend on.
var packages = sync.OnceValues(func() ([]listed, error) {
	out, err := run("go", "list", "-pgo=off", "-deps", "-json=ImportPath,Dir,Name,Doc,Standard,GoFiles,Imports,Deps", "./...")
	if err != nil {
		return nil, err
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("decode the output of go list: %w", err)
		}
		all = append(all, p)
	}
})

// ours returns the packages that are written by hand.
func ours(t *testing.T) []listed {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	var own []listed
	for _, p := range all {
		if matches("./...", p.ImportPath) && !matches(generated, p.ImportPath) {
			own = append(own, p)
		}
	}
	if len(own) == 0 {
		t.Fatalf("go list names no package of %s", module)
	}
	return own
}

// files returns the paths, relative to the root, of our files with one of the
// endings. Hidden directories, bin and generated code are left out.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && rel != "."
		if d.IsDir() && (hidden || rel == "bin" || rel == filepath.Join("proto", "gen")) {
			return fs.SkipDir
		}
		for _, e := range endings {
			if !d.IsDir() && strings.HasSuffix(d.Name(), e) {
				found = append(found, rel)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no file ends in %q", endings)
	}
	return found
}

// run returns what a program prints when run at the root of the repository.
func run(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, &stderr)
	}
	return out, nil
}
