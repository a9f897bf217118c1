-- +goose Up

-- Keys compare byte by byte, as in Go, so that pages and merges agree with it.

-- The one row of the fleet. Whoever holds its lock makes the next revision, so
-- that revisions are gapless and in the order of commit.
create table fleet (
    singleton boolean not null default true,
    epoch bigint not null,
    revision bigint not null,
    constraint fleet_pkey primary key (singleton),
    constraint fleet_has_one_row check (singleton),
    constraint fleet_epoch_from_one check (epoch >= 1),
    constraint fleet_revision_from_zero check (revision >= 0)
);

insert into fleet (epoch, revision) values (1, 0);

create table revision (
    revision bigint not null,
    committed_at timestamptz not null,
    caller text not null,
    message text not null,
    changes integer not null,
    constraint revision_pkey primary key (revision),
    constraint revision_from_one check (revision >= 1)
);

-- Every version of every resource. The state at a revision is what was made up
-- to it, was not superseded by then, and is no deletion. There is no reference to
-- revision: its check runs for each of 20,000 rows, with a plan that a session
-- may have made when there were few revisions, and then reads all of them.
create table resource_version (
    kind text collate "C" not null,
    namespace text collate "C" not null,
    name text collate "C" not null,
    revision bigint not null,
    superseded_by bigint,
    deleted boolean not null,
    all_environments boolean not null,
    environments text[] collate "C" not null,
    document bytea,
    digest bytea,
    constraint resource_version_pkey primary key (kind, namespace, name, revision),
    constraint resource_version_superseded_later check (superseded_by > revision),
    constraint resource_version_scope_is_one check (not all_environments or environments = '{}'),
    constraint resource_version_deleted_is_empty check (
        not deleted or document is null and digest is null and not all_environments and environments = '{}'),
    constraint resource_version_has_document check (
        deleted or document is not null and digest is not null and octet_length(digest) = 32)
);

-- The newest version of each key, of which there is one.
create unique index resource_version_newest on resource_version (kind, namespace, name)
    where superseded_by is null;

create index resource_version_revision on resource_version (revision);

-- Environments that exist or existed.
create table environment (
    name text collate "C" not null,
    constraint environment_pkey primary key (name)
);

-- The revisions that touch an environment.
create table environment_revision (
    environment text collate "C" not null,
    revision bigint not null,
    constraint environment_revision_pkey primary key (environment, revision),
    constraint environment_revision_environment_fkey foreign key (environment) references environment (name),
    constraint environment_revision_revision_fkey foreign key (revision) references revision (revision)
);

create index environment_revision_revision on environment_revision (revision);

create table environment_head (
    environment text collate "C" not null,
    revision bigint not null,
    epoch bigint not null,
    digest bytea not null,
    head bytea not null,
    signature bytea not null,
    constraint environment_head_pkey primary key (environment, revision),
    constraint environment_head_revision_fkey foreign key (environment, revision)
        references environment_revision (environment, revision)
);

-- The one publisher. A term is over when the row holds another.
create table publisher (
    singleton boolean not null default true,
    term bigint not null,
    holder text not null,
    constraint publisher_pkey primary key (singleton),
    constraint publisher_has_one_row check (singleton)
);

insert into publisher (term, holder) values (0, '');

-- How far the revisions of an environment were written to a target.
create table publish_cursor (
    target text collate "C" not null,
    environment text collate "C" not null,
    revision bigint not null,
    term bigint not null,
    constraint publish_cursor_pkey primary key (target, environment),
    constraint publish_cursor_revision_fkey foreign key (environment, revision)
        references environment_revision (environment, revision)
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

create index proxy_environment on proxy (environment, id);

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

-- The end of the chain of audit entries. Whoever holds its lock appends.
create table audit_chain (
    singleton boolean not null default true,
    sequence bigint not null,
    digest bytea not null,
    constraint audit_chain_pkey primary key (singleton),
    constraint audit_chain_has_one_row check (singleton)
);

insert into audit_chain (sequence, digest) values (0, decode(repeat('00', 32), 'hex'));
