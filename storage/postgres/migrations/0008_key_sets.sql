-- +goose Up

-- Which keys sign for the fleet, from each generation on: a chain, each signed with a
-- key of the set before it. Before the first that is the key that proxies pin.
create table key_set (
    generation bigint not null,
    key_set bytea not null,
    signature bytea not null,
    key_id bytea not null,
    made_at timestamptz not null default clock_timestamp(),
    constraint key_set_pkey primary key (generation),
    constraint key_set_generation_from_one check (generation >= 1)
);

-- The key that signed a head; none in those of writers of before, which is the one
-- that proxies pin.
alter table environment_head add column key_id bytea not null default '';
