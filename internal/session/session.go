package session

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"time"
)

// The longest that a session may last, and that a sign-in may take.
const (
	MaxLifetime = 7 * 24 * time.Hour
	PendingTime = 10 * time.Minute
)

// Session is what a browser has proved.
type Session struct {
	Provider string `json:"p"` // namespace/name
	Issuer   string `json:"i"`
	Subject  string `json:"s"`
	// ID is what logout and revocations name it by: the provider's sid, or ours.
	ID     string         `json:"d"`
	Groups []string       `json:"g,omitempty"`
	Claims map[string]any `json:"c,omitempty"`

	SignedIn time.Time `json:"t"` // when it began
	Expires  time.Time `json:"e"`

	// How and when the provider authenticated the person; zero when it does not
	// tell.
	AuthTime time.Time `json:"a,omitzero"`
	ACR      string    `json:"r,omitempty"`
	AMR      []string  `json:"m,omitempty"`
}

// NewID returns the name of a session whose provider has none.
func NewID() string { return rand.Text() }

// Seal returns s as the value of a host's cookie. ErrNoKey, ErrTooLarge.
func (s *Session) Seal(r *Ring, host string, now time.Time) (string, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return r.Seal(Signed, host, b, now)
}

// Open returns the session of a cookie's value. Whether it has expired is for the
// caller to compare. ErrNoKey, ErrForeign.
func Open(r *Ring, host, value string) (*Session, error) {
	b, err := r.Open(Signed, host, value)
	if err != nil {
		return nil, err
	}
	s := &Session{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(s); err != nil {
		return nil, errors.Join(ErrForeign, err)
	}
	for name, v := range s.Claims {
		s.Claims[name] = numbers(v)
	}
	return s, nil
}

// numbers makes of v what the claims of a bearer token would be: int64 where it is
// one, else float64.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64() // it was one when it was sealed
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = numbers(v[name])
		}
	}
	return v
}
