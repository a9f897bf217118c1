-- +goose Up

-- How requests ended that proxies let through, where that came in later than the
-- decision: what came in with it is in the record of the decision. A row belongs to
-- the decision with its ID of the same proxy, and is dropped on the same day.
create table outcome (
    id uuid not null,
    journal bigint not null,
    sequence bigint not null,
    record bytea not null,
    constraint outcome_pkey primary key (journal, sequence, id)
) partition by range (id);

create index outcome_by_id on outcome (id);
