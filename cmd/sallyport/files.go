package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// located is a resource with the file that it was read from.
type located struct {
	resource.Located
	file string
}

// place returns file:line of what a problem is about.
func (l located) place(p *adminv1.Problem) string {
	line := l.Locate(resource.Problem{Field: p.GetField(), Line: int(p.GetLine()), Column: int(p.GetColumn())})
	return fmt.Sprintf("%s:%d", l.file, line)
}

// readResources reads a file, every .yaml, .yml and .json file below a folder,
// or standard input for "-". All that is wrong with the form of the files is
// one error, a line for each problem.
func readResources(paths []string, stdin io.Reader) ([]located, error) {
	var all []located
	var errs []error
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			found, err := readFile(file, stdin)
			errs = append(errs, err)
			all = append(all, found...)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no resource in %s", strings.Join(paths, ", "))
	}
	return all, nil
}

func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)) {
			files = append(files, p)
		}
		return err
	})
	return files, err
}

func readFile(file string, stdin io.Reader) ([]located, error) {
	name, in := file, stdin
	if file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, resource.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	found, problems := resource.ParseYAML(data)
	if problems.Total > 0 {
		return nil, malformed(name, problems)
	}
	all := make([]located, len(found))
	for i, l := range found {
		all[i] = located{Located: l, file: name}
	}
	return all, nil
}

func malformed(name string, problems resource.Problems) error {
	var errs []error
	for _, p := range problems.Kept {
		place := name
		if p.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", name, p.Line, p.Column)
		}
		text := p.Message
		if p.Field != "" {
			text = p.Field + ": " + text
		}
		errs = append(errs, fmt.Errorf("%s: %s (%s)", place, text, p.Reason))
	}
	if more := problems.Total - len(problems.Kept); more > 0 {
		errs = append(errs, fmt.Errorf("%s: and %d more problems", name, more))
	}
	return errors.Join(errs...)
}
