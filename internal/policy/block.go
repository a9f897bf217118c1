package policy

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// block is questions that are about one thing: to look at it once and tell what
// it is to each of them costs little more than to ask one.
type block struct {
	subject
	all       uint64  // its questions, as bits of one word of a set
	first     uint8   // of these bits
	questions []*term // from the first on

	// The questions in the form in which they are told apart: one of these.
	texts    map[string]uint64 // those that hold of a text, or of a list with it
	networks []network
	periods  []period
	limits   []limit
}

// subject is what a question is about. Those about the same have all of it in
// common.
type subject struct {
	kind termKind // termFlag: nothing that other questions are about
	source
}

// subject returns what t is about.
func (t *term) subject() subject {
	s := subject{kind: t.kind, source: t.source}
	switch t.kind {
	case termIs, termOneOf:
		s.kind = termOneOf
	case termMoment, termWindow:
		s.kind, s.sizes = termWindow, sizes{}
	case termWithin:
		s.sizes = sizes{}
	case termClaimIs, termClaimHas, termClaim:
	default:
		return subject{}
	}
	return s
}

// takes reports whether a question about a subject, of the number n, goes into b
// after those that are there.
func (b *block) takes(about subject, n uint32) bool {
	return b.kind != termFlag && b.subject == about && len(b.questions) < b.most() && n%64 != 0
}

// most bounds what is asked with a question and may not be needed.
func (b *block) most() int {
	switch b.kind {
	case termOneOf, termClaimIs, termClaimHas:
		return 64 // one look-up tells
	}
	return 16
}

func (b *block) add(q *term, n uint32) {
	bit := uint64(1) << (n % 64)
	b.all |= bit
	b.questions = append(b.questions, q)
	switch q.kind {
	case termIs, termClaimIs, termClaimHas:
		b.texts[q.text] |= bit
	case termOneOf:
		for _, text := range q.texts {
			b.texts[text] |= bit
		}
	case termWithin:
		b.networks = append(b.networks, networkOf(q.network))
	case termMoment, termWindow:
		b.periods = append(b.periods, q.period())
	case termClaim:
		b.limits = append(b.limits, limit{q.number, q.order})
	}
}

// ask puts all questions of b to a request.
func (b *block) ask(in *Input) answers {
	f := (*facts)(in)
	switch b.kind {
	case termOneOf:
		return b.ofText(b.get.always(f))
	case termWithin:
		return b.ofAddress(b.get.rawAddress(f))
	case termWindow:
		return b.ofMoment(b.get.rawMoment(f), f)
	case termClaimIs, termClaimHas, termClaim:
		switch v, found := b.lookUp(f); found {
		case yes:
			return b.ofClaim(v)
		case noValue:
			return answers{noValue: b.all}
		}
		return answers{unclear: b.all}
	}
	return b.each(in)
}

// each asks one question after the other.
func (b *block) each(in *Input) (told answers) {
	bit := uint64(1) << b.first
	for _, q := range b.questions {
		told.note(bit, q.ask(in))
		bit <<= 1
	}
	return told
}

// told is that some questions hold, and no other.
func (b *block) told(yes uint64) answers { return answers{yes: yes, no: b.all &^ yes} }

func (b *block) ofText(v string) answers {
	if len(v) > int(b.sizes.text) {
		return answers{unclear: b.all}
	}
	return b.told(b.texts[v])
}

func (b *block) ofClaim(v any) answers {
	switch b.kind {
	case termClaim:
		return b.ofNumber(v)
	case termClaimHas:
		return b.ofList(v)
	}
	v, x := b.sizes.admit(v)
	if x != answered {
		return answers{unclear: b.all}
	}
	text, ok := v.(string)
	if !ok {
		return b.told(0)
	}
	return b.told(b.texts[text])
}

// limit is what a number is compared with.
type limit struct {
	number numeral
	order  order
}

