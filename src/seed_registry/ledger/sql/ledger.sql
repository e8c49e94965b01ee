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
  report      jsonb,
  -- of a run by shards: when its coordinator was last at work; its workers end some time later
  seen_at     timestamptz,
  retired     bigint not null default 0,
  -- whether its changes are recorded: null (not), kept, pruned
  history     text,
  -- the run that it takes back
  undoes      text
);
alter table seed_registry.runs add column if not exists seen_at timestamptz;
-- how many assets it retired, committed with them
alter table seed_registry.runs add column if not exists retired bigint not null default 0;
alter table seed_registry.runs add column if not exists history text, add column if not exists undoes text;
do $$ begin
  if pg_catalog.to_regclass('seed_registry.runs_key_idx') is null then
    create index runs_key_idx on seed_registry.runs (key, started_at);
  end if;
end $$;

create table if not exists seed_registry.checkpoints (
  run_id   text not null references seed_registry.runs on delete cascade,
  index    text not null,
  -- the part of the index that a worker process loads; -1: of a run of one process, -2: repeated keys, by part
  shard    int not null default -1,
  -- which attempt to load the shard may write
  attempt  int not null default 0,
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
  returned  bigint not null default 0,
  older     bigint not null default 0,
  -- of the updated, rows that were newer than their records
  updated_by_older bigint not null default 0,
  primary key (run_id, index, shard, lanes, lane)
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
  if not exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'seed_registry.checkpoints'::pg_catalog.regclass and attname = 'shard' and not attisdropped
  ) then
    alter table seed_registry.checkpoints
      add column shard int not null default -1,
      add column attempt int not null default 0,
      drop constraint checkpoints_pkey,
      add primary key (run_id, index, shard, lanes, lane);
  end if;
end $$;
alter table seed_registry.checkpoints
  add column if not exists returned bigint not null default 0,
  add column if not exists older bigint not null default 0,
  add column if not exists updated_by_older bigint not null default 0;

-- Whose assets each run lists, noted before the first of them is looked up: what another run lists meanwhile is not
-- retired.
create table if not exists seed_registry.run_sources (
  run_id  text not null references seed_registry.runs on delete cascade,
  -- the schema of the tables, and the id there
  source  text not null,
  seen_at timestamptz not null default now(),
  primary key (run_id, source)
);
do $$ begin
  if pg_catalog.to_regclass('seed_registry.run_sources_source_idx') is null then
    create index run_sources_source_idx on seed_registry.run_sources (source);
  end if;
end $$;

-- The keys that a run with --retire lists, where another was at work when it had read them: 8 bytes each, by part.
create unlogged table if not exists seed_registry.listed_keys (
  run_id text not null, part int not null, hashes bytea not null, primary key (run_id, part)
);

-- What runs with history changed, row by row, each in the transaction of its change.
create table if not exists seed_registry.changes (
  id          bigint generated always as identity primary key,
  run_id      text not null,
  relation    text not null, -- sources or assets
  kind        text not null, -- inserted, updated, retired, returned, undone
  -- 1, but in the entry that stands for all assets which a run created that began without any
  rows        bigint not null default 1,
  -- the values of the fields of the table's unique key; empty in an entry for many rows
  key         text[] not null,
  provider    text,
  source_key  text,
  asset_key   text,
  fields      text[] not null,
  -- what these fields, and the content hash, were before, as texts; of a row that was deleted all; null of a new row
  before      jsonb,
  -- of the row afterwards, see docs/operations.md; null of one that was deleted
  hash        bytea,
  -- of a row that had not changed since such a run created it: that run, and the hash of the row then
  created_by   text,
  created_hash bytea
);
do $$ begin
  if pg_catalog.to_regclass('seed_registry.changes_run_idx') is null then
    -- The only one that begins with the run: the planner knows nothing yet of a run at work, and would take the wrong one.
    create index changes_run_idx on seed_registry.changes (run_id, relation, key, id);
    create index changes_key_idx on seed_registry.changes (asset_key, id) where asset_key is not null;
    create index changes_created_idx on seed_registry.changes (created_by, key) where created_by is not null;
  end if;
end $$;
-- The transactions in which runs that began without assets created some: these rows have that xmin until something
-- changes them, and that created_at.
create table if not exists seed_registry.created (
  at     timestamptz not null,
  xid    xid8 not null,
  run_id text not null,
  rows   bigint not null,
  primary key (at, xid)
);
do $$ begin
  if pg_catalog.to_regclass('seed_registry.created_run_idx') is null then
    create index created_run_idx on seed_registry.created (run_id, at, xid);
  end if;
