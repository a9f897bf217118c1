-- +goose Up

-- From which sequence on every state of the security lane can be read. Versions that
-- were superseded up to there may be gone.
alter table history add column security_begins bigint not null default 1;

create index security_version_superseded on security_version (superseded_by)
    where superseded_by is not null;
