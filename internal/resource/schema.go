package resource

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// schema leaves the document itself to package compile.
func (d *decoder) schema(s *resourcev1.Schema) {
	if base := s.GetBasePath(); base != "" {
		d.checked(atSpec().to("basePath"), base, checkBasePath)
	}
}

// checkBasePath accepts the beginning of a path as requests have it.
func checkBasePath(base string) error {
	if base == "/" || strings.HasSuffix(base, "/") {
		return errors.New("ends in a slash: leave it out")
	}
	c, err := request.Canonicalise(request.Raw{Method: "GET", Target: base, Host: "a", ProtoMajor: 2})
	if err != nil || c.Path != base || c.RawQuery != "" || c.Ambiguity() != nil {
		return fmt.Errorf("%s is no beginning of a path that is served, as /api/v1", quote(base))
	}
	return nil
}
