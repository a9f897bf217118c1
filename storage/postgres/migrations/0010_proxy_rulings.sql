-- +goose Up

-- What operators have ruled of proxies: of a SPIFFE ID (approval, quarantined), or of
-- one process, whose ID has a "#" (draining, labels). The sequence is that of the
-- entry in the audit, which says who ruled so before. What was taken back stays for
-- a while as a row that says nothing, so that replicas read of it.
create table proxy_ruling (
    subject text collate "C" not null,
    approval text not null,
    quarantined boolean not null,
    draining boolean not null,
    labels jsonb not null,
    reason text not null,
    caller text not null,
    ruled_at timestamptz not null,
    sequence bigint not null,
    constraint proxy_ruling_pkey primary key (subject),
    constraint proxy_ruling_approval check (approval in ('', 'approved', 'refused'))
);

create index proxy_ruling_sequence on proxy_ruling (sequence);

-- For those that nobody has heard of for long.
create index proxy_last_seen on proxy (last_seen);
