package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

const proxyColumns = "id, spiffe_id, instance, environment, replica, status, registered_at, last_seen"

func scanProxy(row pgx.CollectableRow) (p storage.Proxy, err error) {
	err = row.Scan((*string)(&p.ID), &p.SPIFFEID, &p.Instance, &p.Environment, &p.Replica, &p.Status, &p.RegisteredAt, &p.LastSeen)
	return p, err
}

// SaveProxies implements storage.Fleet.
func (s *Store) SaveProxies(ctx context.Context, proxies []storage.Proxy) error {
	if len(proxies) == 0 {
		return nil
	}
	batch := &pgx.Batch{}
	for _, p := range proxies {
		batch.Queue(`
			insert into proxy (`+proxyColumns+`) values ($1, $2, $3, $4, $5, $6, $7, $8)
			on conflict (id) do update set
				spiffe_id = excluded.spiffe_id, instance = excluded.instance, environment = excluded.environment,
				replica = excluded.replica, status = excluded.status, last_seen = excluded.last_seen
			where proxy.last_seen <= excluded.last_seen`,
			string(p.ID), p.SPIFFEID, p.Instance, p.Environment, p.Replica, p.Status, p.RegisteredAt, p.LastSeen)
	}
	return classify(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		return tx.SendBatch(ctx, batch).Close()
	}))
}

// Proxy implements storage.Fleet.
func (s *Store) Proxy(ctx context.Context, id storage.ProxyID) (storage.Proxy, error) {
	p, err := one(ctx, s.pool, scanProxy, "select "+proxyColumns+" from proxy where id = $1", string(id))
	if err != nil {
		return storage.Proxy{}, fmt.Errorf("proxy %s: %w", id, err)
	}
	return p, nil
}

// Proxies implements storage.Fleet.
func (s *Store) Proxies(ctx context.Context, environment string, after storage.Proxy, limit int) ([]storage.Proxy, error) {
	return collect(ctx, s.pool, scanProxy, `
		select `+proxyColumns+` from proxy
		where ($1 = '' or environment = $1) and (environment, id) > ($2, $3)
		order by environment, id
		limit $4`, environment, after.Environment, string(after.ID), limit)
}
