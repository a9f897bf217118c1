package request

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxConditionValue bounds, in bytes, the value of a condition and the name that it is
// about.
const MaxConditionValue = 128

// Condition is something that a header, or a parameter of the query, of a canonical
// request has to be. The zero value is none.
type Condition struct {
	Place Place
	Kind  Kind
	Name  string // of a header its canonical key
	Value string // of Exact and Prefix
}

// Place is where in a request a condition looks.
type Place uint8

// The places, in the order in which conditions are compared.
const (
	InHeader Place = iota
	InQuery        // its parameters, decoded as those of a form
)

// Kind is what a condition wants.
type Kind uint8

// The kinds, in the order in which conditions are compared.
const (
	_        Kind = iota
	Anything      // nothing: it stands for a condition that is not understood
	Exact         // the value is Value
	Prefix        // the value begins with Value
	Present       // whatever the value, and however often
	Absent
)

// Check says why there can be no such condition. Of Anything, of which no more is
// known, nothing is asked.
func (c Condition) Check() error {
	switch {
	case c.Kind == Anything:
		return nil
	case c.Kind < Anything || c.Kind > Absent || c.Place > InQuery:
		return fmt.Errorf("the condition on %.40q wants nothing that is known", c.Name)
	case c.Place == InHeader:
		if err := checkHeader(c.Name); err != nil {
			return err
		}
	case !isParameter(c.Name):
		return fmt.Errorf(`%.40q is no name of a parameter: letters, digits, "-", ".", "_" and "~", at most %d`, c.Name, MaxConditionValue)
	}
	return c.checkValue()
}

func (c Condition) checkValue() error {
	switch {
	case c.Kind == Present || c.Kind == Absent:
		if c.Value != "" {
			return fmt.Errorf("the condition on %s has a value that nobody compares", c.Name)
		}
		return nil
	case len(c.Value) > MaxConditionValue:
		return fmt.Errorf("the value for %s is longer than %d bytes", c.Name, MaxConditionValue)
	case c.Kind == Prefix && c.Value == "":
		return fmt.Errorf("the prefix for %s is empty", c.Name)
	}
	value := c.Value
	if c.Kind == Prefix {
		value += "x" // what a prefix ends with is not what the value does
	}
	if c.Place == InHeader && !isValue(value) {
		return fmt.Errorf("the value for %s is none that a header can have", c.Name)
	}
	return nil
}

// checkHeader refuses what no canonical request has, and credentials: they are
// not to be read in routes, and some are taken out on the way.
func checkHeader(name string) error {
	switch name {
	case "Authorization", "Cookie", "Dpop", "X-Api-Key":
		return fmt.Errorf("%s is a credential: what it says is for the route's authentication", name)
	}
	if len(name) > MaxConditionValue || !IsForwarded(name) {
		return fmt.Errorf("%.40q is no header that a request has when routes look at it", name)
	}
	return nil
}

func isParameter(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte("-._~", c) < 0 {
			return false
		}
	}
	return name != "" && len(name) <= MaxConditionValue
}

// String is the condition as people read it.
func (c Condition) String() string {
	where := "header "
	if c.Place == InQuery {
		where = "query "
	}
	switch c.Kind {
	case Exact:
		return where + c.Name + "=" + strconv.Quote(c.Value)
	case Prefix:
		return where + c.Name + "=" + strconv.Quote(c.Value) + "…"
	case Present:
		return where + c.Name
	case Absent:
		return "no " + where + c.Name
	}
	return where + c.Name + " (not understood)"
}

// SortedConditions returns conditions in the order in which they are compared. Between claims
// whose sorted conditions are the same nothing could decide.
func SortedConditions(conditions []Condition) []Condition {
	return slices.SortedFunc(slices.Values(conditions), func(a, b Condition) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
}
