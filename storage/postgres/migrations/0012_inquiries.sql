-- +goose Up

-- What replicas ask each other of the proxies that have their streams there, and the
-- answers: code 0 with a result, or why there is none. A row lives for a few minutes.
create table inquiry (
    id bigint generated always as identity,
    replica text collate "C" not null,
    proxy text collate "C" not null,
    asked_at timestamptz not null default clock_timestamp(),
    answered boolean not null default false,
    code int not null default 0,
    reason text not null default '',
    result bytea not null default '',
    constraint inquiry_pkey primary key (id),
    constraint inquiry_result_bounded check (octet_length(result) <= 4194304)
);
