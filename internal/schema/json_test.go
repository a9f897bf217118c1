package schema_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/schema"
)

func TestJSONIsReadStrictly(t *testing.T) {
	for _, c := range []struct{ text, problem string }{
		{`{"a":[1,-2.5e3,true,false,null,"x\né\ud83d\ude00"]}`, ""},
		{" \t\r\n1 ", ""},
		{`""`, ""},
		{`{}`, ""},
		{`[]`, ""},
		{`-0`, ""},
		{strings.Repeat("[", 64) + strings.Repeat("]", 64), ""},
		{``, "at byte 0: a value is expected"},
		{`{"a":1,"a":2}`, `at byte 7: the member "a" is there twice`},
		{`{"a":1,"\u0061":2}`, `at byte 7: the member "a" is there twice`},
		{`{"a":1,}`, "at byte 7: the name of a member is expected"},
		{`[1,]`, "at byte 3: a value is expected"},
		{`[1 2]`, `at byte 3: a comma or ']' is expected`},
		{`{"a" 1}`, "at byte 5: a colon is expected"},
		{`{} {}`, "at byte 3: more follows the value"},
		{`nul`, "at byte 0: a value is expected"},
		{`NaN`, "at byte 0: a value is expected"},
		{`01`, "at byte 0: a number has no leading zeros"},
		{`-`, "at byte 0: a number is expected"},
		{`1.`, "at byte 0: digits are expected behind the point"},
		{`1e`, "at byte 0: digits are expected in the exponent"},
		{`1e999999999`, "at byte 0: the exponent of a number is too large"},
		{`1e99999999999999999999`, "at byte 0: the exponent of a number is too large"},
		{strings.Repeat("1", 129), "at byte 0: a number is too long"},
		{`"\ud800"`, "at byte 7: a string has half of a surrogate pair"},
		{`"\ud800\u0041"`, "at byte 13: a string has half of a surrogate pair"},
		{`"\x41"`, "at byte 2: a string has an escape that JSON does not know"},
		{`"\u+041"`, "at byte 3: a string has an escape that JSON does not know"},
		{"\"\xff\"", "at byte 2: a string is not UTF-8"},
		{"\"\\n\xff\"", "at byte 5: a string is not UTF-8"},
		{"\"a\nb\"", "at byte 2: a control character stands in a string"},
		{`"abc`, "at byte 4: a string has no end"},
		{"\ufeff{}", "at byte 0: a value is expected"},
		{strings.Repeat("[", 66), "at byte 65: values are nested deeper than 64"},
		{strings.Repeat("[", 1<<20), "at byte 65: values are nested deeper than 64"},
	} {
		_, err := schema.ParseJSON(c.text)
		if got := text(err); got != c.problem {
			t.Errorf("%.40q: %q, want %q", c.text, got, c.problem)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What is taken, the standard library takes as well, and reads the same.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-2.5e3,true,null,"x\nA"]}`, `[[{"a":{}}],0.1]`, `"\ud83d\ude00"`, `{"a":1,"a":2}`, "\"\xff\"", `1e400`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := schema.ParseJSON(text)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("encoding/json does not take it: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q is %#v, of encoding/json %#v", text, got, want)
		}
	})
}
