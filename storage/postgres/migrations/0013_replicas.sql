-- +goose Up

-- The replicas of the control plane that serve proxies, each with how many streams it
-- has and since when it is there without a break. One that has gone leaves its row for a
-- while.
create table replica (
    name text collate "C" not null,
    streams bigint not null,
    since timestamptz not null,
    heard_at timestamptz not null,
    constraint replica_pkey primary key (name)
);
