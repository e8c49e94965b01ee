-- How far a lane is, in the transaction of its batch.
insert into seed_registry.checkpoints as existing
  (run_id, index, lane, lanes, line, "offset", assets, size, modified, consumed, digest)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (run_id, index, lanes, lane) do update set
  line = excluded.line, "offset" = excluded."offset", assets = excluded.assets,
  size = excluded.size, modified = excluded.modified, consumed = excluded.consumed, digest = excluded.digest,
  saved_at = pg_catalog.now();
