-- The ledger: what ran, how it ended, and how far a run that did not end came. This program's own schema.

create schema if not exists seed_registry;

create table if not exists seed_registry.runs (
  run_id      text primary key,
  -- what was asked for: a run with the same key and another ending than done is taken up again
  key         text not null,
  indexes     text[] not null,
  started_at  timestamptz not null default now(),
  resumed     int not null default 0,
  finished_at timestamptz,
  outcome     text not null default 'running',
  error       text,
  rejects     text,
  report      jsonb
);
do $$ begin
  if pg_catalog.to_regclass('seed_registry.runs_key_idx') is null then
    create index runs_key_idx on seed_registry.runs (key, started_at);
  end if;
end $$;

create table if not exists seed_registry.checkpoints (
  run_id   text not null references seed_registry.runs on delete cascade,
  index    text not null,
  -- assets travel in as many lanes as there are workers, by the hash of their key; with other workers what earlier ones
  -- said stays true; -1: the whole index is loaded. Of 0 lanes: batches of sources, of -1: parts of batches
  lane     int not null,
  lanes    int not null,
  -- where the last asset begins up to which everything of this lane was committed; -1 is no place
  line     bigint not null,
  "offset" bigint not null,
  -- how many assets of the index begin no later
  assets   bigint not null,
  -- the file as it was, and a hash of as much of it as was read
  size     bigint not null,
  modified bigint not null,
  consumed bigint not null,
  digest   bytea not null,
  saved_at timestamptz not null default now(),
  -- tells the last batch from every other one of the run: whether a COMMIT was done whose answer was lost
  batch    bigint not null default 0,
  -- what became of the lane's assets, in all attempts of the run
  inserted  bigint not null default 0,
  updated   bigint not null default 0,
  unchanged bigint not null default 0,
  duplicate bigint not null default 0,
  resumed   bigint not null default 0,
  primary key (run_id, index, lanes, lane)
);
-- Checkpoints of an earlier version: no run of this one would go on from them.
do $$ begin
  if not exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'seed_registry.checkpoints'::pg_catalog.regclass and attname = 'batch' and not attisdropped
  ) then
    delete from seed_registry.checkpoints;
    alter table seed_registry.checkpoints
      drop column if exists whole,
      add column batch bigint not null default 0,
      add column inserted bigint not null default 0,
      add column updated bigint not null default 0,
      add column unchanged bigint not null default 0,
      add column duplicate bigint not null default 0,
      add column resumed bigint not null default 0,
      drop constraint checkpoints_pkey,
      add primary key (run_id, index, lanes, lane);
  end if;
end $$;
