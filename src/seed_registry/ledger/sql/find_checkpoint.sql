-- find_checkpoint
-- The checkpoint of a lane, once its last transaction has ended; the caller rolls back.
insert into seed_registry.checkpoints as existing
  (run_id, index, lanes, lane, line, "offset", assets, size, modified, consumed, digest)
values ($1, $2, $3, $4, 0, -1, 0, 0, 0, 0, '')
on conflict (run_id, index, shard, lanes, lane) do update set batch = existing.batch
returning batch
