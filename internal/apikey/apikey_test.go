package apikey_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/apikey"
)

// known was made once, and stays a key: those that are in use have to.
const known = "sp_7Kq2mZ0aXw9B_T4r8yQpLs6VnC1dHjE3uGbW5oYkAiNxMzF7RtDq0vJe0f5GYc"

func TestKeysAreTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		k := apikey.New()
		id, ok := apikey.Parse(k.Text)
		if !ok || id != k.ID || !strings.HasPrefix(k.Text, "sp_"+id+"_") || len(k.Text) != apikey.Size {
			t.Fatalf("%+v: parsed as %q, %t", k, id, ok)
		}
		if seen[k.ID] || seen[k.Text] {
			t.Fatalf("%+v was made twice", k)
		}
		seen[k.ID], seen[k.Text] = true, true
	}
}

// A key with any one character changed, lost or doubled, or two exchanged, is
// none.
func TestTypingErrors(t *testing.T) {
	k := apikey.New().Text
	for i := range len(k) {
		for _, c := range "aZ5_-.*" {
			if wrong := k[:i] + string(c) + k[i+1:]; wrong != k {
				refused(t, wrong)
			}
		}
		refused(t, k[:i]+k[i+1:])
		refused(t, k[:i]+k[i:i+1]+k[i:])
		if i > 0 && k[i] != k[i-1] {
			refused(t, k[:i-1]+k[i:i+1]+k[i-1:i]+k[i+1:])
		}
	}
	for _, wrong := range []string{"", "sp_", k + " ", " " + k, k + "\x00", "Bearer " + k, strings.ToUpper(k), strings.Repeat("a", apikey.Size)} {
		refused(t, wrong)
	}
}

func refused(t *testing.T, text string) {
	t.Helper()
	if id, ok := apikey.Parse(text); ok || id != "" {
		t.Errorf("%q is key %q", text, id)
	}
}

func TestKeysStayKeys(t *testing.T) {
	if id, ok := apikey.Parse(known); !ok || id != "7Kq2mZ0aXw9B" {
		t.Errorf("%q, %t", id, ok)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	k := apikey.New().Text
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := apikey.Parse(k); !ok || apikey.Digest(k) == [32]byte{} {
			t.Error("it is no key")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{known, apikey.New().Text, "", "sp_", "sp__", known[:60], known + "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := apikey.Parse(text)
		if !ok && id == "" {
			return
		}
		if !apikey.IsID(id) || len(text) != apikey.Size || text[:16] != "sp_"+id+"_" || strings.Trim(text[16:], "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("%q is key %q", text, id)
		}
		// The check sum is of the rest, and there is one only.
		for _, c := range []byte("0aZ") {
			if wrong := text[:apikey.Size-1] + string(c); wrong != text {
				if _, ok := apikey.Parse(wrong); ok {
					t.Errorf("%q and %q are keys", text, wrong)
				}
			}
		}
	})
}
