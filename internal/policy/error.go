package policy

import "fmt"

// Error is one problem of a Spec.
type Error struct {
	Field  string // path within the Spec, as in "principals[2].spiffe"
	Reason string // what is wrong, in words for the one who wrote it

	// Line and Column count from 1, the column in characters. They are set for
	// problems within Field's text, which are those of "when"; zero otherwise.
	Line, Column int
}

// Error returns field, position and reason on one line.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Field + ": " + e.Reason
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.Field, e.Line, e.Column, e.Reason)
}

// Problems returns every *Error within err, wrapped or joined, in order.
func Problems(err error) []*Error {
	switch e := err.(type) { //nolint:errorlint // it unwraps every branch itself, where As stops at the first
	case *Error:
		return []*Error{e}
	case interface{ Unwrap() error }:
		return Problems(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []*Error
		for _, inner := range e.Unwrap() {
			all = append(all, Problems(inner)...)
		}
		return all
	}
	return nil
}
