-- +goose Up

-- What keeps the publisher from bringing a lane to a target; the target is empty for
-- what keeps it from all of them. Without a row, nothing does.
create table publish_trouble (
    target text collate "C" not null,
    lane text collate "C" not null,
    since timestamptz not null,
    error text not null,
    constraint publish_trouble_pkey primary key (target, lane)
);
