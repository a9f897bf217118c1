CREATE TABLE public.audit_chain (
    singleton boolean DEFAULT true NOT NULL,
    sequence bigint NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT audit_chain_has_one_row CHECK (singleton)
);

CREATE TABLE public.audit_entry (
    sequence bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    caller text NOT NULL,
    action text NOT NULL,
    allowed boolean NOT NULL,
    revision bigint NOT NULL,
    detail text NOT NULL,
    previous bytea NOT NULL,
    digest bytea NOT NULL
);

CREATE TABLE public.cookie_key (
    environment text NOT NULL COLLATE pg_catalog."C",
    id bytea NOT NULL,
    sealed bytea NOT NULL,
    starts_at timestamp with time zone NOT NULL
);

CREATE TABLE public.decision (
    id uuid NOT NULL,
    journal bigint NOT NULL,
    sequence bigint NOT NULL,
    environment text NOT NULL COLLATE pg_catalog."C",
    principal text NOT NULL COLLATE pg_catalog."C",
    route text NOT NULL COLLATE pg_catalog."C",
    allow boolean NOT NULL,
    reason text NOT NULL COLLATE pg_catalog."C",
    record bytea NOT NULL,
    trace bytea DEFAULT '\x'::bytea NOT NULL
)
PARTITION BY RANGE (id);

CREATE TABLE public.decision_journal (
    id bigint NOT NULL,
    proxy text NOT NULL COLLATE pg_catalog."C",
    boot bytea NOT NULL,
    sequence bigint NOT NULL,
    updated_at timestamp with time zone NOT NULL
);

