package session_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/session"
)

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func newRing(t testing.TB, environment string, keys ...session.Key) *session.Ring {
	t.Helper()
	r, err := session.NewRing(environment, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A cookie opens for the environment, host and purpose for which it was sealed, and
// no other.
func TestCookiesAreBound(t *testing.T) {
	key, other := session.NewKey(start), session.NewKey(start)
	aws := newRing(t, "aws", key)
	value, err := aws.Seal(session.Signed, "a.example", []byte("who"), start)
	if err != nil {
		t.Fatal(err)
	}
	renamed := other
	renamed.ID = key.ID
	for _, c := range []struct {
		what    string
		ring    *session.Ring
		purpose session.Purpose
		host    string
		want    error
	}{
		{"it", aws, session.Signed, "a.example", nil},
		{"beside other keys", newRing(t, "aws", other, key), session.Signed, "a.example", nil},
		{"another host", aws, session.Signed, "b.example", session.ErrForeign},
		{"another purpose", aws, session.Pending, "a.example", session.ErrForeign},
		{"another environment", newRing(t, "gcp", key), session.Signed, "a.example", session.ErrForeign},
		{"names that join to the same", newRing(t, "awsa", key), session.Signed, ".example", session.ErrForeign},
		{"another key", newRing(t, "aws", other), session.Signed, "a.example", session.ErrForeign},
		{"another key of that name", newRing(t, "aws", renamed), session.Signed, "a.example", session.ErrForeign},
		{"no key", newRing(t, "aws"), session.Signed, "a.example", session.ErrNoKey},
		{"no ring", nil, session.Signed, "a.example", session.ErrNoKey},
	} {
		plain, err := c.ring.Open(c.purpose, c.host, value)
		if !errors.Is(err, c.want) || (err == nil) != (string(plain) == "who") {
			t.Errorf("%s: %q, %v", c.what, plain, err)
		}
	}
}

// No bit of a cookie can be changed, and no byte cut off or added.
func TestCookiesAreWhole(t *testing.T) {
	r := newRing(t, "aws", session.NewKey(start))
	value, err := r.Seal(session.Signed, "a.example", []byte("who"), start)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(raw) {
		b := bytes.Clone(raw)
		b[i/8] ^= 1 << (i % 8)
		if _, err := r.Open(session.Signed, "a.example", base64.RawURLEncoding.EncodeToString(b)); !errors.Is(err, session.ErrForeign) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	for _, v := range []string{"", value[:len(value)-1], value + "A", value + "=", value + "\n", value[:20], strings.Repeat("A", session.MaxValue+1)} {
		if _, err := r.Open(session.Signed, "a.example", v); !errors.Is(err, session.ErrForeign) {
			t.Errorf("%.50q: %v", v, err)
		}
	}
}

// Sealing is with the latest key whose time has come: all proxies know it by then.
func TestKeysAreKnownBeforeTheyAreUsed(t *testing.T) {
	before, now, next := session.NewKey(start.Add(-24*time.Hour)), session.NewKey(start), session.NewKey(start.Add(24*time.Hour))
	all := newRing(t, "aws", next, before, now)
	for at, only := range map[time.Time]session.Key{
		start.Add(-time.Second): before, start: now, start.Add(23 * time.Hour): now, start.Add(24 * time.Hour): next,
	} {
		v, err := all.Seal(session.Signed, "a.example", []byte("who"), at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newRing(t, "aws", only).Open(session.Signed, "a.example", v); err != nil {
			t.Errorf("at %s it was sealed with another key", at)
		}
	}
	if _, err := all.Seal(session.Signed, "a.example", nil, start.Add(-25*time.Hour)); !errors.Is(err, session.ErrNoKey) {
		t.Errorf("before any time has come: %v", err)
	}
	if _, err := session.NewRing("aws", now, now); err == nil {
		t.Error("two keys of one name were taken")
	}
	if _, err := session.NewRing("aws", make([]session.Key, session.MaxKeys+1)...); err == nil {
		t.Error("too many keys were taken")
	}
}

func TestSession(t *testing.T) {
	r := newRing(t, "aws", session.NewKey(start))
	s := session.Session{
		Provider: "shop/people", Issuer: "https://login.example", Subject: "alice", ID: "sid", Groups: []string{"shop"},
		Claims:   map[string]any{"level": int64(1<<60 + 1), "ratio": 0.5, "roles": []any{"a", int64(1)}, "org": map[string]any{"id": int64(7)}},
		SignedIn: start, Expires: start.Add(time.Hour), AuthTime: start.Add(-time.Minute), ACR: "high", AMR: []string{"pwd", "otp"},
	}
	v, err := s.Seal(r, "a.example", start)
	if err != nil {
		t.Fatal(err)
	}
	got, err := session.Open(r, "a.example", v)
	if err != nil || !reflect.DeepEqual(*got, s) {
		t.Errorf("got %+v, %v", got, err)
	}
	for range 400 {
		s.Groups = append(s.Groups, "a-group")
	}
	if _, err := s.Seal(r, "a.example", start); !errors.Is(err, session.ErrTooLarge) {
		t.Errorf("a session that fits into no cookie: %v", err)
	}
}

// Keys are for the one process to which they are sealed.
func TestShare(t *testing.T) {
	ring := newRing(t, "aws", session.NewKey(start), session.NewKey(start.Add(time.Hour)))
	mine, err := session.NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	other, err := session.NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := session.Share(ring, mine.Public())
	if err != nil {
		t.Fatal(err)
	}
	got, err := mine.Take("aws", sealed)
	if err != nil || !slices.Equal(got.Keys(), ring.Keys()) {
		t.Errorf("got %v, %v", got.Keys(), err)
	}
	for what, take := range map[string]func() (*session.Ring, error){
		"another process":     func() (*session.Ring, error) { return other.Take("aws", sealed) },
		"another environment": func() (*session.Ring, error) { return mine.Take("gcp", sealed) },
		"changed": func() (*session.Ring, error) {
			return mine.Take("aws", append(sealed[:len(sealed)-1:len(sealed)-1], 0))
		},
		"nothing":  func() (*session.Ring, error) { return mine.Take("aws", nil) },
		"too much": func() (*session.Ring, error) { return mine.Take("aws", make([]byte, session.MaxSealed+1)) },
	} {
		if _, err := take(); err == nil {
			t.Errorf("%s: was taken", what)
		}
	}
	for _, k := range ring.Keys() {
		if bytes.Contains(sealed, k.Secret[:]) {
			t.Error("a key travels in the clear")
		}
	}
	if _, err := session.Share(ring, []byte("no key")); err == nil {
		t.Error("keys were sealed to what is no key")
	}
}

func TestCookieFields(t *testing.T) {
	for _, c := range []struct {
		fields []string
		value  string
		found  bool
		rest   []string
	}{
		{nil, "", false, nil},
		{[]string{"a=b; c=d"}, "", false, []string{"a=b; c=d"}},
		{[]string{"__Host-sallyport-session=x"}, "x", true, nil},
		{[]string{"a=b; __Host-sallyport-session=x;c=d"}, "x", true, []string{"a=b; c=d"}},
		{[]string{"a=b", "__Host-sallyport-session=x", "c=d"}, "x", true, []string{"a=b", "c=d"}},
		{[]string{"__Host-sallyport-session=x; __Host-sallyport-session=y"}, "", true, nil},
		{[]string{"__host-Sallyport-session=x; a=b"}, "", false, []string{"a=b"}},
		{[]string{"__Host-sallyport-signin-AAAAAAAA=x; a=__Host-other=y"}, "", false, []string{"a=__Host-other=y"}},
		{[]string{"a=\"__Host-sallyport-session=x\""}, "", false, []string{"a=\"__Host-sallyport-session=x\""}},
	} {
		value, found := session.Find(c.fields, session.CookieName)
		if value != c.value || found != c.found {
			t.Errorf("%q: %q, %v", c.fields, value, found)
		}
		if rest := session.Strip(c.fields); !slices.Equal(rest, c.rest) {
			t.Errorf("%q: %q is left", c.fields, rest)
		}
	}
}

// Whatever a client sends as a cookie opens nothing.
func FuzzOpen(f *testing.F) {
	r := newRing(f, "aws", session.NewKey(start))
	good, err := r.Seal(session.Signed, "a.example", []byte(`{"s":"alice"}`), start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("__Host-sallyport-session=" + good + "; a=b")
	f.Add("__Host-sallyport-session=AAAA; __Host-sallyport-session")
	f.Add(";;= =; __HOST-SALLYPORT-")
	f.Fuzz(func(t *testing.T, field string) {
		value, _ := session.Find([]string{field}, session.CookieName)
		if s, err := session.Open(r, "a.example", value); (err == nil) != (value == good) {
			t.Errorf("%q: %+v, %v", value, s, err)
		}
		for _, rest := range session.Strip([]string{field}) {
			if _, found := session.Find([]string{rest}, session.CookieName); found {
				t.Errorf("%q leaves %q", field, rest)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	r := newRing(b, "aws", session.NewKey(start))
	s := session.Session{
		Provider: "shop/people", Issuer: "https://login.example", Subject: "alice", ID: "sid", Groups: []string{"shop", "web", "ops"},
		Claims: map[string]any{"email": "alice@example.com"}, SignedIn: start, Expires: start.Add(time.Hour),
	}
	v, err := s.Seal(r, "a.example", start)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := session.Open(r, "a.example", v); err != nil {
			b.Fatal(err)
		}
	}
}
