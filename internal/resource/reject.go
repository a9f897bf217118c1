package resource

import (
	"cmp"
	"errors"
	"strings"
)

// Reject is a document that a proxy does not enforce, and why.
type Reject struct {
	Key    Key
	Reason string
}

// String says in one line what was rejected and why.
func (r Reject) String() string { return r.Key.String() + ": " + r.Reason }

// Understand is ParseDocument for those who say themselves which document it
// is: the error tells why not, and no more.
func Understand(document []byte) (Parsed, error) {
	p, err := ParseDocument(document)
	if err != nil {
		return Parsed{}, cmp.Or(errors.Unwrap(err), err)
	}
	return p, nil
}

// longestReason bounds, in bytes, what is said of one rejected document.
const longestReason = 512

// RejectReason is err as the reason of a Reject, which is bounded.
func RejectReason(err error) string {
	reason := err.Error()
	if len(reason) > longestReason {
		reason = strings.ToValidUTF8(reason[:longestReason], "") + "..."
	}
	return reason
}
