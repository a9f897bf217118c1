-- +goose Up

-- What proxies have decided. Rows are written in bulk, never changed, and dropped
-- by the day.

-- Where the records of a proxy come from. Whoever holds the lock of a row adds the
-- records that follow its sequence, so that each is kept once.
create table decision_journal (
    id bigint generated always as identity,
    proxy text collate "C" not null,
    boot bytea not null,
    sequence bigint not null,
    updated_at timestamptz not null,
    constraint decision_journal_pkey primary key (id),
    constraint decision_journal_is_of_a_proxy unique (proxy, boot)
);

-- IDs are UUIDs of version 7: their order is that of time, and a range of them is a
-- day. There are no partitions yet: they are made as days come.
create table decision (
    id uuid not null,
    journal bigint not null,
    sequence bigint not null,
    environment text collate "C" not null,
    principal text collate "C" not null,
    route text collate "C" not null,
    allow boolean not null,
    reason text collate "C" not null,
    record bytea not null,
    constraint decision_pkey primary key (journal, sequence, id)
) partition by range (id);

create index decision_by_id on decision (id);
create index decision_by_principal on decision (principal, id) where principal <> '';
create index decision_by_route on decision (route, id) where route <> '';

-- Denials are few, and what most questions are about.
create index denial_by_id on decision (id) where not allow;
create index denial_by_principal on decision (principal, id) where not allow and principal <> '';
create index denial_by_route on decision (route, id) where not allow and route <> '';
