package token

// UserInfo is what the userinfo endpoint of a provider says of a subject (OpenID
// Connect Core 1.0, section 5.3.2).
type UserInfo struct {
	Groups []string // none is empty
	All    map[string]any
}

// ReadUserInfo reads the answer of a userinfo endpoint, which has to be of the
// subject sub: without that, it may be of whoever the access token is of. Of rules,
// the claim for groups alone says anything here. Every error is an *Error.
func (r *Rules) ReadUserInfo(text []byte, sub string) (*UserInfo, error) {
	all, err := decodeObject(text)
	if err != nil {
		return nil, refuse(Malformed)
	}
	if of, _ := all["sub"].(string); of == "" || of != sub {
		return nil, refuse(BadClaim)
	}
	more, ok := groups(all, or(r.GroupsClaim, "groups"))
	if !ok {
		return nil, refuse(BadClaim)
	}
	return &UserInfo{Groups: more, All: all}, nil
}
