-- +goose Up

-- What people say of revisions. It is no part of them: it changes.
create table revision_annotation (
    revision bigint not null,
    labels jsonb not null,
    note text not null,
    constraint revision_annotation_pkey primary key (revision),
    constraint revision_annotation_revision_fkey foreign key (revision) references revision (revision),
    constraint revision_annotation_labels_are_an_object check (jsonb_typeof(labels) = 'object')
);

create index revision_annotation_labels on revision_annotation using gin (labels);

-- The one row that says from which revision on every state can be read. Versions
-- that none of these has, and no kept state, may be gone.
create table history (
    singleton boolean not null default true,
    begins bigint not null,
    constraint history_pkey primary key (singleton),
    constraint history_has_one_row check (singleton),
    constraint history_begins_from_one check (begins >= 1)
);

insert into history (begins) values (1);

-- States before that which are kept: of an environment at one of its revisions, or
-- of the whole fleet where the environment is empty.
create table kept_state (
    environment text collate "C" not null,
    revision bigint not null,
    constraint kept_state_pkey primary key (environment, revision)
);

create index resource_version_superseded on resource_version (superseded_by)
    where superseded_by is not null;
