package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

// Rows are locked in the order of their IDs, so that replicas that save the
// same proxies do not wait for each other in a circle.
const upsertProxies = `insert into proxy
		(id, spiffe_id, instance, environment, replica, status, registered_at, last_seen)
	select distinct on (p.id collate "C") p.id, p.spiffe_id, p.instance, p.environment, p.replica, p.status, p.registered_at, p.last_seen
	from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::timestamptz[], $8::timestamptz[])
		with ordinality as p (id, spiffe_id, instance, environment, replica, status, registered_at, last_seen, place)
	order by p.id collate "C", p.last_seen desc, p.place desc
	on conflict (id) do update set
		spiffe_id = excluded.spiffe_id,
		instance = excluded.instance,
		environment = excluded.environment,
		replica = excluded.replica,
		status = excluded.status,
		last_seen = excluded.last_seen
	where proxy.last_seen <= excluded.last_seen or proxy.replica = nullif($9, '')`

// SaveProxies implements storage.Fleet. All records are saved, or none.
func (s *Store) SaveProxies(ctx context.Context, replica string, proxies []storage.Proxy) error {
	n := len(proxies)
	if n == 0 {
		return nil
	}
	ids, spiffeIDs, instances := make([]string, n), make([]string, n), make([]string, n)
	environments, replicas, statuses := make([]string, n), make([]string, n), make([][]byte, n)
	registered, seen := make([]time.Time, n), make([]time.Time, n)
	for i, p := range proxies {
		ids[i], spiffeIDs[i], instances[i] = string(p.ID), p.SPIFFEID, p.Instance
		environments[i], replicas[i] = p.Environment, p.Replica
		statuses[i] = notNull(p.Status)
		registered[i], seen[i] = p.RegisteredAt, p.LastSeen
	}
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, upsertProxies, ids, spiffeIDs, instances, environments, replicas, statuses, registered, seen, replica)
			return err
		})
	})
}

const proxyColumns = `id, spiffe_id, instance, environment, replica, status, registered_at, last_seen`

func scanProxy(row pgx.CollectableRow) (storage.Proxy, error) {
	p, err := pgx.RowToStructByName[storage.Proxy](row)
	p.RegisteredAt, p.LastSeen = p.RegisteredAt.UTC(), p.LastSeen.UTC()
	return p, err
}

// Proxy implements storage.Fleet.
func (s *Store) Proxy(ctx context.Context, id storage.ProxyID) (p storage.Proxy, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, `select `+proxyColumns+` from proxy where id = $1`, id)
		if err != nil {
			return err
		}
		p, err = pgx.CollectExactlyOneRow(rows, scanProxy)
		return missing(err)
	})
	return p, err
}

// Proxies implements storage.Fleet.
func (s *Store) Proxies(ctx context.Context, environment string, after storage.Proxy, limit int) (proxies []storage.Proxy, err error) {
	const selectProxies = `select ` + proxyColumns + ` from proxy
		where ($1 = '' or environment = $1) and (environment, id) > ($2, $3)
		order by environment, id
		limit $4`
	err = s.do(ctx, func(ctx context.Context) error {
		proxies, err = collect(ctx, s.pool, scanProxy, selectProxies, environment, after.Environment, after.ID, limit)
		return err
	})
	return proxies, err
}
