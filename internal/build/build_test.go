package build_test

import (
	"regexp"
	"testing"

	"github.com/sallyport/sallyport/internal/build"
)

// It is what proxies register with and operators see: one word that names a
// release, or "devel" with the commit where that is known.
func TestVersion(t *testing.T) {
	if v := build.Version(); !regexp.MustCompile(`^(v\d\S*|devel( [0-9a-f]{7})?)$`).MatchString(v) {
		t.Errorf("version %q", v)
	}
}
