package api_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sallyport/sallyport/controlplane/api"
)

// eachProcedure calls f with every procedure of the admin API.
func eachProcedure(f func(procedure string, m protoreflect.MethodDescriptor)) {
	protoregistry.GlobalFiles.RangeFilesByPackage("sallyport.admin.v1", func(d protoreflect.FileDescriptor) bool {
		for i := range d.Services().Len() {
			methods := d.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				f("/"+string(m.Parent().FullName())+"/"+string(m.Name()), m)
			}
		}
		return true
	})
}

// spaces is so much JSON that means nothing, of a length that is not told before.
func spaces(n int64) io.Reader {
	return io.LimitReader(blank{}, n)
}

type blank struct{}

func (blank) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// Whichever procedure is added, nobody can have it take more than MaxRequest: neither
// who may call it, nor in a message that says how large it is.
func TestNoProcedureTakesMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := 0
	eachProcedure(func(procedure string, m protoreflect.MethodDescriptor) {
		form, body := "application/json", spaces(api.MaxRequest+2<<20)
		if m.IsStreamingServer() {
			head := binary.BigEndian.AppendUint32([]byte{0}, api.MaxRequest+1)
			form, body = "application/connect+json", io.MultiReader(bytes.NewReader(head), body)
		}
		a := w.curl(t, admin, http.MethodPost, procedure, form, body)
		if a.status == http.StatusNotFound {
			return // DecisionService is not served here
		}
		if seen++; !strings.Contains(a.text, "resource_exhausted") {
			t.Errorf("%s: %d %.200s", procedure, a.status, a.text)
		}
	})
	if seen < 20 {
		t.Errorf("%d procedures are served", seen)
	}
}
