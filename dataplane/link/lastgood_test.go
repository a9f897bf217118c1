package link_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// alone is a proxy that reaches no control plane.
func alone(c *link.Config) { c.ControlPlanes = []string{"https://127.0.0.1:1"} }

// serve makes a proxy enforce and keep the snapshots, one after the other, and
// stops it.
func (l *lab) serve(t *testing.T, all ...*snapshot.Snapshot) {
	t.Helper()
	_, stop := l.start(t, newTable())
	v := l.stream(t)
	var base *snapshot.Snapshot
	for _, s := range all {
		v.push(t, base, s)
		v.persisted(t, s.Head().Revision)
		base = s
	}
	v.confirm(freshness(t, base.Head(), time.Now()))
	eventually(t, "freshness on disk", func() bool { _, err := os.Stat(l.file("freshness")); return err == nil })
	stop()
}

func (l *lab) file(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(l.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (l *lab) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(l.file(name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// settled waits until the proxy has tried to reach a control plane: by then it
// has put in force what it found.
func (l *lab) settled(t *testing.T) {
	t.Helper()
	eventually(t, "an attempt", func() bool { return l.metric(t, "sallyport_link_attempts_total") > 0 })
}

func TestRestartWithoutControlPlane(t *testing.T) {
	l := newLab(t)
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2", "b": "1"})
	l.serve(t, one, two)
	e := newTable()
	k, stop := l.start(t, e, alone)
	l.settled(t)
	e.wantEnforced(t, two)
	if age, known := k.Age(); !known || age < 0 || age > patience {
		t.Errorf("age after restart is %s, %t", age, known)
	}
	stop()

	// The control plane is back: the proxy is current and says so.
	l.start(t, newTable())
	current := l.stream(t).hello(t).GetCurrent()
	wantProof(t, current, two)
	if current.GetPersistedRevision() != 11 {
		t.Errorf("persisted revision is %d, want 11", current.GetPersistedRevision())
	}
}

// A snapshot that spans several parts is kept whole.
func TestLargeLastGood(t *testing.T) {
	l := newLab(t)
	large := map[string]string{}
	for i := range 30 {
		large[string(rune('a'+i))] = strings.Repeat("x", 100<<10)
	}
	big := at(t, 10, large)
	l.serve(t, big)
	e := newTable()
	l.start(t, e, alone)
	l.settled(t)
	e.wantEnforced(t, big)
}

// A generation that is torn or tampered with is not used; the one before it is.
func TestDamagedLastGood(t *testing.T) {
	l := newLab(t)
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"})
	l.serve(t, one, two)
	whole, before := l.read(t, "last-good"), l.read(t, "last-good.previous")
	flip := func(b []byte, at int) []byte { b = slices.Clone(b); b[at] ^= 1; return b }
	resigned := func() []byte { // consistent, but signed by somebody else
		foreign := place{env, 1, 11, 2}.sign(t, docs(t, map[string]string{"a": "evil"}))
		other := newLab(t)
		other.cfg.Verifier = signer(2).Verifier()
		_, stop := other.start(t, newTable())
		v := other.stream(t)
		v.push(t, nil, foreign)
		v.persisted(t, 11)
		stop()
		return other.read(t, "last-good")
	}()
	type files struct{ current, previous []byte }
	damaged := map[string]struct {
		files
		want *snapshot.Snapshot
	}{
		"untouched":                {files{whole, before}, two},
		"empty":                    {files{nil, before}, one},
		"torn in the magic":        {files{whole[:7], before}, one},
		"torn in a part":           {files{whole[:len(whole)/2], before}, one},
		"without its checksum":     {files{whole[:len(whole)-32], before}, one},
		"torn in the checksum":     {files{whole[:len(whole)-1], before}, one},
		"longer":                   {files{append(slices.Clone(whole), 0), before}, one},
		"a bit of the magic":       {files{flip(whole, 0), before}, one},
		"a bit of a length":        {files{flip(whole, 23), before}, one},
		"a bit of a part":          {files{flip(whole, 40), before}, one},
		"a bit of the checksum":    {files{flip(whole, len(whole)-1), before}, one},
		"signed by somebody else":  {files{resigned, before}, one},
		"both generations damaged": {files{flip(whole, 40), flip(before, 40)}, nil},
	}
	for name, c := range damaged {
		t.Run(name, func(t *testing.T) {
			l.write(t, "last-good", c.current)
			l.write(t, "last-good.previous", c.previous)
			e := newTable()
			k, stop := l.start(t, e, alone)
			defer stop()
			l.settled(t)
			e.wantEnforced(t, c.want)
			if k.Enforcing() != (c.want != nil) {
				t.Errorf("enforcing: %t", k.Enforcing())
			}
			if loud := l.metric(t, "sallyport_last_good_damaged_total") > 0; loud != (c.want != two) {
				t.Errorf("damage was counted: %t", loud)
			}
		})
	}
}

// While the current generation is damaged, writing a new one leaves the previous
// one alone.
func TestDamageNeverReplacesThePreviousGeneration(t *testing.T) {
	l := newLab(t)
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"})
	l.serve(t, one, two)
	before := l.read(t, "last-good.previous")
	l.write(t, "last-good", l.read(t, "last-good")[:50])
	l.serve(t, at(t, 12, map[string]string{"a": "3"}))
	if !slices.Equal(l.read(t, "last-good.previous"), before) {
		t.Error("the previous generation has changed")
	}
}

// The high-water mark outlives everything: what was enforced is never undone
// from the network, not even when last-good is gone.
func TestHighWaterMarkSurvivesRestart(t *testing.T) {
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"})
	fork := at(t, 11, map[string]string{"a": "evil"})
	for name, damage := range map[string]func(l *lab){
		"nothing is lost":   func(*lab) {},
		"last-good is gone": func(l *lab) { _ = os.Remove(l.file("last-good")) },
		"last-good is damaged": func(l *lab) {
			_ = os.Truncate(l.file("last-good"), 50)
		},
		"both generations are gone": func(l *lab) {
			_ = os.Remove(l.file("last-good"))
			_ = os.Remove(l.file("last-good.previous"))
		},
		"the mark itself is gone": func(l *lab) { _ = os.Remove(l.file("high-water-mark")) },
		"the mark is torn":        func(l *lab) { _ = os.Truncate(l.file("high-water-mark"), 20) },
		"the mark is another": func(l *lab) {
			b := bytes.Replace(l.read(t, "high-water-mark"), []byte(`"revision":11`), []byte(`"revision":99`), 1)
			l.write(t, "high-water-mark", b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.serve(t, one, two)
			damage(l)
			e := newTable()
			l.start(t, e)
			v := l.stream(t)
			for _, c := range []struct {
				s      *snapshot.Snapshot
				reason string
			}{{one, "older_revision"}, {fork, "fork"}} {
				v.send(slices.Collect(snapshot.Updates(nil, c.s))...)
				if r := v.refusal(t); r.GetReason() != c.reason {
					t.Errorf("revision %d was refused with %v, want %s", c.s.Head().Revision, r, c.reason)
				}
			}
			wantProof(t, v.push(t, nil, two), two)
			e.wantEnforced(t, two)
		})
	}
}

// Of changes that follow one another the last is written; but the first, and what cuts
// somebody off, is written at once.
func TestWritingWaitsForMore(t *testing.T) {
	l, e := newLab(t), newTable()
	l.rest = time.Hour
	_, stop := l.start(t, e)
	v := l.stream(t)
	first := place{snapshot.SecurityLane, 1, 1, 1}.sign(t, docs(t, map[string]string{"b": "1"}))
	second := place{snapshot.SecurityLane, 1, 2, 1}.sign(t, docs(t, map[string]string{"b": "2"}))
	v.secure(t, nil, first)
	v.securityAck(t, first, 1)
	ten := at(t, 10, map[string]string{"a": "1"})
	v.push(t, nil, ten)
	v.persisted(t, 10)
	eleven := at(t, 11, map[string]string{"a": "2"})
	twelve := at(t, 12, map[string]string{"a": "3"})
	v.push(t, ten, eleven)
	v.push(t, eleven, twelve)
	v.confirm(freshness(t, second.Head(), time.Now()))
	v.secure(t, first, second)
	v.securityAck(t, second, 2)
	if got := l.metric(t, "sallyport_snapshot_persisted_revision"); got != 10 {
		t.Errorf("revision %v was written at once", got)
	}
	stop() // which writes what is due
	l.rest = time.Millisecond
	l.start(t, newTable())
	if h := l.stream(t).hello(t); h.GetCurrent().GetPersistedRevision() != 12 {
		t.Errorf("revision %d is on the disk, want 12", h.GetCurrent().GetPersistedRevision())
	}
}

// A disk that cannot be written delays nothing but persisted_revision.
func TestEnforcesWithoutADisk(t *testing.T) {
	l, e := newLab(t), newTable()
	l.start(t, e)
	v := l.stream(t)
	one, two := at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"})
	v.push(t, nil, one)
	v.persisted(t, 10)
	if err := os.Mkdir(l.file("last-good.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	ack := v.push(t, one, two)
	wantProof(t, ack, two)
	if ack.GetPersistedRevision() != 10 {
		t.Errorf("persisted revision is %d, want 10", ack.GetPersistedRevision())
	}
	eventually(t, "a failed write", func() bool { return l.metric(t, "sallyport_last_good_failed_writes_total") > 0 })
	if err := os.Remove(l.file("last-good.new")); err != nil {
		t.Fatal(err)
	}
	v.persisted(t, 11)
}

func TestStateIsForItsOwnerOnly(t *testing.T) {
	l := newLab(t)
	l.serve(t, at(t, 10, map[string]string{"a": "1"}), at(t, 11, map[string]string{"a": "2"}))
	seen := 0
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil || seen != 6 {
		t.Errorf("state directory holds %d entries, %v", seen, err)
	}

	if err := os.Chmod(l.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	c := l.cfg
	c.Policy, c.Security, c.Listeners = newTable(), newTable(), newTable()
	k, err := link.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Run(t.Context()); err == nil {
		t.Error("took a directory that everybody can write")
	}
}

// Only the newest is written, and what is written is what was enforced.
func TestBurstIsKept(t *testing.T) {
	l, e := newLab(t), newTable()
	_, stop := l.start(t, e)
	v := l.stream(t)
	var base *snapshot.Snapshot
	for r := snapshot.Revision(1); r <= 100; r++ {
		next := at(t, r, map[string]string{"a": string(rune('0' + r))})
		v.send(slices.Collect(snapshot.Updates(base, next))...)
		base = next
	}
	v.persisted(t, 100)
	stop()
	e2 := newTable()
	l.start(t, e2, alone)
	l.settled(t)
	e2.wantEnforced(t, base)
}
