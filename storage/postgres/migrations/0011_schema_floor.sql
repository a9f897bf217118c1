-- +goose Up

-- The one row that says from which version of the schema on builds can use this
-- database: those that know an earlier one only are refused. Whatever takes something
-- from them, or asks something of what they write, raises it, in a release after the
-- one that needs it no more.
create table schema_floor (
    singleton boolean not null default true,
    version bigint not null,
    constraint schema_floor_pkey primary key (singleton),
    constraint schema_floor_has_one_row check (singleton),
    constraint schema_floor_from_one check (version >= 1)
);

insert into schema_floor (version) values (11);
