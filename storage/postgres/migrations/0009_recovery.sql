-- +goose Up

-- What tells a commit from another that got its number after the database was
-- set back. Those of before have none: a default for them would have every row
-- written anew.
alter table revision add column id uuid;
alter table revision alter column id set default gen_random_uuid();
alter table security_revision add column id uuid;
alter table security_revision alter column id set default gen_random_uuid();

-- Places in the history of the fleet that somebody has seen, and that this
-- database did not hold when it was told of them. While there is one of the
-- present epoch, or of a later one, nothing is committed and nothing published.
-- Those of earlier epochs stay, and say how these ended. The environment is
-- empty for a revision of the fleet that was seen by itself; then, and for a
-- sequence of the security lane that was, there is no digest of a head.
create table sighting (
    environment text collate "C" not null,
    epoch bigint not null,
    revision bigint not null,
    digest bytea not null,
    witness text not null,
    seen_at timestamptz not null,
    constraint sighting_pkey primary key (environment, epoch, revision, digest),
    constraint sighting_is_of_a_head_or_none check (octet_length(digest) in (0, 32))
);
