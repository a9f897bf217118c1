package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/pattern"
)

// Compile checks s and makes it ready to decide. The error joins one *Error
// for each problem found; Problems takes it apart. Compile keeps no part of s
// that the caller could change, and is safe for concurrent use.
func Compile(s Spec) (*Policy, error) {
	c := compiler{policy: Policy{
		namespace: s.Namespace,
		name:      s.Name,
		key:       s.Namespace + "/" + s.Name,
		digest:    s.Digest,
		source:    s.Source,
		effect:    s.Effect,
		shadow:    s.Shadow,
	}}
	c.key(s)
	if s.Effect != Allow && s.Effect != Deny {
		c.refuse("effect", "must be ALLOW or DENY")
	}
	c.grant(s)
	c.principals(s)
	c.methods(s.Methods)
	c.paths(s.Paths)
	c.when(s.When, s.Terms)
	if len(c.problems) > 0 {
		return nil, errors.Join(c.problems...)
	}
	return &c.policy, nil
}

// compiler fills policy and gathers the problems on the way.
type compiler struct {
	policy   Policy
	problems []error
}

func (c *compiler) refuse(field, reason string) {
	c.problems = append(c.problems, &Error{Field: field, Reason: reason})
}

// bounded reports whether n is at most limit, and refuses field if not.
func (c *compiler) bounded(field string, n, limit int) bool {
	if n > limit {
		c.refuse(field, fmt.Sprintf("%d entries: more than %d", n, limit))
		return false
	}
	return true
}

func (c *compiler) key(s Spec) {
	if s.Namespace == "" {
		c.refuse("namespace", "must not be empty")
	}
	if s.Name == "" {
		c.refuse("name", "must not be empty")
	}
}

func (c *compiler) principals(s Spec) {
	if len(s.Principals) == 0 {
		c.policy.principals.everybody = s.Effect == Deny
		if s.Effect == Allow {
			c.refuse("principals", "an ALLOW must name its principals; authenticated: true is everybody who proved who they are")
		}
		return
	}
	if !c.bounded("principals", len(s.Principals), MaxPrincipals) {
		return
	}
	for i, m := range s.Principals {
		c.principal(fmt.Sprintf("principals[%d]", i), m)
	}
}

func (c *compiler) principal(field string, m PrincipalMatcher) {
	if n := count(m.Group != "", m.ID != "", m.SPIFFE != "", m.Key != "", m.Authenticated, m.Anonymous); n != 1 {
		c.refuse(field, "set exactly one of group, id, spiffe, key, authenticated and anonymous")
		return
	}
	if m.Issuer != "" && m.Group == "" && m.ID == "" {
		c.refuse(field+".issuer", "goes with group or id only")
	}
	if m.Provider != "" && m.Group == "" && m.ID == "" {
		c.refuse(field+".provider", "goes with group or id only")
	}
	c.text(field+".issuer", m.Issuer)
	c.text(field+".provider", m.Provider)
	who := &c.policy.principals
	switch {
	case m.Group != "":
		c.text(field+".group", m.Group)
		who.groups = append(who.groups, qualified{m.Group, m.Issuer, m.Provider})
	case m.ID != "":
		c.id(field+".id", m.ID)
		who.ids = append(who.ids, qualified{m.ID, m.Issuer, m.Provider})
	case m.SPIFFE != "":
		c.spiffe(field+".spiffe", m.SPIFFE)
	case m.Key != "":
		c.text(field+".key", m.Key)
		who.keys = append(who.keys, m.Key)
	case m.Authenticated:
		who.authenticated = true
	case m.Anonymous:
		who.anonymous = true
	}
}

// id refuses SPIFFE IDs: any identity provider could issue a subject that
// looks like one, while a spiffe matcher asks for the certificate.
func (c *compiler) id(field, id string) {
	c.text(field, id)
	if strings.HasPrefix(id, "spiffe://") {
		c.refuse(field, "name a SPIFFE ID with spiffe, which asks for its certificate")
	}
}

func (c *compiler) spiffe(field, text string) {
	p, err := pattern.ParseSPIFFE(text)
	if err != nil {
		c.refuse(field, err.Error())
		return
	}
	c.policy.principals.spiffe = append(c.policy.principals.spiffe, p)
}

// text refuses names that no principal can have or no log can show.
func (c *compiler) text(field, name string) {
	switch {
	case len(name) > MaxNameLength:
		c.refuse(field, fmt.Sprintf("%d bytes: more than %d", len(name), MaxNameLength))
	case !utf8.ValidString(name):
		c.refuse(field, "is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		c.refuse(field, "contains a control character")
	}
}

func (c *compiler) methods(methods []string) {
	if !c.bounded("methods", len(methods), MaxMethods) {
		return
	}
	for i, m := range methods {
		if !isMethod(m) {
			c.refuse(fmt.Sprintf("methods[%d]", i), fmt.Sprintf("%.40q is not an upper-case method name; leave methods out for any", m))
		}
	}
	c.policy.methods = slices.Compact(slices.Sorted(slices.Values(methods)))
}

// isMethod is stricter than a token of RFC 9110, section 5.6.2: "*" is one,
// and would match no request where its author meant every one.
func isMethod(s string) bool {
	for i := range len(s) {
		letter := s[i] >= 'A' && s[i] <= 'Z'
		if !letter && (i == 0 || s[i] != '-' && s[i] != '_' && (s[i] < '0' || s[i] > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func (c *compiler) paths(paths []string) {
	if !c.bounded("paths", len(paths), MaxPaths) {
		return
	}
	for i, text := range paths {
		p, err := pattern.ParsePath(text)
		if err != nil {
			c.refuse(fmt.Sprintf("paths[%d]", i), err.Error())
			continue
		}
		c.policy.paths = append(c.policy.paths, p)
	}
}

func (c *compiler) when(text string, terms *Terms) {
	if text == "" {
		return
	}
	when, problems := compileCondition(text, terms)
	for _, p := range problems {
		c.problems = append(c.problems, p)
	}
	c.policy.when = when
}

// CheckCondition says what is wrong with a condition that others refer to by name,
// as Compile does of a policy's. Without terms it may refer to any itself.
func CheckCondition(when string, terms *Terms, name string) error {
	tree, _, problems := checkCondition(when, terms, []string{name})
	if len(problems) == 0 {
		v, err := language()
		if err != nil {
			return err
		}
		_, problems = v.plan(tree)
	}
	return joined(problems)
}

// joined is nil without problems.
func joined(problems []*Error) error {
	all := make([]error, 0, len(problems))
	for _, p := range problems {
		all = append(all, p)
	}
	return errors.Join(all...)
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}
