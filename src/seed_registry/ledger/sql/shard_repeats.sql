-- shard_repeats
-- Save which keys of each shard occur more than once in the run.
insert into seed_registry.shard_repeats (run_id, index, shard, part, hashes)
select $1, repeats.index, repeats.shard, repeats.part, repeats.hashes
from unnest($2::pg_catalog.int4[], $3::pg_catalog.int4[], $4::pg_catalog.int4[], $5::pg_catalog.bytea[])
  as repeats (index, shard, part, hashes)
on conflict (run_id, index, shard, part) do update set hashes = excluded.hashes
