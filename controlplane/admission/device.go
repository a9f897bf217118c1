package admission

import (
	"fmt"
	"iter"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// knownBy yields all that requests of a Device are known by, and where it says so.
func (it *item) knownBy() iter.Seq2[string, place] {
	return func(yield func(string, place) bool) {
		spec, ok := it.Spec.(*resourcev1.Device)
		if !ok {
			return
		}
		match := spec.GetMatch()
		for i, sum := range match.GetCertificates() {
			if !yield("certificate "+sum, place{field: "spec.match.certificates", index: i}) {
				return
			}
		}
		if id := match.GetSpiffeId(); id != "" && !yield(id, place{field: "spec.match.spiffeId", index: -1}) {
			return
		}
		if by := match.GetCertified(); by != nil &&
			!yield(fmt.Sprintf("%q of %q", by.GetId(), by.GetIssuer()), place{field: "spec.match.certified", index: -1}) {
			return
		}
		for i, thumbprint := range match.GetKeys() {
			if !yield("key "+thumbprint, place{field: "spec.match.keys", index: i}) {
				return
			}
		}
	}
}

// device reports another one that is known by the same: nobody could tell whose
// requests they are.
func (c *checker) device(it *item) {
	for known, at := range it.knownBy() {
		other := first(c.state.devices[known], func(o *item) bool { return o != it })
		if other != nil {
			c.report(it, at.String(), ReasonDeviceConflict, "%s is known by %s as well", other.Key, known)
		}
	}
}
