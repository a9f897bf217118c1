// Package settings reads the settings file of a process strictly, and finds
// everything that is wrong with its form at once.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decode reads YAML into a struct whose fields have their keys as json tags:
// texts, numbers, true and false, lists, and structs of these; for a field of
// another type it panics. What can be read is read, whatever else is wrong: a
// key that is not known or given twice, a value of another type, each with its
// line. An empty file leaves the struct as it is.
func Decode(data []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var root, second yaml.Node
	switch err := d.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return errors.New("holds more than one document")
	}
	var r reader
	r.read("", root.Content[0], reflect.ValueOf(into).Elem())
	return errors.Join(r.problems...)
}

// reader gathers problems.
type reader struct{ problems []error }

func (r *reader) refuse(n *yaml.Node, path, why string) {
	if path != "" {
		path += ": "
	}
	r.problems = append(r.problems, fmt.Errorf("line %d: %s%s", n.Line, path, why))
}

func (r *reader) read(path string, n *yaml.Node, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.refuse(n, path, "anchors and aliases are not taken")
	case v.Kind() == reflect.Struct:
		r.mapping(path, n, v)
	case v.Kind() == reflect.Slice:
		r.list(path, n, v)
	default:
		r.scalar(path, n, v)
	}
}

func (r *reader) mapping(path string, n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.refuse(n, path, "has to hold keys and values")
		return
	}
	given := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, at := n.Content[i], n.Content[i].Value
		if path != "" {
			at = path + "." + at
		}
		field, known := fieldOf(v, key.Value)
		switch {
		case !known:
			r.refuse(key, at, "is no key here")
		case given[key.Value]:
			r.refuse(key, at, "is given twice")
		default:
			given[key.Value] = true
			r.read(at, n.Content[i+1], field)
		}
	}
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for f := range v.Type().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key && name != "" {
			return v.FieldByIndex(f.Index), true
		}
	}
	return reflect.Value{}, false
}

func (r *reader) list(path string, n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.refuse(n, path, "has to be a list")
		return
	}
	all := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, element := range n.Content {
		r.read(fmt.Sprintf("%s[%d]", path, i), element, all.Index(i))
	}
	v.Set(all)
}

func (r *reader) scalar(path string, n *yaml.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && !isNull(n) {
			r.refuse(n, path, "has to be text: put it in quotes")
			return
		}
		if !isNull(n) {
			v.SetString(n.Value)
		}
	case reflect.Int:
		number, err := strconv.Atoi(n.Value)
		if n.Tag != "!!int" || err != nil {
			r.refuse(n, path, "has to be a number")
			return
		}
		v.SetInt(int64(number))
	case reflect.Float64:
		number, err := strconv.ParseFloat(n.Value, 64)
		if n.Tag != "!!float" && n.Tag != "!!int" || err != nil || math.IsInf(number, 0) || math.IsNaN(number) {
			r.refuse(n, path, "has to be a number")
			return
		}
		v.SetFloat(number)
	case reflect.Bool:
		if n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
			r.refuse(n, path, "has to be true or false")
			return
		}
		v.SetBool(n.Value == "true")
	default:
		panic("settings: a field of type " + v.Type().String())
	}
}

// isNull reports whether a key has no value: then it means what it means when
// it is left out.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