ALTER TABLE public.decision_journal ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.decision_journal_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.environment (
    name text NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE public.environment_head (
    environment text NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL,
    epoch bigint NOT NULL,
    digest bytea NOT NULL,
    head bytea NOT NULL,
    signature bytea NOT NULL,
    key_id bytea DEFAULT '\x'::bytea NOT NULL
);

CREATE TABLE public.environment_revision (
    environment text NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL
);

CREATE TABLE public.fleet (
    singleton boolean DEFAULT true NOT NULL,
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT fleet_epoch_from_one CHECK ((epoch >= 1)),
    CONSTRAINT fleet_has_one_row CHECK (singleton),
    CONSTRAINT fleet_revision_from_zero CHECK ((revision >= 0))
);

CREATE TABLE public.history (
    singleton boolean DEFAULT true NOT NULL,
    begins bigint NOT NULL,
    security_begins bigint DEFAULT 1 NOT NULL,
    CONSTRAINT history_begins_from_one CHECK ((begins >= 1)),
    CONSTRAINT history_has_one_row CHECK (singleton)
);

CREATE TABLE public.inquiry (
    id bigint NOT NULL,
    replica text NOT NULL COLLATE pg_catalog."C",
    proxy text NOT NULL COLLATE pg_catalog."C",
    asked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    answered boolean DEFAULT false NOT NULL,
    code integer DEFAULT 0 NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    result bytea DEFAULT '\x'::bytea NOT NULL,
    CONSTRAINT inquiry_result_bounded CHECK ((octet_length(result) <= 4194304))
);

ALTER TABLE public.inquiry ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.inquiry_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.kept_state (
    environment text NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL
);

CREATE TABLE public.key_set (
    generation bigint NOT NULL,
    key_set bytea NOT NULL,
    signature bytea NOT NULL,
    key_id bytea NOT NULL,
    made_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT key_set_generation_from_one CHECK ((generation >= 1))
);

CREATE TABLE public.outcome (
    id uuid NOT NULL,
    journal bigint NOT NULL,
    sequence bigint NOT NULL,
    record bytea NOT NULL
)
PARTITION BY RANGE (id);

CREATE TABLE public.proxy (
    id text NOT NULL COLLATE pg_catalog."C",
    spiffe_id text NOT NULL,
    instance text NOT NULL,
    environment text NOT NULL COLLATE pg_catalog."C",
    replica text NOT NULL,
    status bytea NOT NULL,
    registered_at timestamp with time zone NOT NULL,
    last_seen timestamp with time zone NOT NULL
);

CREATE TABLE public.proxy_ruling (
    subject text NOT NULL COLLATE pg_catalog."C",
    approval text NOT NULL,
    quarantined boolean NOT NULL,
    draining boolean NOT NULL,
    labels jsonb NOT NULL,
    reason text NOT NULL,
    caller text NOT NULL,
    ruled_at timestamp with time zone NOT NULL,
    sequence bigint NOT NULL,
    CONSTRAINT proxy_ruling_approval CHECK ((approval = ANY (ARRAY[''::text, 'approved'::text, 'refused'::text])))
);

CREATE TABLE public.publish_cursor (
    target text NOT NULL COLLATE pg_catalog."C",
    environment text NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL,
    term bigint NOT NULL
);

CREATE TABLE public.publish_trouble (
    target text NOT NULL COLLATE pg_catalog."C",
    lane text NOT NULL COLLATE pg_catalog."C",
    since timestamp with time zone NOT NULL,
    error text NOT NULL
);

CREATE TABLE public.publisher (
    singleton boolean DEFAULT true NOT NULL,
    term bigint NOT NULL,
    holder text NOT NULL,
    CONSTRAINT publisher_has_one_row CHECK (singleton)
);

CREATE TABLE public.replica (
    name text NOT NULL COLLATE pg_catalog."C",
    streams bigint NOT NULL,
    since timestamp with time zone NOT NULL,
    heard_at timestamp with time zone NOT NULL
);

CREATE TABLE public.resource_version (
    kind text NOT NULL COLLATE pg_catalog."C",
    namespace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL,
    superseded_by bigint,
    deleted boolean NOT NULL,
    all_environments boolean NOT NULL,
    environments text[] NOT NULL COLLATE pg_catalog."C",
    document bytea,
    digest bytea,
    CONSTRAINT resource_version_deleted_is_empty CHECK (((NOT deleted) OR ((document IS NULL) AND (digest IS NULL) AND (NOT all_environments) AND (environments = '{}'::text[])))),
    CONSTRAINT resource_version_has_document CHECK ((deleted OR ((document IS NOT NULL) AND (digest IS NOT NULL) AND (octet_length(digest) = 32)))),
    CONSTRAINT resource_version_scope_is_one CHECK (((NOT all_environments) OR (environments = '{}'::text[]))),
    CONSTRAINT resource_version_superseded_later CHECK ((superseded_by > revision))
);

CREATE TABLE public.revision (
    revision bigint NOT NULL,
    committed_at timestamp with time zone NOT NULL,
    caller text NOT NULL,
    message text NOT NULL,
    changes integer NOT NULL,
    id uuid DEFAULT gen_random_uuid(),
    CONSTRAINT revision_from_one CHECK ((revision >= 1))
);

CREATE TABLE public.revision_annotation (
    revision bigint NOT NULL,
    labels jsonb NOT NULL,
    note text NOT NULL,
    CONSTRAINT revision_annotation_labels_are_an_object CHECK ((jsonb_typeof(labels) = 'object'::text))
);

CREATE TABLE public.schema_floor (
    singleton boolean DEFAULT true NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT schema_floor_from_one CHECK ((version >= 1)),
    CONSTRAINT schema_floor_has_one_row CHECK (singleton)
);

CREATE TABLE public.security_lane (
    singleton boolean DEFAULT true NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT security_lane_has_one_row CHECK (singleton),
    CONSTRAINT security_lane_revision_from_one CHECK ((revision >= 1))
);

CREATE TABLE public.security_revision (
    revision bigint NOT NULL,
    committed_at timestamp with time zone NOT NULL,
    caller text NOT NULL,
    message text NOT NULL,
    changes integer NOT NULL,
    id uuid DEFAULT gen_random_uuid(),
    CONSTRAINT security_revision_from_one CHECK ((revision >= 1))
);

CREATE TABLE public.security_version (
    kind text NOT NULL COLLATE pg_catalog."C",
    namespace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL,
    superseded_by bigint,
    deleted boolean NOT NULL,
    all_environments boolean NOT NULL,
    environments text[] NOT NULL COLLATE pg_catalog."C",
    document bytea,
    digest bytea,
    CONSTRAINT security_version_deleted_is_empty CHECK (((NOT deleted) OR ((document IS NULL) AND (digest IS NULL)))),
    CONSTRAINT security_version_has_document CHECK ((deleted OR ((document IS NOT NULL) AND (digest IS NOT NULL) AND (octet_length(digest) = 32)))),
    CONSTRAINT security_version_is_everywhere CHECK (((all_environments <> deleted) AND (environments = '{}'::text[]))),
    CONSTRAINT security_version_superseded_later CHECK ((superseded_by > revision))
);

CREATE TABLE public.sighting (
    environment text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    digest bytea NOT NULL,
    witness text NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    CONSTRAINT sighting_is_of_a_head_or_none CHECK ((octet_length(digest) = ANY (ARRAY[0, 32])))
);

ALTER TABLE ONLY public.audit_chain
    ADD CONSTRAINT audit_chain_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.audit_entry
    ADD CONSTRAINT audit_entry_pkey PRIMARY KEY (sequence);

ALTER TABLE ONLY public.cookie_key
    ADD CONSTRAINT cookie_key_pkey PRIMARY KEY (environment, id);

ALTER TABLE ONLY public.decision_journal
    ADD CONSTRAINT decision_journal_is_of_a_proxy UNIQUE (proxy, boot);

ALTER TABLE ONLY public.decision_journal
    ADD CONSTRAINT decision_journal_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.decision
    ADD CONSTRAINT decision_pkey PRIMARY KEY (journal, sequence, id);

ALTER TABLE ONLY public.environment_head
    ADD CONSTRAINT environment_head_pkey PRIMARY KEY (environment, revision);

ALTER TABLE ONLY public.environment
    ADD CONSTRAINT environment_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.environment_revision
    ADD CONSTRAINT environment_revision_pkey PRIMARY KEY (environment, revision);

ALTER TABLE ONLY public.fleet
    ADD CONSTRAINT fleet_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.history
    ADD CONSTRAINT history_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.inquiry
    ADD CONSTRAINT inquiry_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.kept_state
    ADD CONSTRAINT kept_state_pkey PRIMARY KEY (environment, revision);

ALTER TABLE ONLY public.key_set
    ADD CONSTRAINT key_set_pkey PRIMARY KEY (generation);

ALTER TABLE ONLY public.outcome
    ADD CONSTRAINT outcome_pkey PRIMARY KEY (journal, sequence, id);

ALTER TABLE ONLY public.proxy
    ADD CONSTRAINT proxy_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.proxy_ruling
    ADD CONSTRAINT proxy_ruling_pkey PRIMARY KEY (subject);

ALTER TABLE ONLY public.publish_cursor
    ADD CONSTRAINT publish_cursor_pkey PRIMARY KEY (target, environment);

ALTER TABLE ONLY public.publish_trouble
    ADD CONSTRAINT publish_trouble_pkey PRIMARY KEY (target, lane);

ALTER TABLE ONLY public.publisher
    ADD CONSTRAINT publisher_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.replica
    ADD CONSTRAINT replica_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.resource_version
    ADD CONSTRAINT resource_version_pkey PRIMARY KEY (kind, namespace, name, revision);

ALTER TABLE ONLY public.revision_annotation
    ADD CONSTRAINT revision_annotation_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY public.revision
    ADD CONSTRAINT revision_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY public.schema_floor
    ADD CONSTRAINT schema_floor_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.security_lane
    ADD CONSTRAINT security_lane_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.security_revision
    ADD CONSTRAINT security_revision_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY public.security_version
    ADD CONSTRAINT security_version_pkey PRIMARY KEY (kind, namespace, name, revision);

ALTER TABLE ONLY public.sighting
    ADD CONSTRAINT sighting_pkey PRIMARY KEY (environment, epoch, revision, digest);

CREATE INDEX decision_by_id ON ONLY public.decision USING btree (id);

CREATE INDEX decision_by_principal ON ONLY public.decision USING btree (principal, id) WHERE (principal <> ''::text);

CREATE INDEX decision_by_route ON ONLY public.decision USING btree (route, id) WHERE (route <> ''::text);

CREATE INDEX decision_by_trace ON ONLY public.decision USING btree (trace, id) WHERE (trace <> '\x'::bytea);

CREATE INDEX denial_by_id ON ONLY public.decision USING btree (id) WHERE (NOT allow);

CREATE INDEX denial_by_principal ON ONLY public.decision USING btree (principal, id) WHERE ((NOT allow) AND (principal <> ''::text));

CREATE INDEX denial_by_route ON ONLY public.decision USING btree (route, id) WHERE ((NOT allow) AND (route <> ''::text));

CREATE INDEX environment_revision_revision ON public.environment_revision USING btree (revision);

CREATE INDEX outcome_by_id ON ONLY public.outcome USING btree (id);

CREATE INDEX proxy_environment ON public.proxy USING btree (environment, id);

CREATE INDEX proxy_last_seen ON public.proxy USING btree (last_seen);

CREATE INDEX proxy_ruling_sequence ON public.proxy_ruling USING btree (sequence);

CREATE UNIQUE INDEX resource_version_newest ON public.resource_version USING btree (kind, namespace, name) WHERE (superseded_by IS NULL);

CREATE INDEX resource_version_revision ON public.resource_version USING btree (revision);

CREATE INDEX resource_version_superseded ON public.resource_version USING btree (superseded_by) WHERE (superseded_by IS NOT NULL);

CREATE INDEX revision_annotation_labels ON public.revision_annotation USING gin (labels);

CREATE UNIQUE INDEX security_version_newest ON public.security_version USING btree (kind, namespace, name) WHERE (superseded_by IS NULL);

CREATE INDEX security_version_revision ON public.security_version USING btree (revision);

CREATE INDEX security_version_superseded ON public.security_version USING btree (superseded_by) WHERE (superseded_by IS NOT NULL);

ALTER TABLE ONLY public.environment_head
    ADD CONSTRAINT environment_head_revision_fkey FOREIGN KEY (environment, revision) REFERENCES public.environment_revision(environment, revision);

ALTER TABLE ONLY public.environment_revision
    ADD CONSTRAINT environment_revision_environment_fkey FOREIGN KEY (environment) REFERENCES public.environment(name);

ALTER TABLE ONLY public.publish_cursor
    ADD CONSTRAINT publish_cursor_revision_fkey FOREIGN KEY (environment, revision) REFERENCES public.environment_revision(environment, revision);

ALTER TABLE ONLY public.revision_annotation
    ADD CONSTRAINT revision_annotation_revision_fkey FOREIGN KEY (revision) REFERENCES public.revision(revision);
