-- complete_checkpoint
-- The checkpoints of an index that is loaded become one, of lane -1; what follows the place are counts not saved yet.
with lanes as (
  -- the answer to an earlier try may have been lost: then this is done
  delete from seed_registry.checkpoints where run_id = $1 and index = $2 and shard = -1 and batch <> $12
  returning inserted, updated, unchanged, duplicate, resumed, returned, older, updated_by_older
)
insert into seed_registry.checkpoints
  (run_id, index, lane, lanes, line, "offset", assets, size, modified, consumed, digest, batch,
   inserted, updated, unchanged, duplicate, resumed, returned, older, updated_by_older)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
  (coalesce(pg_catalog.sum(inserted), 0) + $13::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(updated), 0) + $14::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(unchanged), 0) + $15::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(duplicate), 0) + $16::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(resumed), 0) + $17::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(returned), 0) + $18::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(older), 0) + $19::pg_catalog.int8)::pg_catalog.int8,
  (coalesce(pg_catalog.sum(updated_by_older), 0) + $20::pg_catalog.int8)::pg_catalog.int8
from lanes
on conflict (run_id, index, shard, lanes, lane) do nothing;
