package snapshot

// Protocol is a version of what a proxy and a control plane say to each other. The
// proxy says which it speaks, the control plane answers with the lower one of that and
// its own, and both go by the answer. Each version has what those before it have: a
// field that is not known is not read. Zero is no version.
type Protocol int32

// The versions, as proxy.proto dates them.
const (
	FirstProtocol  Protocol = 1
	SecondProtocol Protocol = 2
	ThirdProtocol  Protocol = 3
	// NewestProtocol is that of this build.
	NewestProtocol = ThirdProtocol
)

// since are the things that came after the first version.
var since = []struct {
	protocol Protocol
	what     string
}{
	{SecondProtocol, "key sets"},
	{SecondProtocol, "counts by kind"},
	{SecondProtocol, "draining"},
	{SecondProtocol, "refusals of registrations"},
	{SecondProtocol, "proof of older heads"},
	{SecondProtocol, "signed acks"},
	{SecondProtocol, "comparing documents one by one"},
	{ThirdProtocol, "proof of its keys behind an edge"},
}

// Common returns what p and this build both speak: p, or the newest one if p is later.
func (p Protocol) Common() Protocol { return min(p, NewestProtocol) }

// HasKeySets reports whether who speaks p follows key sets: all others take what the
// pinned key has signed, and nothing else, for good.
func (p Protocol) HasKeySets() bool { return p >= SecondProtocol }

// BindsKeys reports whether who speaks p proves that its keys are its own to those who
// hear of them from an edge.
func (p Protocol) BindsKeys() bool { return p >= ThirdProtocol }

// Lacks names what this build speaks and p does not, in words for people; nothing of
// a p that is no version.
func (p Protocol) Lacks() []string {
	var lacks []string
	for _, s := range since {
		if p >= FirstProtocol && p < s.protocol {
			lacks = append(lacks, s.what)
		}
	}
	return lacks
}
