-- +goose Up

-- The one row of fleet orders commits: whoever makes a revision holds its lock.
create table fleet (
    singleton boolean not null default true,
    epoch bigint not null,
    revision bigint not null,
    constraint fleet_pkey primary key (singleton),
    constraint fleet_singleton_check check (singleton),
    constraint fleet_epoch_check check (epoch >= 1),
    constraint fleet_revision_check check (revision >= 0)
);
insert into fleet (epoch, revision) values (1, 0);

create table revision (
    revision bigint not null,
    committed_at timestamptz not null,
    caller text not null,
    message text not null,
    changes integer not null,
    environments text[] not null,
    constraint revision_pkey primary key (revision)
);

create table environment_revision (
    environment text collate "C" not null,
    revision bigint not null,
    constraint environment_revision_pkey primary key (environment, revision),
    constraint environment_revision_revision_fkey foreign key (revision) references revision (revision)
);

-- Every version of every resource. A version is current at a revision R when
-- revision <= R and superseded_by is null or greater than R.
create table resource_version (
    kind text collate "C" not null,
    namespace text collate "C" not null,
    name text collate "C" not null,
    revision bigint not null,
    superseded_by bigint,
    deleted boolean not null,
    all_environments boolean not null,
    environments text[] not null,
    document bytea not null,
    digest bytea not null,
    constraint resource_version_pkey primary key (kind, namespace, name, revision),
    constraint resource_version_revision_fkey foreign key (revision) references revision (revision)
);
create unique index resource_version_current on resource_version (kind, namespace, name) where superseded_by is null;
create index resource_version_by_revision on resource_version (revision);

create table environment_head (
    environment text collate "C" not null,
    revision bigint not null,
    epoch bigint not null,
    digest bytea not null,
    head bytea not null,
    signature bytea not null,
    constraint environment_head_pkey primary key (environment, epoch, revision)
);

create table publisher (
    singleton boolean not null default true,
    term bigint not null,
    holder text not null,
    constraint publisher_pkey primary key (singleton),
    constraint publisher_singleton_check check (singleton)
);
insert into publisher (term, holder) values (0, '');

create table publish_cursor (
    target text collate "C" not null,
    environment text collate "C" not null,
    revision bigint not null,
    term bigint not null,
    constraint publish_cursor_pkey primary key (target, environment)
);

create table proxy (
    id text collate "C" not null,
    spiffe_id text not null,
    instance text not null,
    environment text collate "C" not null,
    replica text not null,
    status bytea not null,
    registered_at timestamptz not null,
    last_seen timestamptz not null,
    constraint proxy_pkey primary key (id)
);
create index proxy_by_environment on proxy (environment, id);

-- Entries are chained: digest covers the entry and the digest before it.
create table audit_entry (
    sequence bigint not null,
    at timestamptz not null,
    caller text not null,
    action text not null,
    allowed boolean not null,
    revision bigint not null,
    detail text not null,
    previous bytea not null,
    digest bytea not null,
    constraint audit_entry_pkey primary key (sequence)
);
