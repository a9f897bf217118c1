package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Before makes the store call f before each transaction that writes.
func (s *Store) Before(f func()) { s.client.KV = before{s.client.KV, f} }

type before struct {
	clientv3.KV
	f func()
}

func (b before) Txn(ctx context.Context) clientv3.Txn { return txn{b.KV.Txn(ctx), b.f, false} }

type txn struct {
	clientv3.Txn
	f      func()
	writes bool
}

func (t txn) If(cs ...clientv3.Cmp) clientv3.Txn { t.Txn = t.Txn.If(cs...); return t }

func (t txn) Then(ops ...clientv3.Op) clientv3.Txn {
	for _, op := range ops {
		t.writes = t.writes || op.IsPut() || op.IsDelete()
	}
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t txn) Commit() (*clientv3.TxnResponse, error) {
	if t.writes {
		t.f()
	}
	return t.Txn.Commit()
}

// ReadEvery sets how often the feed reads everything, before Run.
func (f *Feed) ReadEvery(d time.Duration) { f.readEvery = d }
