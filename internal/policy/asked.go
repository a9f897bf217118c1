package policy

// Bounds of what is kept while a request is decided. What goes beyond is asked
// again.
const (
	maxAnswers = 192
	maxClaims  = 8
)

// asked is a request, and what has been asked of it. It is for one request, and
// lives on the stack.
type asked struct {
	in      *Input
	sheet   *sheet
	answers [maxAnswers]answer
	claims  [maxClaims]claim
}

// answer is that to a question. The zero answer is none yet.
type answer uint8

const (
	unasked answer = iota
	yes
	no
	noValue // a field or a claim is missing
	unclear // only CEL's library can tell
)

// claim is one that was looked up.
type claim struct {
	value  any
	fault  fault
	looked bool
}

// match says whether the policy of a row matches. It does not know what went
// wrong where it says noValue.
func (a *asked) match(questions row) answer {
	if len(questions) == 0 {
		return unclear
	}
	all := yes
	for _, n := range questions {
		got := a.known(n)
		if got == unasked {
			got = a.ask(n)
		}
		switch got {
		case yes:
		case no:
			return no
		case noValue:
			all = noValue
		default:
			return unclear
		}
	}
	return all
}

// known returns what was answered before. It is apart from ask to be inlined.
func (a *asked) known(n uint32) answer {
	if n >= maxAnswers {
		return unasked
	}
	return a.answers[n]
}

func (a *asked) ask(n uint32) answer {
	got := a.put(&a.sheet.questions[n])
	if n < maxAnswers {
		a.answers[n] = got
	}
	return got
}

// put puts a question to the request.
func (a *asked) put(q *term) answer {
	var holds bool
	var x fault
	switch q.kind {
	case termPrincipals:
		holds = q.policy.principals.match(a.in.Principal)
	case termMethods:
		holds = q.policy.matchMethod(a.in.Method)
	case termPaths:
		holds = q.policy.matchPath(a.in.Path)
	case termGrant:
		holds = q.policy.grant.during(a.in.Now)
	case termClaimIs, termClaimHas, termClaim:
		holds, x = a.claim(q)
	default:
		holds, x = q.holds((*facts)(a.in), nil)
	}
	switch {
	case x == elsewhere:
		return unclear
	case x != answered:
		return noValue
	case holds:
		return yes
	}
	return no
}

func (a *asked) claim(q *term) (bool, fault) {
	if q.slot == 0 {
		return q.claim((*facts)(a.in))
	}
	c := &a.claims[q.slot-1]
	if !c.looked {
		c.value, c.fault = q.lookUp((*facts)(a.in))
		c.looked = true
	}
	if c.fault != answered {
		return false, c.fault
	}
	return q.of(c.value)
}
