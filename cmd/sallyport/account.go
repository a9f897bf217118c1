package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// steps tells what each policy of a route had to say, and which of its clauses
// would have changed that.
func (t *telling) steps(steps []*decisionv1.Step, omitted int32) {
	if len(steps) == 0 {
		return
	}
	t.gap()
	t.line("what the policies of the route say:")
	for _, s := range steps {
		t.line("  %-5s %s %s", s.GetEffect(), s.GetPolicy(), said(s))
		for _, c := range missed(s) {
			t.line("          %s", clause(c))
		}
	}
	if omitted > 0 {
		t.line("  and %s that had less to say", count(int(omitted), "policy that is not shown"))
	}
}

// missed are the clauses to blame for a policy that had no say: of the lightest way
// to another outcome, or the lightest that has to do with its condition, if that
// has no value. There are none of a policy that matched.
func missed(s *decisionv1.Step) []*decisionv1.Clause {
	if s.GetMatched() {
		return nil
	}
	var found []*decisionv1.Clause
	for _, w := range s.GetWays() {
		if found == nil {
			found = w.GetClauses()
		}
		failed := slices.ContainsFunc(w.GetClauses(), func(c *decisionv1.Clause) bool { return c.GetValue() == "error" })
		if s.GetMiss() == "error" && failed {
			return w.GetClauses()
		}
	}
	return found
}

// said is what a policy said.
func said(s *decisionv1.Step) string {
	var text string
	switch {
	case s.GetMatched():
		text = "matched"
	case s.GetMiss() == "error":
		text = "has a condition without a value"
	case s.GetMiss() == "time":
		text = "is not in force at that time"
	case s.GetMiss() == "condition":
		text = "has a condition that did not hold"
	default:
		text = "is for another " + s.GetMiss()
	}
	if s.GetShadow() {
		text += " (in shadow: it does not count)"
	}
	return joined(": ", text, s.GetDetail())
}

// clause is a clause with what it came to.
func clause(c *decisionv1.Clause) string {
	text := c.GetText()
	if text == "" {
		text = "one that names the principal"
	}
	if c.GetPart() == "condition" {
		text = strconv.Quote(text)
		text = strings.ReplaceAll(text[1:len(text)-1], `\"`, `"`)
	}
	place := ""
	if c.GetLine() > 0 {
		place = fmt.Sprintf(" (line %d, column %d%s)", c.GetLine(), c.GetColumn(), named(" of condition ", c.GetCondition()))
	}
	came := "was " + c.GetValue()
	if c.GetValue() == "error" {
		came = "had no value"
	}
	return text + place + " " + came
}

func (t *telling) shadow(s *decisionv1.Shadow) {
	if s == nil {
		return
	}
	would := "deny"
	if s.GetAllow() {
		would = "allow"
	}
	t.gap()
	t.line("in shadow: %s would %s it (%s)", s.GetPolicy(), would, s.GetReason())
}

// changes tells what would have turned the decision round.
func (t *telling) changes(changes []*decisionv1.Change, meaning string) {
	if len(changes) == 0 && meaning == "" {
		return
	}
	t.gap()
	t.line("what would have changed it:")
	if meaning != "" {
		t.line("  %s", meaning)
	}
	for _, c := range changes {
		for i, f := range c.GetFlips() {
			lead := "  -"
			if i > 0 {
				lead = "    and"
			}
			text := f.GetClause().GetText()
			if text == "" {
				text = "what names the principal"
			}
			t.line("%s %s: %s comes to %s", lead, f.GetPolicy(), text, f.GetClause().GetWant())
		}
	}
}

// again tells what came of asking again.
func (t *telling) again(res *adminv1.ExplainResponse) {
	t.gap()
	revision := res.GetAnswer().GetRevision()
	switch res.GetAgreement() {
	case adminv1.Agreement_AGREEMENT_SAME:
		t.line("asked again at revision %d: the same answer", revision)
	case adminv1.Agreement_AGREEMENT_DIFFERENT:
		t.line("asked again at revision %d: ANOTHER ANSWER, %s", revision, brief(res.GetAnswer()))
	case adminv1.Agreement_AGREEMENT_UNKNOWN:
		t.line("asked again at revision %d: %s, by what is recorded; the record is right", revision, brief(res.GetAnswer()))
	default:
		t.line("not asked again: %s", res.GetNote())
	}
	t.inexact(res.GetAnswer())
}

func (t *telling) inexact(a *adminv1.Answer) {
	for _, why := range a.GetInexact() {
		t.line("  inexact: %s", why)
	}
}

// brief is an answer in a few words.
func brief(a *adminv1.Answer) string {
	verdict := "denied"
	if a.GetAllow() {
		verdict = "allowed"
	}
	return joined(", ", verdict+" ("+a.GetReason()+")", named("by ", a.GetPolicy()))
}
