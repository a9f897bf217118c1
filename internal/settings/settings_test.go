package settings_test

import (
	"reflect"
	"testing"

	"github.com/sallyport/sallyport/internal/settings"
)

type file struct {
	Name   string   `json:"name"`
	Many   int      `json:"many"`
	Ratio  float64  `json:"ratio"`
	Whole  float64  `json:"whole"`
	Strict bool     `json:"strict"`
	Hosts  []string `json:"hosts"`
	Inner  inner    `json:"inner"`
	All    []inner  `json:"all"`
	hidden string   //nolint:unused // shows that a field without a key has none
}

type inner struct {
	Path string `json:"path"`
}

func TestDecode(t *testing.T) {
	const text = `
name: one # with a comment
many: 7
ratio: 0.25
whole: 1
strict: true
hosts: [a.example, "b.example"]
inner:
  path: /a
all:
  - path: /b
  - {path: "7"}
`
	var got file
	if err := settings.Decode([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := file{
		Name: "one", Many: 7, Ratio: 0.25, Whole: 1, Strict: true, Hosts: []string{"a.example", "b.example"},
		Inner: inner{"/a"}, All: []inner{{"/b"}, {"7"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWhatIsLeftOutStays(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "name:\nhosts:\ninner:\nall: null\n"} {
		got := file{Name: "before", Hosts: []string{"a"}, Inner: inner{"b"}}
		if err := settings.Decode([]byte(text), &got); err != nil || got.Name != "before" || len(got.Hosts) != 1 || got.Inner.Path != "b" {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestEverythingThatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"all of it": {`
nam: one
many: some
strict: yes
hosts: a
inner: {path: [], pat: b, path: c}
all: [{path: 7}, 8]
hidden: a
`, `line 2: nam: is no key here
line 3: many: has to be a number
line 4: strict: has to be true or false
line 5: hosts: has to be a list
line 6: inner.path: has to be text: put it in quotes
line 6: inner.pat: is no key here
line 6: inner.path: is given twice
line 7: all[0].path: has to be text: put it in quotes
line 7: all[1]: has to hold keys and values
line 8: hidden: is no key here`},
		"no YAML":         {"a: [", "line 1: did not find expected node content"},
		"a tab":           {"inner:\n\tpath: a", "line 2: found character that cannot start any token"},
		"two documents":   {"name: a\n---\nname: b", "holds more than one document"},
		"a list":          {"- name", "line 1: has to hold keys and values"},
		"an alias":        {"name: &a b\nhosts: [*a]", "line 1: name: anchors and aliases are not taken\nline 2: hosts[0]: anchors and aliases are not taken"},
		"a number as key": {"7: a", "line 1: 7: is no key here"},
		"too large":       {"many: 99999999999999999999", "line 1: many: has to be a number"},
		"infinite":        {"ratio: .inf", "line 1: ratio: has to be a number"},
		"no number":       {"ratio: .nan", "line 1: ratio: has to be a number"},
		"a text":          {"ratio: a", "line 1: ratio: has to be a number"},
		"a fraction":      {"many: 1.5", "line 1: many: has to be a number"},
	} {
		t.Run(name, func(t *testing.T) {
			var f file
			err := settings.Decode([]byte(c.text), &f)
			if err == nil || err.Error() != c.want {
				t.Errorf("got\n%v\nwant\n%s", err, c.want)
			}
			if name == "all of it" && len(f.All) != 2 {
				t.Errorf("what could be read is %+v", f)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: a\nall: [{path: b}]"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var into file
		_ = settings.Decode(data, &into) // must not panic
	})
}
