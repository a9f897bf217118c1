package main

import (
	"bytes"
	"encoding/json"
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
	file   string
	before int // lines of the file before the part that it was read from
}

// place returns file:line of what a problem is about.
func (l located) place(p *adminv1.Problem) string {
	line := l.Locate(resource.Problem{Field: p.GetField(), Line: int(p.GetLine()), Column: int(p.GetColumn())})
	return fmt.Sprintf("%s:%d", l.file, l.before+line)
}

func (l located) key() resource.Key {
	m := l.Resource.GetMetadata()
	return resource.Key{Kind: resource.Kind(l.Resource.GetKind()), Namespace: m.GetNamespace(), Name: m.GetName()}
}

// readResources reads a file, every .yaml, .yml and .json file below a folder but
// those of tests,
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
		return nil, fmt.Errorf("there is no resource in %s", list(paths))
	}
	return all, nil
}

// expand returns the files that a path stands for. In a folder, what begins
// with a dot is no concern of ours.
func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	var files []string
	root := path + string(filepath.Separator) // of a link, what it leads to
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == root:
		case strings.HasPrefix(d.Name(), ".") && d.IsDir():
			return fs.SkipDir
		case !strings.HasPrefix(d.Name(), ".") && !d.IsDir() && !isTest(d.Name()) && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)):
			files = append(files, p)
		}
		return nil
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
	var all []located
	var errs []error
	for _, part := range parts(data) {
		found, problems := resource.ParseYAML(part.text)
		errs = append(errs, malformed(name, part.before, problems))
		for _, l := range found {
			all = append(all, located{Located: l, file: name, before: part.before})
		}
	}
	return all, errors.Join(errs...)
}

// part is a part of a file, and how many lines come before it.
type part struct {
	text   []byte
	before int
}

// parts takes apart what "get -o json" prints: JSON objects one after the
// other. Anything else is one part.
func parts(data []byte) []part {
	whole := []part{{text: data}}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) || len(data) > resource.MaxFile {
		return whole
	}
	var all []part
	d := json.NewDecoder(bytes.NewReader(data))
	for begin, lines := int64(0), 0; ; {
		var one json.RawMessage
		err := d.Decode(&one)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil || len(all) == resource.MaxResources {
			return whole
		}
		text := data[begin:d.InputOffset()]
		all = append(all, part{text: text, before: lines})
		begin, lines = d.InputOffset(), lines+bytes.Count(text, []byte("\n"))
	}
}

func malformed(name string, before int, problems resource.Problems) error {
	var errs []error
	for _, p := range problems.Kept {
		place := name
		if p.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", name, before+p.Line, p.Column)
		}
		text := p.Message
		if p.Field != "" {
			text = p.Field + ": " + text
		}
		errs = append(errs, fmt.Errorf("%s: %s (%s)", place, text, p.Reason))
	}
	if more := problems.Total - len(problems.Kept); more > 0 {
		errs = append(errs, fmt.Errorf("%s: and %s", name, count(more, "more problem")))
	}
	return errors.Join(errs...)
}