func (b *block) ofNumber(v any) answers {
	number, ok := numeralOf(v)
	if !ok {
		return answers{unclear: b.all}
	}
	var yes uint64
	for i := range b.limits {
		if l := &b.limits[i]; l.order.numerals(number, l.number) {
			yes |= 1 << i
		}
	}
	return b.told(yes << b.first)
}

func (b *block) ofList(v any) answers {
	list, ok := v.([]any)
	if !ok || len(list) > int(b.sizes.items) {
		return answers{unclear: b.all}
	}
	if len(b.questions) < 8 {
		return b.eachOf(list)
	}
	var yes uint64
	for _, v := range list {
		text, ok := v.(string)
		switch {
		case ok:
			yes |= b.texts[text]
		case !isJSON(v):
			return answers{yes: yes, unclear: b.all &^ yes} // as of textInList
		}
	}
	return b.told(yes)
}

// eachOf looks through a list for each of a few questions.
func (b *block) eachOf(list []any) (told answers) {
	bit := uint64(1) << b.first
	for _, q := range b.questions {
		holds, x := textInList(q.text, list)
		told.note(bit, answerOf(holds, x))
		bit <<= 1
	}
	return told
}

// network is a netip.Prefix whose bits are compared without a branch.
type network struct {
	high, low         uint64
	maskHigh, maskLow uint64
	v4                bool
}

func networkOf(p netip.Prefix) network {
	p = p.Masked()
	n := network{v4: p.Addr().Is4()}
	n.high, n.low = halves(p.Addr())
	bits := p.Bits()
	if n.v4 {
		bits += 96
	}
	n.maskHigh, n.maskLow = ones(min(bits, 64)), ones(max(bits-64, 0))
	return n
}

// ones is so many bits from the highest on.
func ones(n int) uint64 { return ^(math.MaxUint64 >> n) }

func halves(a netip.Addr) (high, low uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func (b *block) ofAddress(v netip.Addr) answers {
	if !v.IsValid() {
		return answers{noValue: b.all}
	}
	v = v.Unmap()
	high, low := halves(v)
	var yes uint64
	for i := range b.networks {
		n := &b.networks[i]
		if (high^n.high)&n.maskHigh|(low^n.low)&n.maskLow == 0 && n.v4 == v.Is4() {
			yes |= 1 << i
		}
	}
	return b.told(yes << b.first)
}

// instant is a moment no later than farthest, or a bound beyond all of them.
type instant struct{ seconds, nanos int64 }

const farthest = 1 << 60

func instantOf(t time.Time) instant { return instant{t.Unix(), int64(t.Nanosecond())} }

func (i instant) before(j instant) bool {
	return i.seconds < j.seconds || i.seconds == j.seconds && i.nanos < j.nanos
}

// period is from an instant on, up to another.
type period struct{ from, until instant }

// period returns the times of which t holds.
func (t *term) period() period {
	edge := instantOf(t.edge)
	behind := instant{edge.seconds, edge.nanos + 1} // no instant is between
	p := period{from: instant{seconds: math.MinInt64}, until: instant{seconds: math.MaxInt64}}
	switch {
	case t.kind == termWindow:
		return period{edge, instantOf(t.until)}
	case t.order == less:
		p.until = edge
	case t.order == lessEqual:
		p.until = behind
	case t.order == greater:
		p.from = behind
	default:
		p.from = edge
	}
	return p
}

func (b *block) ofMoment(v time.Time, f *facts) answers {
	at := instantOf(v)
	switch {
	case v.IsZero():
		return answers{noValue: b.all}
	case at.seconds > farthest: // or seconds of long ago have wrapped round
		return b.each((*Input)(f))
	}
	var yes uint64
	for i := range b.periods {
		if p := &b.periods[i]; !at.before(p.from) && at.before(p.until) {
			yes |= 1 << i
		}
	}
	return b.told(yes << b.first)
}
