package request_test

import (
	"net/textproto"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/request"
)

// Each byte is seen for what it is, wherever in a text it stands.
func TestHoldsControl(t *testing.T) {
	for length := range 75 {
		text := []byte(strings.Repeat("\u00e9~", length))[:length]
		if request.HoldsControl(string(text)) {
			t.Fatalf("there is no control byte in %q", text)
		}
		for at, was := range text {
			for c := range 256 {
				text[at] = byte(c)
				if want := c < 0x20 && c != '\t' || c == 0x7f; request.HoldsControl(string(text)) != want {
					t.Fatalf("%q holds a control byte: %t", text, !want)
				}
			}
			text[at] = was
		}
	}
}

func TestIsToken(t *testing.T) {
	const others = "!#$%&'*+-.^_`|~"
	for c := range 256 {
		b := byte(c)
		want := b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || strings.IndexByte(others, b) >= 0
		if name := "X-" + string([]byte{b}) + "y"; request.IsToken(name) != want {
			t.Errorf("%q is a token: %t", name, !want)
		}
	}
	if request.IsToken("") {
		t.Error("nothing is a token")
	}
}

func TestCanonicalName(t *testing.T) {
	for _, name := range []string{
		"Host", "host", "HOST", "X-Request-Id", "x-request-id", "X-Request-ID", "X--Two", "x--two", "-x", "-X", "x-", "X-1a", "x_y", "X_y",
		"ETag", "Etag", "WWW-Authenticate", "a", "A", "7", "Ümlaut", "!x", "X-!y",
	} {
		if !request.IsToken(name) {
			continue
		}
		if got, want := request.CanonicalName(name), textproto.CanonicalMIMEHeaderKey(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

func BenchmarkBytes(b *testing.B) {
	value, name := "Bearer "+strings.Repeat("eyJhbGci", 75), "X-Forwarded-Proto"
	b.Run("value", func(b *testing.B) {
		for b.Loop() {
			request.HoldsControl(value)
		}
	})
	b.Run("name", func(b *testing.B) {
		for b.Loop() {
			request.IsToken(name)
		}
	})
	b.Run("canonical", func(b *testing.B) {
		for b.Loop() {
			request.CanonicalName(name)
		}
	})
	b.Run("textproto", func(b *testing.B) {
		for b.Loop() {
			textproto.CanonicalMIMEHeaderKey(name)
		}
	})
}
