package token

import "time"

// Authentication is how and when a token's subject proved who they are
// (OpenID Connect Core §2), as far as the token tells. What has another shape is
// not told.
type Authentication struct {
	At      time.Time // auth_time
	Class   string    // acr
	Methods []string  // amr
}

// Authentication returns what the token says of it.
func (c *Claims) Authentication() Authentication {
	var a Authentication
	a.At, _ = date(c.All, "auth_time")
	a.Class, _ = c.All["acr"].(string)
	if methods, ok := names(c.All["amr"]); ok {
		a.Methods = methods
	}
	return a
}
