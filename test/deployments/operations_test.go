package deployments_test

import (
	"go/ast"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	operations   = "docs/operations.md"
	threats      = "docs/threat-model.md"
	distribution = "docs/distribution.md"
)

func TestSettingsAreDocumented(t *testing.T) {
	for _, s := range servers {
		same(t, "settings of "+s.name, codes(t, "### "+s.name), keysOf(s.settings))
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	same(t, "metrics", codes(t, "## Metrics"), metricNames(t))
}

// No table has two rows about one thing, of which one would be out of date.
func TestTablesSayThingsOnce(t *testing.T) {
	for _, table := range regexp.MustCompile(`(?m)(^\|.*\n)+`).FindAllString(read(t, operations), -1) {
		rows := map[string]bool{}
		for row := range strings.Lines(table) {
			first, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
			if rows[first] {
				t.Errorf("%s has two rows about %s", operations, first)
			}
			rows[first] = true
		}
	}
}

// What metrics say to alert on is explained, and nothing else is.
func TestAlarmsAreExplained(t *testing.T) {
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|.*\\*\\*Alert.*$").FindAllStringSubmatch(section(t, "## Metrics"), -1) {
		for _, c := range code.FindAllStringSubmatch(row[1], -1) {
			want = append(want, c[1])
		}
	}
	same(t, "alarms", codes(t, "## Alarms"), want)
}

// Every reason that a client may be given is in the tables of denials.
func TestDenialsAreDocumented(t *testing.T) {
	want := []string{}
	for _, dir := range []string{
		"internal/request", "internal/policy", "internal/authn", "dataplane/gateway", "dataplane/gateway/wire", "dataplane/signin", "dataplane/upstream",
		"internal/schema",
	} {
		want = append(want, reasonsOf(t, dir)...)
	}
	for _, r := range reasonsOf(t, "internal/token") {
		want = append(want, "token_"+r)
	}
	want = slices.DeleteFunc(want, func(r string) bool { return r == "allowed_by_policy" })
	same(t, "reasons of denials", codes(t, "## Denials"), want)
}

func TestRefusalsOfApplyAreDocumented(t *testing.T) {
	want := append(reasonsOf(t, "internal/resource"), reasonsOf(t, "controlplane/admission")...)
	same(t, "reasons of refusals", codes(t, "## Why Apply refuses"), want)
}

// A proxy's words for why it refuses an update are those of its function
// reason.
func TestRefusedUpdatesAreDocumented(t *testing.T) {
	var want []string
	for _, file := range sources(t, false, "dataplane/link") {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Name.Name != "reason" {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if e, ok := n.(*ast.BasicLit); ok {
					if s, ok := literal(e); ok {
						want = append(want, s)
					}
				}
				return true
			})
		}
	}
	same(t, "reasons of refused updates", codes(t, "### Updates that a proxy refuses"), want)
}

func TestErrorsInLogsAreDocumented(t *testing.T) {
	var want []string
	for _, l := range logs(t) {
		if l.level == "Error" {
			want = append(want, l.message)
		}
	}
	same(t, "messages at ERROR", codes(t, "### ERROR: what to do"), want)
}

func TestKeysOfLogsAreDocumented(t *testing.T) {
	var want []string
	for _, l := range logs(t) {
		want = append(want, l.keys...)
	}
	same(t, "keys of logs", codes(t, "### Keys"), want)
}

// Whatever sentence is quoted as code is said by the servers.
func TestQuotedMessagesAreSaid(t *testing.T) {
	var said strings.Builder
	for _, file := range shippedSources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if e, ok := n.(*ast.BasicLit); ok {
				if s, ok := literal(e); ok {
					said.WriteString(s + "\n")
				}
			}
			return true
		})
	}
	quoted := regexp.MustCompile("`([a-z][a-z-]*(?:\\s[a-z-]+){2,})`").FindAllStringSubmatch(read(t, operations)+read(t, threats), -1)
	if len(quoted) == 0 {
		t.Error("no message is quoted")
	}
	for _, m := range quoted {
		message := strings.Join(strings.Fields(m[1]), " ")
		isCommand := strings.HasPrefix(message, "sallyport ") || strings.HasPrefix(message, "journalctl ")
		if !isCommand && !strings.Contains(said.String(), message) {
			t.Errorf("nothing says %q", message)
		}
	}
}

