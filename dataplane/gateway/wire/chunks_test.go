package wire_test

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/request"
)

// Chunks that have come are read at once, as many as there is room for, and none waits for
// one that has not.
func TestChunksAreReadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads []string
		k := converse(t, func(_ *wire.Response, r *http.Request, _ *request.Error) {
			for {
				var p [4]byte
				n, err := r.Body.Read(p[:])
				reads = append(reads, string(p[:n]))
				if err != nil {
					reads = append(reads, err.Error())
					return
				}
			}
		})
		k.say(post + "Transfer-Encoding: chunked\r\n\r\n")
		for _, part := range []string{
			"1\r\na\r\n1;x=y\r\nb\r\n3\r\ncde\r\n", // more than there is room for
			"1\r\nf", "\r\n1", "\r\ng\r\n",         // in pieces
			"2\r\nhi\r\n1\r\nj\r\n0\r\n\r\n", // with the end
		} {
			k.say(part)
			synctest.Wait()
		}
		k.hear()
		if want := []string{"abcd", "e", "f", "g", "hij", "", "EOF"}; !slices.Equal(reads, want) {
			t.Errorf("read %q, want %q", reads, want)
		}
		_ = k.Close()
	})
}
