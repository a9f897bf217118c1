//go:build conformance

package conformance_test

import (
	"encoding/xml"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// report is h2spec's.
type report struct {
	Suites []struct {
		Package string `xml:"package,attr"`
		Cases   []struct {
			Name    string    `xml:"classname,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// A proxy passes every case of h2spec, the strict ones as well, but for those that
// docs/protocols.md explains.
func TestHTTP2(t *testing.T) {
	s := begin(t)
	aws := s.fleet.Members[0]
	s.apply(t, upstream{"page", s.plaintext(t, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(rw, "Some text, for what looks at windows.\n")
	}), "plaintext: {}", aws, []string{"/page"}})
	file := filepath.Join(t.TempDir(), "report.xml")
	out, err := s.run(t, nil, "h2spec", "-h", host, "-p", s.port(t, aws), "-P", "/page", "-t", "-k", "-S", "-j", file,
		"--max-header-length", "16000") // else what is too much for a frame of 16 KiB is not for ours
	text, problem := os.ReadFile(file)
	if problem != nil {
		t.Fatalf("%v, %v\n%s", err, problem, out)
	}
	var r report
	must(t, xml.Unmarshal(text, &r))
	passed, failed := r.results()
	explained := explained(t)
	slices.Sort(failed)
	if !slices.Equal(failed, explained) {
		t.Errorf("%s\nfailed:\n%s\nexplained:\n%s", out, strings.Join(failed, "\n"), strings.Join(explained, "\n"))
	}
	figure("h2spec_passed", passed, "cases")
	figure("h2spec_failed", len(failed), "cases")
}

// results are how many cases passed, and the names of those that did not.
func (r *report) results() (passed int, failed []string) {
	for _, suite := range r.Suites {
		for _, c := range suite.Cases {
			if c.Failure != nil || c.Error != nil || c.Skipped != nil {
				failed = append(failed, suite.Package+": "+c.Name)
			} else {
				passed++
			}
		}
	}
	return passed, failed
}

var row = regexp.MustCompile("(?m)^\\| `(\\S+: [^`]+)` \\|")

// explained are the cases that docs/protocols.md gives reasons for.
func explained(t *testing.T) (cases []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/protocols.md")
	must(t, err)
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		cases = append(cases, found[1])
	}
	slices.Sort(cases)
	return cases
}
