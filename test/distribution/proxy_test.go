package distribution_test

import (
	"bytes"
	"errors"
	"maps"
)

var (
	errBase        = errors.New("base_mismatch")
	errRoot        = errors.New("root_mismatch")
	errCounts      = errors.New("count_mismatch")
	errEnvironment = errors.New("wrong_environment")
	errOlder       = errors.New("older_revision")
	errFork        = errors.New("fork")
)

const securityLane = "@security"

// proxy follows a stream by the rules of the document. What it leaves out has no
// part in what is believed: bounds, time, and the disk.
type proxy struct {
	*trust
	environment string
	lanes       map[string]*lane
}

// lane is what a proxy has of an environment, or of the security lane.
type lane struct {
	head      head
	documents documents
	confirmed uint64 // the second of the newest freshness statement

	// Of an update of which the last part is missing.
	next  documents
	begun []byte // of a document
}

// head is a verified Head.
type head struct {
	environment                string
	epoch, revision, documents uint64
	root, digest               []byte
}

func newProxy(pinned []byte, environment string) *proxy {
	return &proxy{
		trust: pin(pinned), environment: environment,
		lanes: map[string]*lane{environment: {}, securityLane: {}},
	}
}

// hear takes a StreamResponse. What it does not know it leaves alone.
func (p *proxy) hear(response []byte) error {
	m, err := parse(response)
	if err != nil {
		return err
	}
	for _, f := range m {
		switch f.number {
		case 1:
			err = p.update(p.environment, f.bytes)
		case 2:
			err = p.confirm(f.bytes)
		case 4:
			err = p.update(securityLane, f.bytes)
		case 6:
			err = p.follow(f.bytes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// update takes a part of an update.
func (p *proxy) update(environment string, part []byte) (err error) {
	l := p.lanes[environment]
	defer func() {
		if err != nil {
			l.next, l.begun = nil, nil
		}
	}()
	m, err := parse(part)
	if err != nil {
		return err
	}
	if err := l.gather(m); err != nil {
		return err
	}
	signed := m.bytes(4)
	if signed == nil {
		return nil
	}
	h, err := p.verifyHead(signed, l.next)
	if err != nil {
		return err
	}
	if err := l.follows(h, environment); err != nil {
		return err
	}
	l.head, l.documents, l.next = h, l.next, nil
	return nil
}

// gather takes what a part adds, replaces and removes.
func (l *lane) gather(m message) error {
	base := m.bytes(1)
	if len(base) > 0 && !bytes.Equal(base, l.head.root) {
		return errBase
	}
	if l.next == nil {
		if l.next = (documents{}); len(base) > 0 {
			l.next = maps.Clone(l.documents)
		}
	}
	for _, key := range m.all(3) {
		k, err := parse(key)
		if err != nil {
			return err
		}
		delete(l.next, string(keyDigest(k.bytes(1), k.bytes(2), k.bytes(3))))
	}
	all := m.all(2)
	for i, document := range all {
		if document = append(l.begun, document...); i == len(all)-1 && m.number(5) == 1 {
			l.begun = document
			return nil
		}
		l.begun = nil
		if err := l.next.put(document); err != nil {
			return err
		}
	}
	return nil
}

// follows says why a head may not be put in force.
func (l *lane) follows(h head, environment string) error {
	switch {
	case h.environment != environment:
		return errEnvironment
	case h.epoch < l.head.epoch, h.epoch == l.head.epoch && h.revision < l.head.revision:
		return errOlder
	case h.epoch == l.head.epoch && h.revision == l.head.revision && !bytes.Equal(h.digest, l.head.digest):
		return errFork
	}
	return nil
}

// verifyHead takes a SignedHead of a snapshot that has these documents.
func (t *trust) verifyHead(signed []byte, d documents) (head, error) {
	m, err := parse(signed)
	if err != nil {
		return head{}, err
	}
	if err := t.verify("sallyport head", m.bytes(1), m.bytes(2), m.bytes(3)); err != nil {
		return head{}, err
	}
	s, err := parse(m.bytes(1))
	h := head{
		environment: string(s.bytes(2)), epoch: s.number(1), revision: s.number(3), documents: s.number(6),
		root: s.bytes(5), digest: sum(m.bytes(1)),
	}
	switch {
	case err != nil || !s.known(6) || h.epoch < 1 || h.revision < 1 || len(h.root) != 32:
		return head{}, errStatement
	case !bytes.Equal(h.root, d.root()) || h.documents != uint64(len(d)):
		return head{}, errRoot
	}
	return h, t.verifyCounts(h, m, d)
}

// verifyCounts compares the counts that stand beside a head, if they do.
func (t *trust) verifyCounts(h head, signed message, d documents) error {
	counts := signed.bytes(4)
	if len(counts) == 0 && len(signed.bytes(5)) == 0 {
		return nil
	}
	if err := t.verify("sallyport counts", counts, signed.bytes(5), signed.bytes(3)); err != nil {
		return err
	}
	m, err := parse(counts)
	if err != nil || !m.known(2) || !bytes.Equal(m.bytes(1), h.digest) {
		return errStatement
	}
	counted := map[string]uint64{}
	for _, b := range m.all(2) {
		k, err := parse(b)
		if err != nil {
			return err
		}
		counted[string(k.bytes(1))] = k.number(2)
	}
	if !maps.Equal(counted, d.counts()) {
		return errCounts
	}
	return nil
}

// confirm takes a SignedFreshness.
func (p *proxy) confirm(signed []byte) error {
	m, err := parse(signed)
	if err != nil {
		return err
	}
	if err := p.verify("sallyport freshness", m.bytes(1), m.bytes(2), m.bytes(3)); err != nil {
		return err
	}
	s, err := parse(m.bytes(1))
	if err != nil || !s.known(5) {
		return errStatement
	}
	l := p.lanes[string(s.bytes(2))]
	switch {
	case l == nil:
		return errEnvironment
	case s.number(1) != l.head.epoch || s.number(3) != l.head.revision:
		return nil // of another snapshot: the simplest of proxies leaves it alone
	case !bytes.Equal(s.bytes(4), l.head.digest):
		return errFork
	}
	at, err := parse(s.bytes(5))
	if err == nil {
		l.confirmed = max(l.confirmed, at.number(1))
	}
	return err
}

// ack returns the Ack of a lane of which nothing was rejected.
func (l *lane) ack() []byte {
	b := appendNumber(nil, 1, l.head.epoch)
	b = appendNumber(b, 2, l.head.revision)
	b = appendBytes(b, 3, l.head.digest)
	b = appendBytes(b, 4, l.documents.root())
	return appendBytes(b, 5, l.documents.root())
}