// The states of proxies are explained by the words that "sallyport fleet" has
// for them.
func TestStatesOfProxiesAreDocumented(t *testing.T) {
	explained := codes(t, "## When a proxy is not as it should be")
	for _, enum := range []map[int32]string{adminv1.Connection_name, adminv1.Enforcement_name} {
		for _, name := range enum {
			_, word, _ := strings.Cut(name, "_")
			if word != "UNSPECIFIED" && word != "CONNECTED" && !slices.Contains(explained, word) {
				t.Errorf("%s is not explained", word)
			}
		}
	}
}

// The commands that make the signing key make one that both servers take. Where
// there is no openssl, the other tests show the same of a key made in Go.
func TestSigningKeyCommands(t *testing.T) {
	commands := regexp.MustCompile(`(?m)^openssl .*$`).FindAllString(read(t, operations), -1)
	if len(commands) != 2 {
		t.Fatalf("the commands are %q", commands)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Log("openssl is not installed here")
		return
	}
	dir := t.TempDir()
	made := exec.Command("sh", "-ec", strings.Join(commands, "\n"))
	made.Dir = dir
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range servers {
		file := installed(t, s)
		for _, key := range []string{"signing-key.pem", "root-public-key.pem"} {
			if err := os.Rename(filepath.Join(dir, key), filepath.Join(filepath.Dir(file), key)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.load(file); err != nil {
			t.Errorf("%s does not take the key of openssl: %v", s.name, err)
		}
		dir = filepath.Dir(file)
	}
}

// Links within the document lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	for _, doc := range []string{operations, threats, distribution} {
		for _, m := range regexp.MustCompile(`\]\(([a-z0-9./-]*)#([^)]+)\)`).FindAllStringSubmatch(read(t, doc), -1) {
			in := doc
			if m[1] != "" {
				in = filepath.Join(filepath.Dir(doc), m[1])
			}
			if !slices.Contains(anchors(read(t, in)), m[2]) {
				t.Errorf("%s: nothing in %s is called %s", doc, in, m[2])
			}
		}
	}
}

// anchors are what the headings of a document are called in links.
func anchors(text string) []string {
	var found []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found = append(found, strings.ReplaceAll(name, " ", "-"))
	}
	return found
}

// section returns what stands below a heading of the document, up to the next
// one of its level.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(read(t, operations), "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", operations, heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	below := "\n" + rest
	for n := 2; n <= len(level); n++ {
		below, _, _ = strings.Cut(below, "\n"+strings.Repeat("#", n)+" ")
	}
	return below
}

var (
	firstCell = regexp.MustCompile("(?m)^\\| (`[^|]*) \\|")
	code      = regexp.MustCompile("`([^`]+)`")
)

// codes returns what stands as code in the first column of the tables below a
// heading.
func codes(t *testing.T, heading string) []string {
	t.Helper()
	text := section(t, heading)
	var found []string
	for _, cell := range firstCell.FindAllStringSubmatch(text, -1) {
		for _, c := range code.FindAllStringSubmatch(cell[1], -1) {
			found = append(found, c[1])
		}
	}
	return found
}

// same compares what a document says with what the code does.
func same(t *testing.T, what string, documented, want []string) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("the code has no %s", what)
	}
	inDoc, inCode := map[string]bool{}, map[string]bool{}
	for _, d := range documented {
		inDoc[d] = true
	}
	for _, w := range want {
		inCode[w] = true
	}
	for _, w := range slices.Sorted(maps.Keys(inCode)) {
		if !inDoc[w] {
			t.Errorf("%s: %s is not in %s", what, w, operations)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(inDoc)) {
		if !inCode[d] {
			t.Errorf("%s: %s is in %s, and not in the code", what, d, operations)
		}
	}
}
