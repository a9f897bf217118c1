package policy

import (
	"fmt"
	"time"
)

// Grant is what makes an ALLOW one for a time, and who answers for it.
type Grant struct {
	NotBefore, NotAfter time.Time // from the former, up to the latter
	Reason, Approver    string
}

// during reports whether the grant is in force. It is not at a time that is not
// known.
func (g *Grant) during(now time.Time) bool {
	return !now.IsZero() && !now.Before(g.NotBefore) && now.Before(g.NotAfter)
}

// String says what people need to know of the grant.
func (g *Grant) String() string {
	const form = "2006-01-02T15:04Z"
	return cut(fmt.Sprintf("granted from %s until %s, approved by %s: %s",
		g.NotBefore.UTC().Format(form), g.NotAfter.UTC().Format(form), g.Approver, g.Reason))
}

// state says how a time is to the grant.
func (g *Grant) state(now time.Time) string {
	switch {
	case g.during(now):
		return "in force"
	case now.Before(g.NotBefore):
		return "still to come"
	}
	return "expired"
}

func (c *compiler) grant(s Spec) {
	if s.Grant == nil {
		return
	}
	g := *s.Grant
	switch {
	case s.Effect != Allow:
		c.refuse("effect", "a grant allows")
	case !g.NotAfter.After(g.NotBefore) || g.NotBefore.IsZero():
		c.refuse("notAfter", "a grant ends after it begins")
	case g.Reason == "" || g.Approver == "":
		c.refuse("reason", "a grant has a reason and an approver")
	}
	c.policy.grant = &g
	c.policy.key = "Grant/" + c.policy.key
	c.policy.note = g.String()
}
