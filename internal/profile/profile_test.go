package profile_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/internal/profile"
)

func TestProfilesAreForThisMachine(t *testing.T) {
	for from, want := range map[string]int{
		"127.0.0.1:4711": http.StatusOK, "[::1]:4711": http.StatusOK, "[::ffff:127.0.0.1]:4711": http.StatusOK,
		"192.0.2.7:4711": http.StatusForbidden, "[2001:db8::7]:4711": http.StatusForbidden, "@": http.StatusForbidden, "": http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodGet, "/debug/pprof/heap?gc=1", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		profile.Handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %q: %d, not %d", from, w.Code, want)
		}
	}
}
