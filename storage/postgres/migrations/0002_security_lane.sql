-- +goose Up

-- The security lane: what is in force everywhere and at once. Its history has
-- tables of its own, of the same columns as the fleet's. In those of the fleet
-- every query that reads a state would have to pass over the other's versions:
-- there may be far more revocations, most of them expired, than there are
-- resources. So this migration changes no row that there is, either.

-- The one row of the lane. Whoever holds its lock makes the next sequence, and
-- waits for no commit of the fleet. The epoch is the fleet's.
create table security_lane (
    singleton boolean not null default true,
    revision bigint not null,
    constraint security_lane_pkey primary key (singleton),
    constraint security_lane_has_one_row check (singleton),
    constraint security_lane_revision_from_one check (revision >= 1)
);

create table security_revision (
    revision bigint not null,
    committed_at timestamptz not null,
    caller text not null,
    message text not null,
    changes integer not null,
    constraint security_revision_pkey primary key (revision),
    constraint security_revision_from_one check (revision >= 1)
);

create table security_version (
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
    constraint security_version_pkey primary key (kind, namespace, name, revision),
    constraint security_version_superseded_later check (superseded_by > revision),
    constraint security_version_is_everywhere check (all_environments <> deleted and environments = '{}'),
    constraint security_version_deleted_is_empty check (not deleted or document is null and digest is null),
    constraint security_version_has_document check (
        deleted or document is not null and digest is not null and octet_length(digest) = 32)
);

create unique index security_version_newest on security_version (kind, namespace, name)
    where superseded_by is null;

create index security_version_revision on security_version (revision);

-- Heads and cursors are kept like those of an environment, by a name that none
-- can have. Its revisions are not those of the fleet, so that the reference has
-- to go; whoever adds a row adds the revision in the same transaction.
alter table environment_revision drop constraint environment_revision_revision_fkey;

insert into environment (name) values ('@security');

-- It begins empty, so that a proxy always has a state of it.
insert into security_lane (revision) values (1);

insert into security_revision (revision, committed_at, caller, message, changes)
    values (1, now(), '', 'the beginning', 0);

insert into environment_revision (environment, revision) values ('@security', 1);