end $$;
-- The changes that a run had made when an attempt of it ended, from an id up to another: they are shown from then on, in
-- this order.
create table if not exists seed_registry.change_sets (
  run_id   text not null,
  first_id bigint not null,
  last_id  bigint not null,
  ended_at timestamptz not null,
  primary key (run_id, last_id)
);
do $$ begin
  if pg_catalog.to_regclass('seed_registry.change_sets_ended_idx') is null then
    create unique index change_sets_ended_idx on seed_registry.change_sets (ended_at);
  end if;
end $$;

-- What a load has dropped from the assets of a schema, to be built again in this order; rows and drops are committed
-- together. Only the tables' owner writes here, for it is the owner who runs these definitions later.
create table if not exists seed_registry.deferred_indexes (
  schema     text not null,
  position   int not null,
  -- index or constraint
  kind       text not null,
  name       text not null,
  -- of an index the whole statement, of a constraint what follows its name
  definition text not null,
  -- the columns of a unique index
  key        text[],
  run_id     text not null,
  primary key (schema, position)
);
grant select on seed_registry.deferred_indexes to public;

-- A run by shards (docs/architecture.md): what its processes share. All of it is deleted with the end of the run.

create table if not exists seed_registry.shards (
  run_id   text not null references seed_registry.runs on delete cascade,
  -- the index by its position in the run, and the shard by its position in the index
  index    int not null,
  number   int not null,
  name     text not null,
  -- bytes of the file on disk
  first    bigint not null,
  last     bigint not null,
  -- what reads it, in this program's own encoding
  shard    bytea not null,
  -- its first one, and of the first shard what is known of the whole index, once all of it is scanned
  line     bigint,
  facts    bytea,
  -- planned, scanned, loaded
  state    text not null default 'planned',
  attempt  int not null default 0,
  worker   text,
  seen_at  timestamptz,
  -- what the scan and the load found, in this program's own encoding, and their counts for people
  scanned  bytea,
  loaded   bytea,
  counts   jsonb,
  primary key (run_id, index, number)
);
-- With --scheduler: the settings that its workers read here. They have the database's URL and headers from their own
-- environment: there is no secret in it.
create table if not exists seed_registry.shard_jobs (
  run_id   text primary key references seed_registry.runs on delete cascade,
  -- of this program; workers of another one do not load
  version  text not null,
  -- in this program's own encoding
  job      bytea not null
);
create table if not exists seed_registry.shard_rejects (
  run_id   text not null references seed_registry.runs on delete cascade,
  index    int not null,
  shard    int not null,
  number   int not null,
  "offset" bigint not null,
  -- of the rejects file; bytea, for text cannot hold a key with U+0000
  line     bytea not null,
  primary key (run_id, index, shard, number)
);
-- What a crash of the server empties is computed again.
create unlogged table if not exists seed_registry.shard_keys (
  run_id text not null, index int not null, shard int not null, part int not null,
  -- 8 bytes each, of all keys of the shard
  hashes bytea not null,
  primary key (run_id, part, index, shard)
);
create unlogged table if not exists seed_registry.shard_repeats (
  run_id text not null, index int not null, shard int not null, part int not null,
  -- those of them that occur more than once in the run
  hashes bytea not null,
  primary key (run_id, index, shard, part)
);
-- With --retire: what a loaded shard lists.
create unlogged table if not exists seed_registry.shard_listed (
  run_id text not null, index int not null, shard int not null, part int not null,
  -- 8 bytes each: the unique keys of records that went to the database, the asset keys of those that did not
  sent bytea not null, skipped bytea not null,
  primary key (run_id, part, index, shard)
);
create unlogged table if not exists seed_registry.parked (
  run_id text not null, part int not null, key_hash bigint not null, key text collate "C" not null,
  index int not null, "offset" bigint not null, shard int not null,
  asset bytea not null,
  primary key (run_id, part, key_hash, key, index, "offset", shard)
);
do $$ begin
  if exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'seed_registry.shard_keys'::pg_catalog.regclass and attname = 'hashes' and attstorage <> 'e'
  ) then
    -- hashes do not compress, and records are read once, a moment later
    alter table seed_registry.shard_keys alter column hashes set storage external;
    alter table seed_registry.shard_repeats alter column hashes set storage external;
    alter table seed_registry.parked alter column asset set storage external;
  end if;
  if exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'seed_registry.shard_listed'::pg_catalog.regclass and attname = 'sent' and attstorage <> 'e'
  ) then
    alter table seed_registry.shard_listed
      alter column sent set storage external, alter column skipped set storage external;
  end if;
end $$;
