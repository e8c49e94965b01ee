-- claim_lanes
-- Make the lanes of a shard those of one attempt: no batch of an earlier one commits any more.
insert into seed_registry.checkpoints as existing
  (run_id, shard, attempt, index, lanes, lane, line, "offset", assets, size, modified, consumed, digest)
select $1, $2, $3, lane.index, lane.lanes, lane.lane, 0, $7, 0, 0, 0, 0, ''
from unnest($4::pg_catalog.text[], $5::pg_catalog.int4[], $6::pg_catalog.int4[]) as lane (index, lanes, lane)
on conflict (run_id, index, shard, lanes, lane) do update set attempt = excluded.attempt
