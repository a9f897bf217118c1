-- +goose Up

-- What session cookies of an environment are sealed with. Secrets are encrypted
-- with a key that is not in the database.
create table cookie_key (
    environment text collate "C" not null,
    id bytea not null,
    sealed bytea not null,
    starts_at timestamptz not null,
    constraint cookie_key_pkey primary key (environment, id)
);
