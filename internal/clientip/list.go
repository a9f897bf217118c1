package clientip

import "strings"

// list reads a list field from its right end, where those stand whom we trust, and
// no further than it is asked to: whatever a client has put to the left of them
// cannot change how they are read. Lines of one name are one list (RFC 9110,
// section 5.3).
type list struct {
	lines  []string
	quotes bool // commas may be quoted

	line string // what is left of one
	open bool   // an element is left in it
}

// previous returns the next element to the left, without white space around it. It
// may be empty; false says that there is none.
func (l *list) previous() (element string, ok bool) {
	if !l.open {
		if len(l.lines) == 0 {
			return "", false
		}
		last := len(l.lines) - 1
		l.line, l.lines, l.open = l.lines[last], l.lines[:last], true
	}
	comma := l.comma()
	element = strings.Trim(l.line[comma+1:], " \t")
	l.open = comma >= 0
	l.line = l.line[:max(comma, 0)]
	return element, true
}

// comma returns the place of the last comma, -1 when there is none. One within
// quotes is none. Quotes are paired from the right: in a well-formed element each
// that opens stands behind "=", so that escaped ones, which do not, make an element
// that parseForwarded refuses.
func (l *list) comma() int {
	if !l.quotes {
		return strings.LastIndexByte(l.line, ',')
	}
	quoted := false
	for i := len(l.line) - 1; i >= 0; i-- {
		switch c := l.line[i]; {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return i
		}
	}
	return -1
}
