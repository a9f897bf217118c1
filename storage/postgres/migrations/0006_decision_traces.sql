-- +goose Up

-- The trace that a request was in: 16 bytes; none for no trace, and from writers of
-- before.
alter table decision add column trace bytea not null default '';

-- Days that there are get no index, for which proxies would have to wait: hardly any
-- of their rows has a trace, and they are dropped in time. Days to come get it.
create index decision_by_trace on only decision (trace, id) where trace <> '';
