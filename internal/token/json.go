package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a document; claims of real issuers stay
// below five.
const maxDepth = 16

var errNotStrict = errors.New("not a strict JSON object")

// decodeObject reads b as one JSON object, as encoding/json would, but refuses
// what two readers could understand differently: a member given twice, invalid
// UTF-8, unpaired surrogates, anything after the object.
// Numbers become int64 where they are integers of that range, else float64:
// identifiers above 2^53 must not become their neighbours.
func decodeObject(b []byte) (map[string]any, error) {
	// Valid is asked first because Decoder.Token is lenient about separators.
	if !json.Valid(b) {
		return nil, errNotStrict
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decodeValue(d, maxDepth)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errNotStrict
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if depth == 0 {
			return nil, errNotStrict
		}
		if t == '{' {
			return decodeMembers(d, depth-1)
		}
		return decodeElements(d, depth-1)
	case json.Number:
		return number(t)
	case string:
		return text(t)
	}
	return t, nil
}

func decodeMembers(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if _, err := text(name); err != nil {
			return nil, err
		}
		if _, twice := object[name]; twice {
			return nil, errNotStrict
		}
		if object[name], err = decodeValue(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}

func decodeElements(d *json.Decoder, depth int) (any, error) {
	array := []any{}
	for d.More() {
		v, err := decodeValue(d, depth)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	_, err := d.Token()
	return array, err
}

// text refuses the replacement character: encoding/json writes it for invalid
// UTF-8 and for unpaired surrogates, so that different names become equal.
func text(s string) (string, error) {
	if strings.ContainsRune(s, utf8.RuneError) {
		return "", errNotStrict
	}
	return s, nil
}

func number(n json.Number) (any, error) {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, err
	}
	return f, nil
}
