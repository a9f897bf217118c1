package schema

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of a JSON text.
const (
	MaxDepth     = 64      // of values in values
	maxValues    = 200_000 // which take far more room than the text does
	maxNumber    = 128     // bytes of a number
	maxExponent  = 400     // of ten, in a number
	maxShownName = 64      // bytes of a name in a problem
)

// syntaxError says why a text is not taken as JSON.
type syntaxError struct {
	offset int
	detail string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("at byte %d: %s", e.offset, e.detail) }

// parseJSON reads one value of JSON (RFC 8259) strictly: what two parsers could read
// in two ways is refused. That is an object with two members of one name, text that
// is not UTF-8, half of a surrogate pair, and a number that most would round to
// infinity. There are maxValues at most, and they are nested MaxDepth deep at most.
//
// Strings of the result are parts of text.
func parseJSON(text string) (any, error) {
	p := jsonParser{text: text}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(p.text) {
		return nil, p.refuse("more follows the value")
	}
	return v, nil
}

type jsonParser struct {
	text string
	at   int

	values   int   // so far
	elements []any // of lists that have not ended
}

func (p *jsonParser) refuse(format string, args ...any) error {
	return &syntaxError{p.at, fmt.Sprintf(format, args...)}
}

func (p *jsonParser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// next returns the byte that comes, 0 at the end.
func (p *jsonParser) next() byte {
	if p.at == len(p.text) {
		return 0
	}
	return p.text[p.at]
}

func (p *jsonParser) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, p.refuse("values are nested deeper than %d", MaxDepth)
	}
	if p.values++; p.values > maxValues {
		return nil, p.refuse("there are more than %d values", maxValues)
	}
	switch c := p.next(); c {
	case '{':
		return p.object(depth)
	case '[':
		return p.array(depth)
	case '"':
		return p.string()
	case 't':
		return true, p.word("true")
	case 'f':
		return false, p.word("false")
	case 'n':
		return nil, p.word("null")
	default:
		if c == '-' || isDigit(c) {
			return p.number()
		}
		return nil, p.refuse("a value is expected")
	}
}

func (p *jsonParser) word(word string) error {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return p.refuse("a value is expected")
	}
	p.at += len(word)
	return nil
}

func (p *jsonParser) object(depth int) (any, error) {
	o := &object{}
	more, err := p.open('}'), error(nil)
	for ; more && err == nil; more, err = p.goesOn('}') {
		begin := p.at
		if p.next() != '"' {
			return nil, p.refuse("the name of a member is expected")
		}
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if p.space(); p.next() != ':' {
			return nil, p.refuse("a colon is expected")
		}
		p.at++
		p.space()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if !o.add(name, v) {
			p.at = begin
			return nil, p.refuse("the member %s is there twice", shown(name))
		}
	}
	return o, err
}

func (p *jsonParser) array(depth int) (any, error) {
	from := len(p.elements)
	more, err := p.open(']'), error(nil)
	for ; more && err == nil; more, err = p.goesOn(']') {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		p.elements = append(p.elements, v)
	}
	list := append([]any{}, p.elements[from:]...)
	p.elements = p.elements[:from]
	return list, err
}

// open passes an opening bracket, and reports whether something is behind it.
func (p *jsonParser) open(end byte) (more bool) {
	p.at++
	if p.space(); p.next() == end {
		p.at++
		return false
	}
	return true
}

// goesOn passes what stands behind an element, and reports whether one more comes.
func (p *jsonParser) goesOn(end byte) (more bool, _ error) {
	p.space()
	switch p.next() {
	case ',':
		p.at++
		p.space()
		return true, nil
	case end:
		p.at++
		return false, nil
	}
	return false, p.refuse("a comma or %q is expected", end)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func (p *jsonParser) digits() (n int) {
	for ; isDigit(p.next()); n++ {
		p.at++
	}
	return n
}

func (p *jsonParser) number() (any, error) {
	begin := p.at
	refuse := func(why string) (any, error) {
		p.at = begin
		return nil, p.refuse("%s", why)
	}
	if p.next() == '-' {
		p.at++
	}
	if p.digits() == 0 {
		return refuse("a number is expected")
	}
	if whole := strings.TrimPrefix(p.text[begin:p.at], "-"); len(whole) > 1 && whole[0] == '0' {
		return refuse("a number has no leading zeros")
	}
	if p.next() == '.' {
		if p.at++; p.digits() == 0 {
			return refuse("digits are expected behind the point")
		}
	}
	if c := p.next(); c == 'e' || c == 'E' {
		p.at++
		if c := p.next(); c == '+' || c == '-' {
			p.at++
		}
		from := p.at
		if n := p.digits(); n == 0 {
			return refuse("digits are expected in the exponent")
		}
		if e, err := strconv.Atoi(p.text[from:p.at]); err != nil || e > maxExponent {
			return refuse("the exponent of a number is too large")
		}
	}
	if p.at-begin > maxNumber {
		return refuse("a number is too long")
	}
	return json.Number(p.text[begin:p.at]), nil
}

// string reads a string. One without escapes is a part of the text.
func (p *jsonParser) string() (string, error) {
	p.at++
	begin, ascii := p.at, true
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '"':
			s := p.text[begin:p.at]
			if !ascii && !utf8.ValidString(s) {
				return "", p.refuse("a string is not UTF-8")
			}
			p.at++
			return s, nil
		case c == '\\':
			return p.escaped(begin)
		case c < ' ':
			return "", p.refuse("a control character stands in a string")
		case c >= utf8.RuneSelf:
			ascii = false
		}
		p.at++
	}
	return "", p.refuse("a string has no end")
}

// escaped reads on in a string that began at begin and has escapes.
func (p *jsonParser) escaped(begin int) (string, error) {
	b := []byte(p.text[begin:p.at])
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '"':
			if !utf8.Valid(b) {
				return "", p.refuse("a string is not UTF-8")
			}
			return string(b), nil
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
		case c < ' ':
			return "", p.refuse("a control character stands in a string")
		default:
			b = append(b, c)
		}
	}
	return "", p.refuse("a string has no end")
}

func (p *jsonParser) escape() (rune, error) {
	c := p.next()
	p.at++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return p.unicode()
	}
	p.at--
	return 0, p.refuse("a string has an escape that JSON does not know")
}

func (p *jsonParser) unicode() (rune, error) {
	r, err := p.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if strings.HasPrefix(p.text[p.at:], `\u`) {
		p.at += 2
		low, err := p.hex()
		if err != nil {
			return 0, err
		}
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			return r, nil
		}
	}
	return 0, p.refuse("a string has half of a surrogate pair")
}

func (p *jsonParser) hex() (rune, error) {
	const digits = 4
	if len(p.text)-p.at < digits {
		return 0, p.refuse("a string has no end")
	}
	n, err := strconv.ParseInt(p.text[p.at:p.at+digits], 16, 32)
	if err != nil || strings.ContainsAny(p.text[p.at:p.at+digits], "+-_") {
		return 0, p.refuse("a string has an escape that JSON does not know")
	}
	p.at += digits
	return rune(n), nil
}

// shown is a name as problems repeat it.
func shown(name string) string {
	if len(name) > maxShownName {
		name = strings.ToValidUTF8(name[:maxShownName], "") + "..."
	}
	return strconv.Quote(name)
}
