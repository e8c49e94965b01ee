-- save_checkpoint
-- Save the position of a lane and the outcomes of its records, in the transaction of its batch.
insert into seed_registry.checkpoints as existing
  (run_id, index, lane, lanes, line, "offset", assets, size, modified, consumed, digest, batch,
   inserted, updated, unchanged, duplicate, resumed, returned, older, updated_by_older)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
on conflict (run_id, index, shard, lanes, lane) do update set
  line = excluded.line, "offset" = excluded."offset", assets = excluded.assets,
  size = excluded.size, modified = excluded.modified, consumed = excluded.consumed, digest = excluded.digest,
  batch = excluded.batch,
  inserted = existing.inserted + excluded.inserted,
  updated = existing.updated + excluded.updated,
  unchanged = existing.unchanged + excluded.unchanged,
  duplicate = existing.duplicate + excluded.duplicate,
  resumed = existing.resumed + excluded.resumed,
  returned = existing.returned + excluded.returned,
  older = existing.older + excluded.older,
  updated_by_older = existing.updated_by_older + excluded.updated_by_older,
  saved_at = pg_catalog.now();
