package distribution_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	documentFile = "../../docs/distribution.md"
	exampleFile  = "example.txt"
)

// example holds values by name. In its file, and where the document quotes it, a
// name stands on a line of its own, and its value in hexadecimal on those below.
type example struct {
	names  []string
	values map[string][]byte
}

func (e *example) add(name string, value []byte) {
	if e.values == nil {
		e.values = map[string][]byte{}
	}
	e.names = append(e.names, name)
	e.values[name] = value
}

func (e *example) text() []byte {
	var b bytes.Buffer
	for _, name := range e.names {
		fmt.Fprintln(&b, name)
		for line := range slices.Chunk([]byte(hex.EncodeToString(e.values[name])), 64) {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	return b.Bytes()
}

func parseExample(t *testing.T, text string) *example {
	t.Helper()
	e, name := &example{}, ""
	for line := range strings.Lines(text) {
		value, isValue := strings.CutPrefix(line, "  ")
		if !isValue {
			name = strings.TrimSpace(line)
			e.add(name, nil)
			continue
		}
		b, err := hex.DecodeString(strings.TrimSpace(value))
		if err != nil || name == "" {
			t.Fatalf("%q of %s: %v", value, name, err)
		}
		e.values[name] = append(e.values[name], b...)
	}
	return e
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// messages are those of the stream in the example.
func (e *example) messages() (all [][]byte) {
	for _, name := range e.names {
		if strings.HasPrefix(name, "message_") {
			all = append(all, e.values[name])
		}
	}
	return all
}

// What the document says of bytes is true of those of the example.
func TestDigestsOfTheExample(t *testing.T) {
	e := parseExample(t, string(file(t, exampleFile)))
	d := documents{}
	for _, name := range []string{"environment", "brokers", "partners"} {
		document := e.values["document_"+name]
		if err := d.put(document); err != nil {
			t.Fatal(err)
		}
		e.is(t, "digest_"+name, documentDigest(document))
	}
	e.is(t, "key_environment", keyDigest([]byte("Environment"), nil, []byte("demo")))
	e.is(t, "key_brokers", keyDigest([]byte("Set"), []byte("shop"), []byte("brokers")))
	e.is(t, "key_partners", keyDigest([]byte("Set"), []byte("shop"), []byte("partners")))
	e.is(t, "bucket_35", d.buckets()[35])
	e.is(t, "bucket_167", d.buckets()[167])
	e.is(t, "root_7", d.root())
	e.is(t, "root_empty", documents{}.root())
	for _, of := range []string{"pinned", "second"} {
		e.is(t, of+"_key_id", sum(e.values[of+"_key"]))
	}
	e.is(t, "head_7_digest", sum(e.values["head_7"]))
	if err := pin(e.values["pinned_key"]).verify("sallyport head", e.values["head_7"], e.values["head_7_signature"], nil); err != nil {
		t.Error(err)
	}
}

func (e *example) is(t *testing.T, name string, value []byte) {
	t.Helper()
	if want := e.values[name]; !bytes.Equal(want, value) {
		t.Errorf("%s is %x, and by the rules %x", name, want, value)
	}
}

// A proxy that knows the rules alone follows the stream to where ours is.
func TestStreamOfTheExample(t *testing.T) {
	e := parseExample(t, string(file(t, exampleFile)))
	p := newProxy(e.values["pinned_key"], "demo")
	for i, m := range e.messages() {
		if err := p.hear(m); err != nil {
			t.Fatalf("message %d: %v", i+1, err)
		}
		if i+1 == 4 {
			e.is(t, "ack_7", p.lanes["demo"].ack())
		}
	}
	l := p.lanes["demo"]
	e.is(t, "ack_9", l.ack())
	e.is(t, "ack_security", p.lanes[securityLane].ack())
	e.is(t, "root_9", l.documents.root())
	e.is(t, "head_9_digest", l.head.digest)
	if l.confirmed != uint64(issued.Unix())+20 || p.generation != 1 {
		t.Errorf("it was confirmed at %d, by generation %d", l.confirmed, p.generation)
	}
}

// Whatever bit of the stream is another one: what is put in force was signed.
func TestNoBitOfTheExampleIsBelievedUnsigned(t *testing.T) {
	e := parseExample(t, string(file(t, exampleFile)))
	signed := [][]byte{e.values["root_empty"], e.values["root_7"], e.values["root_9"]}
	refused := 0
	for i := range e.messages() {
		for at := range e.messages()[i] {
			messages := slices.Clone(e.messages())
			messages[i] = bytes.Clone(messages[i])
			messages[i][at] ^= 1 << (at % 8)
			p := newProxy(e.values["pinned_key"], "demo")
			for _, m := range messages {
				if p.hear(m) != nil {
					refused++
				}
				root := p.lanes["demo"].documents.root()
				if !slices.ContainsFunc(signed, func(s []byte) bool { return bytes.Equal(s, root) }) {
					t.Fatalf("byte %d of message %d: %x was put in force", at, i+1, root)
				}
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// What is left on a disk, or carried by hand, is read by the same rules.
func TestFilesOfTheExample(t *testing.T) {
	e := parseExample(t, string(file(t, exampleFile)))
	for _, name := range []string{"last-good", "bundle"} {
		p := newProxy(e.values["pinned_key"], "demo")
		b := file(t, name)
		if err := p.read(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := map[string]string{"last-good": "head_7_digest", "bundle": "head_9_digest"}[name]
		e.is(t, want, p.lanes["demo"].head.digest)
		for at := range b {
			b[at] ^= 1
			if err := newProxy(e.values["pinned_key"], "demo").read(b); err == nil {
				t.Errorf("%s: with another byte %d it is read", name, at)
			}
			b[at] ^= 1
		}
	}
}

// What the document shows of the example is what is in it.
func TestDocumentQuotesTheExample(t *testing.T) {
	text, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## An example\n")
	if !found {
		t.Fatal("the document has no example")
	}
	e, quoted := parseExample(t, string(file(t, exampleFile))), 0
	for i, block := range strings.Split(section, "\n```") {
		text, isBlock := strings.CutPrefix(block, "text\n")
		if i%2 == 0 || !isBlock {
			continue
		}
		q := parseExample(t, text)
		for _, name := range q.names {
			e.is(t, name, q.values[name])
		}
		quoted += len(q.names)
	}
	if quoted < 20 {
		t.Errorf("%d values are quoted", quoted)
	}
}

// The texts that digests and signatures begin with are those that the rules here use.
func TestTextsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"document", "key", "bucket", "root", "head", "counts", "freshness", "key set"} {
		if !strings.Contains(string(text), "| `sallyport "+of+` v1\0`) {
			t.Errorf("the document has no text of the %s", of)
		}
	}
	for _, magic := range []string{`sallyport last-good v1\n`, `sallyport last-good v2\n`} {
		if !strings.Contains(string(text), "**`"+magic+"`**") {
			t.Errorf("the document does not tell of files that begin with %s", magic)
		}
	}
}
