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
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// trial is a run of the tests of a folder.
type trial struct {
	environment string
	verbose     bool
	out         output

	located   []located
	resources []resource.Parsed // the same
	tests     []evaluate.Test
}

func newTest() *cobra.Command {
	var t trial
	cmd := &cobra.Command{
		Use:   "test DIR",
		Short: "Run the tests beside the resources of a folder, without a control plane",
		Long: `Run the tests beside the resources of a folder, without a control plane.

Tests are in files whose names end in _test.yaml. Everything else in the folder is
resources, as apply takes them; apply leaves tests out. What a control plane would
refuse that has nothing else is refused as well: a reference to what is not in the
folder, two routes for the same requests.`,
		Example: `  sallyport test policies/
  sallyport test -v -e aws-prod policies/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			if err := t.read(args[0]); err != nil {
				return err
			}
			if err := t.admit(now); err != nil {
				return err
			}
			results, err := t.run(now)
			if err != nil {
				return err
			}
			if done, err := t.out.message(cmd.OutOrStdout(), &adminv1.RunTestsResponse{Results: results}); done {
				return errors.Join(err, failed(results))
			}
			if _, err := io.WriteString(cmd.OutOrStdout(), report(results, t.verbose)); err != nil {
				return err
			}
			return failed(results)
		},
	}
	cmd.Flags().StringVarP(&t.environment, "environment", "e", "", "where tests run that name no environment; the one of the folder, if there is one only")
	cmd.Flags().BoolVarP(&t.verbose, "verbose", "v", false, "show the tests that pass as well")
	t.out.flag(cmd)
	return cmd
}

// read reads the tests and the resources of a folder.
func (t *trial) read(folder string) error {
	located, err := readResources([]string{folder}, nil)
	if err != nil {
		return err
	}
	t.located = located
	var errs []error
	seen := make(map[resource.Key]string)
	for _, l := range located {
		p, problems := resource.Decode(l.Resource)
		errs = append(errs, misplaced(l, problems))
		if first, twice := seen[p.Key]; twice && problems.Total == 0 {
			errs = append(errs, fmt.Errorf("%s:%d: %s is in %s already", l.file, l.before+l.Line, p.Key, first))
		}
		seen[p.Key] = l.file
		t.resources = append(t.resources, p)
	}
	files, err := testFiles(folder)
	errs = append(errs, err)
	for _, file := range files {
		tests, err := readTests(file)
		errs = append(errs, err)
		t.tests = append(t.tests, tests...)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(t.tests) == 0 {
		return fmt.Errorf("there is no test in %s: tests are in files that end in _test.yaml", folder)
	}
	return nil
}

// admit says what the control plane would refuse if the resources were all that it
// had. What is in force at once is looked at apart, as it is applied.
func (t *trial) admit(now time.Time) error {
	var errs []error
	for _, immediate := range []bool{false, true} {
		var lane []located
		var request []*adminv1.Resource
		for i, l := range t.located {
			if t.resources[i].Key.Kind.Immediate() == immediate {
				lane, request = append(lane, l), append(request, l.Resource)
			}
		}
		var nothing admission.State
		_, problems := nothing.Plan(admission.NewApply(request, now))
		for _, p := range problems.Kept {
			errs = append(errs, misplaced(lane[p.Index], resource.Problems{Kept: []resource.Problem{p}}))
		}
		if more := problems.Total - len(problems.Kept); more > 0 {
			errs = append(errs, fmt.Errorf("and %s", count(more, "more problem")))
		}
	}
	return errors.Join(errs...)
}

// misplaced returns the problems of a resource, each at its line.
func misplaced(l located, problems resource.Problems) error {
	var errs []error
	for _, p := range problems.Kept {
		errs = append(errs, fmt.Errorf("%s:%d: %s (%s)", l.file, l.before+l.Locate(p), p.String(), p.Reason))
	}
	return errors.Join(errs...)
}

func isTest(name string) bool {
	return slices.ContainsFunc(evaluate.TestSuffixes, func(s string) bool { return strings.HasSuffix(name, s) })
}

// testFiles returns the files of tests below a folder, in order.
func testFiles(folder string) (files []string, err error) {
	root := folder + string(filepath.Separator)
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p != root && strings.HasPrefix(d.Name(), ".") && d.IsDir():
			return fs.SkipDir
		case !d.IsDir() && isTest(d.Name()):
			files = append(files, p)
		}
		return nil
	})
	return files, err
}

func readTests(file string) ([]evaluate.Test, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, evaluate.MaxTestFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	tests, problems := evaluate.ParseTests(file, text)
	var errs []error
	for _, p := range problems.Kept {
		errs = append(errs, fmt.Errorf("%s:%d: %s", file, p.Line, p.Message))
	}
	return tests, errors.Join(errs...)
}

// run runs the tests, and is an error if some cannot be run.
func (t *trial) run(now time.Time) ([]*adminv1.TestResult, error) {
	results := make([]*adminv1.TestResult, len(t.tests))
	for environment, indexes := range evaluate.ByEnvironment(t.tests, t.usual()) {
		if environment == "" {
			first := t.tests[indexes[0]]
			return nil, fmt.Errorf("%s:%d: in which environment? name it in the file, or give --environment", first.File, first.Line)
		}
		table, err := evaluate.Offline(environment, t.resources)
		if err != nil {
			return nil, err
		}
		if err := unenforced(table); err != nil {
			return nil, err
		}
		for _, i := range indexes {
			results[i] = t.tests[i].Run(table, now)
			if a := results[i].GetAnswer(); a != nil {
				a.Revision = 0 // of no fleet
			}
		}
	}
	return results, nil
}

// usual is the environment of tests that name none.
func (t *trial) usual() string {
	name := t.environment
	for _, p := range t.resources {
		if p.Key.Kind != resource.KindEnvironment || t.environment != "" {
			continue
		}
		if name != "" {
			return "" // there are several
		}
		name = p.Key.Name
	}
	return name
}

// unenforced says which resources a proxy would reject.
func unenforced(t *compile.Table) error {
	var errs []error
	for _, r := range t.Rejects() {
		errs = append(errs, fmt.Errorf("%s would not be enforced in %s: %s", r.Key, t.Head().Environment, r.Reason))
	}
	return errors.Join(errs...)
}

func failed(results []*adminv1.TestResult) error {
	n := 0
	for _, r := range results {
		if !r.GetOk() {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %s failed", n, count(len(results), "test"))
}

// report tells what became of tests, file by file.
func report(results []*adminv1.TestResult, verbose bool) string {
	var t telling
	for len(results) > 0 {
		file, n, bad := results[0].GetFile(), 0, 0
		for n < len(results) && results[n].GetFile() == file {
			if r := results[n]; !r.GetOk() {
				bad++
				t.failure(r)
			} else if verbose {
				t.line("--- ok: %s", r.GetName())
			}
			n++
		}
		if bad > 0 {
			t.line("FAIL  %s  %d of %s", file, bad, count(n, "test"))
		} else {
			t.line("ok    %s  %s", file, count(n, "test"))
		}
		results = results[n:]
	}
	return t.String()
}

func (t *telling) failure(r *adminv1.TestResult) {
	t.line("--- FAIL: %s (%s:%d)", r.GetName(), r.GetFile(), r.GetLine())
	for _, why := range r.GetFailures() {
		t.line("    %s", why)
	}
	if r.GetAnswer() == nil {
		return
	}
	for line := range strings.Lines(answered(r.GetAnswer())) {
		t.line("        %s", strings.TrimRight(line, "\n"))
	}
}
