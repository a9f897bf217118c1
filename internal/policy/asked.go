package policy

// maxAnswers bounds what is kept while a request is decided. What goes beyond is
// asked again.
const maxAnswers = 191

// asked is a request, and what has been asked of it. It is for one request, and
// lives on the stack.
type asked struct {
	in      *Input
	sheet   *sheet
	answers [len(set{})]answers
}

// answers are questions by what the answer was, as bits of one word of a set. A
// question in none of them is still to be asked.
type answers struct{ yes, no, noValue, unclear uint64 }

// answer is that to a question. The zero answer is none yet.
type answer uint8

const (
	unasked answer = iota
	yes
	no
	noValue // a field or a claim is missing
	unclear // only CEL's library can tell
)

// match says whether a policy matches, of which these are the questions. It does
// not know what went wrong where it says noValue.
func (a *asked) match(questions *set, r *row) answer {
	var open, missed, rest uint64
	for w := range questions {
		known := &a.answers[w]
		left := questions[w] &^ known.yes
		open |= left
		missed |= left & known.no
		rest |= left &^ (known.no | known.noValue)
	}
	switch {
	case rest != 0:
		return a.walk(*r)
	case missed != 0:
		return no
	case open != 0:
		return noValue
	}
	return yes
}

// walk is match in the policy's order, in which an answer that is unclear counts
// before any that follows.
func (a *asked) walk(questions row) answer {
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

// known returns what was answered before.
func (a *asked) known(n uint32) answer {
	if n >= maxAnswers {
		return unasked
	}
	known, bit := &a.answers[n/64], uint64(1)<<(n%64)
	switch {
	case known.yes&bit != 0:
		return yes
	case known.no&bit != 0:
		return no
	case known.noValue&bit != 0:
		return noValue
	case known.unclear&bit != 0:
		return unclear
	}
	return unasked
}

// ask puts a question to the request, and those that are about the same.
func (a *asked) ask(n uint32) answer {
	if n >= maxAnswers {
		return a.sheet.questions[n].ask(a.in)
	}
	b := &a.sheet.blocks[a.sheet.block[n]]
	a.answers[n/64].add(b.ask(a.in))
	return a.known(n)
}

func (a *answers) add(more answers) {
	a.yes |= more.yes
	a.no |= more.no
	a.noValue |= more.noValue
	a.unclear |= more.unclear
}

func (a *answers) note(bit uint64, got answer) {
	switch got {
	case yes:
		a.yes |= bit
	case no:
		a.no |= bit
	case noValue:
		a.noValue |= bit
	default:
		a.unclear |= bit
	}
}

// ask puts one question to a request.
func (t *term) ask(in *Input) answer {
	var holds bool
	var x fault
	switch t.kind {
	case termPrincipals:
		holds = t.policy.principals.match(in.Principal)
	case termMethods:
		holds = t.policy.matchMethod(in.Method)
	case termPaths:
		holds = t.policy.matchPath(in.Path)
	case termGrant:
		holds = t.policy.grant.during(in.Now)
	default:
		holds, x = t.holds((*facts)(in), nil)
	}
	return answerOf(holds, x)
}

func answerOf(holds bool, x fault) answer {
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
