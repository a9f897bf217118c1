package courier

import (
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sallyport/sallyport/dataplane/record"
)

const (
	// perFlood is how many denials of one kind are recorded one by one in a second,
	// and perSecond how many of all kinds. Others are counted.
	perFlood  = 10
	perSecond = 500
	// maxFloods bounds the kinds that are told apart by who was denied, and
	// maxCrowds those that are told apart at all.
	maxFloods = 4096
	maxCrowds = maxFloods + 1024
	// countField is the number of Decision.count.
	countField = 21
)

// kind is what denials have in common that are counted together. The zero kind is
// of those for which there is no room.
type kind struct {
	route, reason string
	who           string // the principal, or else the address; empty in a crowd
}

// floods counts denials in great numbers. The zero value is empty.
type floods struct {
	mu      sync.Mutex
	second  int64
	singles int
	kinds   map[kind]*flood
}

// flood is the denials of one kind in this second.
type flood struct {
	of      *floods
	singles int
	count   int64  // of those that are not recorded one by one
	first   []byte // the record of the first of them, without a count
}

// take says whether a denial is recorded by itself; otherwise it was counted.
func (f *floods) take(d *record.Decision, now time.Time) (*flood, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := now.Unix(); s != f.second {
		f.second, f.singles = s, 0
		for _, k := range f.kinds {
			k.singles = 0
		}
	}
	k := f.find(kindOf(d))
	if k.singles < perFlood && f.singles < perSecond {
		k.singles++
		f.singles++
		return k, true
	}
	k.count++
	return k, false
}

func kindOf(d *record.Decision) kind {
	k := kind{route: d.Route, reason: d.Reason}
	switch {
	case d.Principal != nil && d.Principal.ID != "":
		k.who = d.Principal.Issuer + "\x00" + d.Principal.ID
	case d.ClientIP.IsValid():
		k.who = d.ClientIP.String()
	case d.PeerIP.IsValid():
		k.who = d.PeerIP.String()
	}
	return k
}

// find returns the flood of a kind, or of the crowd that it is one of.
func (f *floods) find(k kind) *flood {
	if f.kinds == nil {
		f.kinds = map[kind]*flood{}
	}
	if len(f.kinds) >= maxFloods && f.kinds[k] == nil {
		k.who = ""
	}
	if len(f.kinds) >= maxCrowds && f.kinds[k] == nil {
		k = kind{}
	}
	found := f.kinds[k]
	if found == nil {
		found = &flood{of: f}
		f.kinds[k] = found
	}
	return found
}

// begins reports whether a record is wanted to stand for those that are counted.
func (f *flood) begins() bool {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	return f.first == nil
}

func (f *flood) hold(record []byte) {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	f.first = append([]byte(nil), record...)
}

// flush returns the records of what was counted, each with its count, and forgets
// all kinds.
func (f *floods) flush() (counted [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, flood := range f.kinds {
		switch {
		case flood.count > 0 && flood.first != nil:
			record := protowire.AppendTag(flood.first, countField, protowire.VarintType)
			counted = append(counted, protowire.AppendVarint(record, uint64(flood.count)))
			flood.count, flood.first = 0, nil
		case flood.count == 0:
			delete(f.kinds, k)
		}
	}
	return counted
}
